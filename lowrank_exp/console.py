"""What a job prints: a row per phase as it ends, a row per layer, and where the result lies."""

from pathlib import Path

from rich import box
from rich.console import Console as Terminal
from rich.table import Table

from lowrank_exp.results import PhaseResult, Result

PHASE_COLUMNS = ("phase", "test %", "val %", "MACs", "weights", "parameters", "kB", "ms", "seconds")
LAYER_COLUMNS = ("layer", "decomposition", "rank", "MACs before", "after", "reason")
WIDTH = 110  # of tables that go to a file


class Console:
    """Prints to the terminal; `progress` turns the lines that only tell of progress off."""

    def __init__(self, progress: bool) -> None:
        self.terminal = Terminal(highlight=False)
        if not self.terminal.is_terminal:
            self.terminal = Terminal(highlight=False, width=WIDTH)
        self.progress = progress

    def say(self, text: str) -> None:
        """One line of news."""
        self.terminal.print(text, markup=False)

    def phase(self, number: int, of: int, name: str) -> None:
        """A phase begins."""
        if self.progress:
            self.say(f"[{number}/{of}] {name}")

    def row(self, phase: PhaseResult) -> None:
        """A phase has ended."""
        if self.progress:
            accuracy = "" if phase.accuracy is None else f"accuracy {phase.accuracy:.2%}, "
            self.say(f"      {phase.name}: {accuracy}{phase.macs:,} MACs, {phase.seconds:.1f} s")

    def result(self, result: Result, path: Path) -> None:
        """The tables of phases and layers, then the path of the result."""
        phases = _table(PHASE_COLUMNS, left=1)
        for p in result.phases:
            phases.add_row(
                p.name,
                _number(p.accuracy, 100, "{:.2f}"),
                _number(p.val_accuracy, 100, "{:.2f}"),
                *(_number(count, 1, "{:,}") for count in (p.macs, p.weights, p.parameters)),
                _number(p.bytes, 0.001, "{:,.1f}"),
                _number(p.latency_ms, 1, "{:.3f}"),
                _number(p.seconds, 1, "{:.1f}"),
            )
        layers = _table(LAYER_COLUMNS, left=2)
        layers.columns[-1].justify = "left"
        layers.columns[-1].no_wrap = False
        for layer in result.layers:
            rank = "dense" if layer.rank is None else str(layer.rank)
            before, after = f"{layer.macs_before:,}", f"{layer.macs_after:,}"
            layers.add_row(layer.name, layer.decomposition or "-", rank, before, after, layer.reason)
        self.terminal.print(phases)
        self.terminal.print(layers)
        conditions = f"{result.environment['device']}, {result.environment['threads']} threads"
        batch = result.config.get("latency", {}).get("batch_size", 1)
        self.say("test %: accuracy on held-out images. MACs: per image, 1 multiply-accumulate = 1.")
        self.say("kB: 1,000 bytes of the file, everything in it.")
        self.say(f"ms: latency, median of one forward pass at batch {batch} ({conditions}). seconds: of the phase.")
        self.terminal.print(str(path), soft_wrap=True, markup=False)


def _table(columns: tuple[str, ...], left: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return table


def _number(value: float | None, factor: int, form: str) -> str:
    return "-" if value is None else form.format(value * factor if factor != 1 else value)
