"""What a job prints: a row per phase as it ends, a row per layer, and where the result lies; or what it would do.

A job of a sweep prints a line in their place.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lowrank_exp.files.exported import tell_exports
from lowrank_exp.files.results import PhaseResult, Result
from lowrank_exp.files.runtime_words import list_speeds, runtime_in_words
from lowrank_exp.job.ends import name_of_job, tell_result
from lowrank_exp.job.result_tables import COUNTS, FROM_STORE, layer_table, phase_table, speed_table
from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.text.columns import table_lines
from lowrank_exp.text.estimate import MINUTE, Estimate, in_words
from lowrank_exp.text.plain_text import plain, plain_lines
from lowrank_exp.text.terminal import PASSING, Terminal

if TYPE_CHECKING:  # a finished job is told of without torch
    from lowrank_exp.rank import Plan
    from lowrank_exp.rank.reachable import Reach

SAME = ("threads", "device", "machine", "torch")  # conditions, told where they are not those of the run
WIDTH = 110  # of tables that go to a file
FINISHED = "finished already; nothing is run again"


class Console:
    """Prints to the terminal.

    Args:
        progress: False turns the lines off that only tell of progress; true or `PASSING`, see `fit_`.
        line: what a line on the job begins with, which stands for its tables; None: the tables.
    """

    def __init__(self, progress: bool | str, line: str | None = None) -> None:
        self.terminal = _make_terminal()
        if not self.terminal.is_terminal:
            self.terminal = _make_terminal(WIDTH)
        self.progress, self.line = progress, line
        self.seconds = stopwatch()
        self.taken_over: list[str] = []  # of a line: what of the job has been there, and so is not in its seconds

    @classmethod
    def of_job(cls, cfg: DictConfig, hydra_cfg: DictConfig) -> Console:
        """That of a job as it is configured, by `verbose` and by whether it is one of a sweep."""
        name = name_of_job(hydra_cfg.overrides.task)
        if cfg.verbose or cfg.dry_run or (cfg.verbose is None and name is None):
            console = cls(cfg.progress)
            if name is not None:
                console.say(name)
            return console
        return cls(PASSING if cfg.progress and sys.stderr.isatty() else False, name or "")

    def say(self, text: str) -> None:
        """One line of news, or several."""
        self.terminal.print(plain_lines(text), soft_wrap=True)

    def phase(self, number: int, of: int, name: str, told: str = "") -> None:
        """A phase begins; `told`: what it says of its choices."""
        if self.progress and self.line is None:
            self.say(f"[{number}/{of}] {name}" + (f": {told}" if told else ""))

    def goes_on(self, phase: str, epochs: int, of: int) -> None:
        """A phase that was interrupted goes on from its checkpoint."""
        words = f"after epoch {epochs} of {of}"
        if self.line is None:
            self.say(f"{phase} goes on {words}")
        else:
            self.taken_over.append(f"{phase} {words}")

    def row(self, phase: PhaseResult) -> None:
        """A phase has ended. In a sweep it is told where it took more than a minute, for a sign of life."""
        seconds = FROM_STORE if phase.stored else f"{phase.seconds:.1f} s"
        if self.line is not None:
            if phase.stored:
                self.taken_over.append(f"{phase.name} {FROM_STORE}")
            if phase.stored or (phase.seconds or 0) < MINUTE:
                return
        elif not self.progress:
            return
        accuracy = "" if phase.accuracy is None else f"accuracy {phase.accuracy:.2%}, "
        macs = "" if phase.macs is None else f"{phase.macs:,} MACs, "
        self.say(f"      {phase.name}: {accuracy}{macs}{seconds}")
        for name, value in phase.values.items() if self.line is None else ():
            self.say(f"        {name} {value:.4g}")
        for warning in phase.warnings if self.line is None else ():
            self.say(f"        warning: {warning}")

    def nothing_to_do(self, phase: str) -> None:
        """A phase has found nothing to do."""
        if self.line is None:
            self.say(f"{phase}: nothing to do in this network")

    def finished(self) -> None:
        """The job had finished before."""
        if self.line is None:
            self.say(FINISHED)
        self.taken_over = [FROM_STORE]

    def result(self, result: Result, path: Path) -> None:
        """The tables of phases and layers, what they warn of, then the path of the result; or a line, and warnings."""
        if self.line is not None:
            begin = f"{self.line}: " if self.line else ""
            self.say(f"{begin}{tell_result(result)}; {self._tell_time(result)}")
            for warning in result.told():
                self.say(f"      warning: {warning}")
            return
        width = self.terminal.width
        self._print(phase_table(result, width))
        if result.layers:
            self._print(layer_table(result, width))
        self.say("")
        for p in result.phases:
            if speeds := list_speeds(p.values):
                self.say(f"{p.name}: milliseconds of one forward pass before and after, medians, both timed in turn")
                self._print(speed_table(speeds, width))
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
        self.say("test %: accuracy on held-out images. MACs: per image, 1 multiply-accumulate = 1.")
        self.say("kB: 1,000 bytes of the file, everything in it. seconds: of the phase.")
        for line in (*_tell_latency(result), *_tell_conditions(result)):
            self.say(line)
        for line in (*tell_exports(path.parent, result.exports), str(path)):
            self.terminal.print(plain(line), soft_wrap=True)

    def plan(self, phase: str, plan: Plan, remains: Mapping[str, Plan]) -> None:
        """The ranks that a phase would choose; below, what remains of the dense network, by what is counted."""
        from lowrank_exp.rank.plan_table import plan_table

        self.say(f"{phase}: the plan")
        self._print(plan_table(plan, self.terminal.width).splitlines())
        for counted, of in remains.items():
            shares = ", ".join(f"{of.remaining(what):.2%} of the {unit}" for what, unit in COUNTS.items())
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
        columns = ("smallest", "all decomposed", "largest")
        rows = [
            {"budget": f"rank.{what}"} | {name: f"{share:.4f}" for name, share in zip(columns, reach, strict=True)}
            for what, reach in budgets.items()
        ]
        self.say(f"{phase}: budgets that can be met, over {'the convolutions' if over == 'conv' else 'all layers'}")
        self._print(table_lines(rows, self.terminal.width).lines)

    def estimates(self, estimates: Sequence[Estimate], conditions: str) -> None:
        """The time of every phase and of all."""
        rows = [{"phase": one.phase, "time": one.time, "most of it": one.dominant} for one in estimates]
        left = [estimate for estimate in estimates if not estimate.finished]
        seconds, at_least = sum(estimate.seconds for estimate in left), any(estimate.unknown for estimate in left)
        total = {"phase": "all", "time": in_words(seconds, at_least) if left else "finished", "most of it": ""}
        self._print(table_lines(rows, self.terminal.width, total=total, left=("time",), words=("most of it",)).lines)
        self.say(f"time: a few steps and forward passes of each phase's network, timed here ({conditions}), times")
        self.say("their number. Nothing was trained.")

    def _tell_time(self, result: Result) -> str:
        """How long the job has taken, and what of it came from the store."""
        if self.taken_over == [FROM_STORE]:
            return FROM_STORE
        if all(phase.stored for phase in result.phases):
            return f"{self.seconds():.1f} s, every phase {FROM_STORE}"
        return ", ".join([f"{self.seconds():.1f} s", *self.taken_over])

    def _print(self, lines: Sequence[str]) -> None:
        """The lines of a table, with air above it."""
        self.terminal.print("\n".join(["", *lines]), soft_wrap=True)


def _make_terminal(width: int | None = None) -> Terminal:
    """A terminal that finds no markup in what it prints."""
    return Terminal(width=width, markup=False, emoji=False, highlight=False)


def _tell_beside_dense(result: Result) -> str:
    """What remains of the dense network, and the change of its accuracy, or why that is not known."""
    if result.dense is None or result.phases[-1].name == result.dense.name:
        return ""
    found = result.beside_dense()
    parts = [f"{found[f'{what}_ratio']:.2%} of the {COUNTS[what]}" for what in COUNTS if f"{what}_ratio" in found]
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
