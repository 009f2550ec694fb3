"""What a job prints: a row per phase as it ends, a row per layer, and where the result lies; or what it would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from lowrank_exp.files.exported import tell_exports
from lowrank_exp.files.results import PhaseResult, Result
from lowrank_exp.files.runtime_words import list_speeds, runtime_in_words
from lowrank_exp.text.estimate import Estimate, in_words
from lowrank_exp.text.plain_text import plain, plain_lines
from lowrank_exp.text.terminal import Terminal

if TYPE_CHECKING:  # a finished job is told of without torch
    from lowrank_exp.rank import Plan
    from lowrank_exp.rank.reachable import Reach

PHASE_COLUMNS = ("phase", "test %", "val %", "MACs", "weights", "parameters", "kB", "ms", "seconds")
LAYER_COLUMNS = ("layer", "decomposition", "rank", "MACs before", "after", "reason")
PLAN_COLUMNS = ("layer", "decomposition", "rank", "MACs before", "after", "weights after", "reason")
BUDGET_COLUMNS = ("budget", "smallest", "all decomposed", "largest")
TIME_COLUMNS = ("phase", "time", "most of it")
SPEED_COLUMNS = ("runtime", "dense ms", "small ms", "as fast")
LOST = {"weight_error": "weight err %", "response_error": "resp. err %", "accuracy_alone": "alone %"}  # of a layer
UNITS = {"macs": "MACs", "weights": "weights", "bytes": "bytes"}
SAME = ("threads", "device", "machine", "torch")  # conditions, told where they are not those of the run
WIDTH = 110  # of tables that go to a file


class Console:
    """Prints to the terminal; `progress` turns the lines that only tell of progress off."""

    def __init__(self, progress: bool) -> None:
        self.terminal = _make_terminal()
        if not self.terminal.is_terminal:
            self.terminal = _make_terminal(WIDTH)
        self.progress = progress

    def say(self, text: str) -> None:
        """One line of news, or several."""
        self.terminal.print(plain_lines(text), soft_wrap=True)

    def phase(self, number: int, of: int, name: str, told: str = "") -> None:
        """A phase begins; `told`: what it says of its choices."""
        if self.progress:
            self.say(f"[{number}/{of}] {name}" + (f": {told}" if told else ""))

    def row(self, phase: PhaseResult) -> None:
        """A phase has ended."""
        if self.progress:
            seconds = "from the store" if phase.stored else f"{phase.seconds:.1f} s"
            accuracy = "" if phase.accuracy is None else f"accuracy {phase.accuracy:.2%}, "
            macs = "" if phase.macs is None else f"{phase.macs:,} MACs, "
            self.say(f"      {phase.name}: {accuracy}{macs}{seconds}")
            for name, value in phase.values.items():
                self.say(f"        {name} {value:.4g}")
            for warning in phase.warnings:
                self.say(f"        warning: {warning}")

    def result(self, result: Result, path: Path) -> None:
        """The tables of phases and layers, what they warn of, then the path of the result."""
        phases = _make_table(PHASE_COLUMNS, left=1)
        named = {phase.name for phase in result.phases}
        for p in ([result.dense] if result.dense and result.dense.name not in named else []) + result.phases:
            _add_row(
                phases,
                p.name,
                _format_number(p.accuracy, 100, "{:.2f}"),
                _format_number(p.val_accuracy, 100, "{:.2f}"),
                *(_format_number(count, 1, "{:,}") for count in (p.macs, p.weights, p.parameters)),
                _format_number(p.bytes, 0.001, "{:,.1f}"),
                _format_number(p.latency_ms, 1, "{:.3f}"),
                "stored" if p.stored else _format_number(p.seconds, 1, "{:.1f}"),
            )
        lost = [name for name in LOST if any(getattr(layer, name) is not None for layer in result.layers)]
        layers = _make_table((*LAYER_COLUMNS[:-1], *map(LOST.__getitem__, lost), LAYER_COLUMNS[-1]), left=2)
        layers.columns[-1].justify = "left"
        layers.columns[-1].no_wrap = False
        for layer in result.layers:
            rank = "dense" if layer.rank is None else str(layer.rank)
            before, after = f"{layer.macs_before:,}", f"{layer.macs_after:,}"
            losses = [_format_number(getattr(layer, name), 100, "{:.2f}") for name in lost]
            _add_row(layers, layer.name, layer.decomposition or "-", rank, before, after, *losses, layer.reason)
        self.terminal.print(phases)
        if result.layers:
            self.terminal.print(layers)
        for p in result.phases:
            if speeds := list_speeds(p.values):
                self.speeds(p.name, speeds)
        if beside := _tell_beside_dense(result):
            self.say(beside)
        for line in _tell_indices(result.phases):
            self.say(line)
        if weakest := _tell_weakest_class(result.phases):
            self.say(weakest)
        for warning in result.told():
            self.say(f"warning: {warning}")
        if result.status != "ok":
            self.say(f"status: {result.status}")
        if lost:
            self.say("err %: relative squared error of a layer's weight, and of its responses on training images.")
        self.say("test %: accuracy on held-out images. MACs: per image, 1 multiply-accumulate = 1.")
        self.say("kB: 1,000 bytes of the file, everything in it. seconds: of the phase.")
        for line in (*_tell_latency(result), *_tell_conditions(result)):
            self.say(line)
        for line in (*tell_exports(path.parent, result.exports), str(path)):
            self.terminal.print(plain(line), soft_wrap=True)

    def speeds(self, phase: str, speeds: Sequence[tuple[str, float, float]]) -> None:
        """What the dense and the small network take in every runtime, the fastest small one first."""
        table = _make_table(SPEED_COLUMNS, left=1)
        for name, dense, small in sorted(speeds, key=lambda row: row[2]):
            _add_row(table, name, f"{dense:.4g}", f"{small:.4g}", f"{dense / small:.2f} x")
        self.say(f"{phase}: milliseconds of one forward pass before and after, medians, both timed in turn")
        self.terminal.print(table)

    def plan(self, phase: str, plan: Plan, remains: Mapping[str, Plan]) -> None:
        """The ranks that a phase would choose; below, what remains of the dense network, by what is counted."""
        layers = _make_table(PLAN_COLUMNS, left=2)
        layers.columns[-1].justify = "left"
        layers.columns[-1].no_wrap = False
        for name, layer in plan.layers.items():
            rank = "dense" if layer.rank is None else str(layer.rank)
            counts = (f"{count:,}" for count in (layer.macs_before, layer.macs_after, layer.weights_after))
            _add_row(layers, name, layer.decomposition or "-", rank, *counts, layer.reason)
        self.say(f"{phase}: the plan")
        self.terminal.print(layers)
        for counted, of in remains.items():
            shares = ", ".join(f"{of.remaining(what):.2%} of the {unit}" for what, unit in UNITS.items())
            self.say(f"{counted}: {shares} remain")
        if plan.predicted_ms is not None:
            self.say(f"time: {plan.predicted_ms:.4g} of {plan.dense_ms:.4g} ms, as the sum over the layers has it")
        self.base(phase, plan)

    def base(self, phase: str, plan: Plan) -> None:
        """What the budget of a plan is a fraction of, where that is not the dense network."""
        from lowrank_exp.rank.plan import DENSE

        if plan.of != DENSE:
            before = sum(layer.macs_before for layer in plan.layers.values())
            self.say(f"{phase}: budgets are fractions of {plan.of}: {before:,} MACs")

    def reachable(self, phase: str, budgets: Mapping[str, Reach], over: str) -> None:
        """The smallest and the largest budgets that can be met, as fractions of dense."""
        table = _make_table(BUDGET_COLUMNS, left=1)
        for what, reach in budgets.items():
            _add_row(table, f"rank.{what}", *(f"{share:.4f}" for share in reach))
        self.say(f"{phase}: budgets that can be met, over {'the convolutions' if over == 'conv' else 'all layers'}")
        self.terminal.print(table)

    def estimates(self, estimates: Sequence[Estimate], conditions: str) -> None:
        """The time of every phase and of all."""
        table = _make_table(TIME_COLUMNS, left=3)
        table.columns[-1].no_wrap = False
        for estimate in estimates:
            _add_row(table, estimate.phase, estimate.time, estimate.dominant)
        left = [estimate for estimate in estimates if not estimate.finished]
        seconds, at_least = sum(estimate.seconds for estimate in left), any(estimate.unknown for estimate in left)
        total = in_words(seconds, at_least) if left else "finished"
        _add_row(table, "all", total, "")
        self.terminal.print(table)
        self.say(f"time: a few steps and forward passes of each phase's network, timed here ({conditions}), times")
        self.say("their number. Nothing was trained.")


def _make_terminal(width: int | None = None) -> Terminal:
    """A terminal that finds no markup in what it prints."""
    return Terminal(width=width, markup=False, emoji=False, highlight=False)


def _add_row(table: Table, *cells: str) -> None:
    table.add_row(*map(plain, cells))


def _make_table(columns: tuple[str, ...], left: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return table


def _tell_beside_dense(result: Result) -> str:
    """What remains of the dense network, and the change of its accuracy, or why that is not known."""
    if result.dense is None or result.phases[-1].name == result.dense.name:
        return ""
    found = result.beside_dense()
    parts = [f"{found[f'{what}_ratio']:.2%} of the {UNITS[what]}" for what in UNITS if f"{what}_ratio" in found]
    remain = f"{' and '.join(parts)} remain, " if parts else ""
    change = found.get("accuracy_change")
    if change is None:
        return f"of the dense network {remain}its accuracy was not measured: {'; '.join(result.dense.warnings)}"
    return f"of the dense network ({result.dense.name}) {remain}accuracy {100 * change:+.2f} points"


def _tell_latency(result: Result) -> list[str]:
    """What the times of the table are, and those at other batch sizes."""
    last = next((phase for phase in reversed(result.phases) if phase.latency), None)
    if last is None:
        return []
    how = f"{result.environment['device']}, {runtime_in_words(last.runtime)}"
    first, *others = [one["batch_size"] for one in last.latency]
    lines = [f"ms: latency, median of one forward pass at batch {first} ({how})."]
    for place, size in enumerate(others, start=1):
        times = [
            f"{phase.name} {phase.latency[place]['median_ms']:.3f}"
            for phase in result.phases
            if phase.latency and "median_ms" in phase.latency[place]
        ]
        lines += [f"ms at batch {size}: {', '.join(times)}"] if times else []
    return lines


def _tell_conditions(result: Result) -> list[str]:
    """The phases from the store that were computed under other conditions than those of this run, and which."""
    here, lines = result.environment, []
    for phase in result.phases:
        there = phase.conditions
        differing = [name for name in SAME if there.get(name) != here.get(name)]
        other = [f"{name} {there.get(name)}" for name in differing]
        if phase.stored and there and other:
            lines.append(f"{phase.name}: from the store, computed with {', '.join(other)}")
    return lines


def _tell_indices(phases: Sequence[PhaseResult]) -> list[str]:
    """What an entropy coder makes of the indices of codebooks, phase by phase."""
    sizes = [
        (phase.name, *(phase.values.get(f"indices_{form}_bytes") for form in ("file", "packed"))) for phase in phases
    ]
    return [
        f"{name}: indices of codebooks take {here:,} bytes of the file, as packed bits {packed:,}"
        for name, here, packed in sizes
        if here is not None and packed is not None
    ]


def _tell_weakest_class(phases: Sequence[PhaseResult]) -> str:
    """The class of the lowest accuracy after the last phase, with what it had after the first; the first of equals."""
    measured = [phase for phase in phases if phase.class_accuracy]
    known = (
        {name: share for name, share in measured[-1].class_accuracy.items() if share is not None} if measured else {}
    )
    if not known:
        return ""
    name, before = min(known, key=known.__getitem__), measured[0].class_accuracy
    earlier = (
        f"; after {measured[0].name} {before[name]:.2%}" if len(measured) > 1 and before.get(name) is not None else ""
    )
    return f"weakest class: {name}, {known[name]:.2%} of its test images recognised{earlier}"


def _format_number(value: float | None, factor: int, form: str) -> str:
    return "-" if value is None else form.format(value * factor if factor != 1 else value)
