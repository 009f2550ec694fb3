"""What is searched: overrides with an interval, a range or several values, in Hydra's own grammar.

rank.macs=interval(0.2,0.8)                               a number between two
regularizer.terms.hoyer.weight=tag(log,interval(1e-3,1))  likewise, on a logarithmic scale
finetune.epochs=int(interval(1,9))                        a whole one
pruning.filters=range(4,17,4)                             4, 8, 12 or 16
decomposition=channel_svd,spatial_svd                     one of these, in no order
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from lowrank_exp.command_line.deltas import allow_deltas

NOT_SEARCHED = {
    "seed": "the luckiest seed says nothing of the others. Give one, seed=0, and run what was found with several: "
    "-m seed=0,1,2",
    "control": "controls are compared with their rows. Run what was found with controls=true",
}
DIGITS = 4  # of a number that is drawn, as far as it stays in its interval


@dataclass(frozen=True)
class Space:
    """`fixed` overrides of every trial, and the searched ones: by key what they may be, and how they were `written`."""

    fixed: list[str]
    searched: dict[str, BaseDistribution]
    written: dict[str, str]

    def overrides_of(self, trial: Trial) -> list[str]:
        """The overrides of a trial, whose values are drawn here unless they were before."""
        drawn = [f"{key}={_word(_drawn(trial, key, over), over)}" for key, over in self.searched.items()]
        return [*self.fixed, *drawn]


def read_space(overrides: Sequence[str], loader: ConfigLoader | None = None) -> Space:
    """The space that overrides span; of those with the same key the last one counts.

    Raises:
        ValueError: nothing is searched, or what must not be.
    """
    every = OverridesParser.create(loader).parse_overrides(allow_deltas(overrides))
    parsed = {one.get_key_element(): one for one in every}
    fixed, searched, written = [], {}, {}
    for key, one in parsed.items():
        if not one.is_sweep_override():
            fixed.append(f"{key}={one.get_value_element_as_str()}" if not one.is_delete() else str(one.input_line))
            continue
        if key in NOT_SEARCHED:
            raise ValueError(f"{one.input_line} in a search: {NOT_SEARCHED[key]}")
        searched[key], written[key] = _distribution(one), str(one.input_line)
    if not searched:
        raise ValueError(
            "sweeper=optuna, and nothing is searched: give a key an interval or several values, such as "
            "'rank.macs=interval(0.2,0.8)'"
        )
    return Space(fixed, searched, written)


def _distribution(one: Override) -> BaseDistribution:
    sweep = one.value()
    if isinstance(sweep, IntervalSweep):
        if other := set(sweep.tags) - {"log"}:
            raise ValueError(f"{one.input_line}: tag {sorted(other)[0]} is not known; there is log")
        ends: Any = (sweep.start, sweep.end)
        log = "log" in sweep.tags
        if not ends[0] < ends[1] or (log and ends[0] <= 0):
            more = " and above 0, as its scale is logarithmic" if log else ""
            raise ValueError(f"{one.input_line}: an interval goes from a number to a larger one{more}")
        kind = IntDistribution if all(isinstance(end, int) for end in ends) else FloatDistribution
        return kind(*ends, log=log)
    words = list(one.sweep_string_iterator())
    if not words:
        raise ValueError(f"{one.input_line} gives no value: give it one or more")
    if isinstance(sweep, RangeSweep) and all(isinstance(end, int) for end in (sweep.start, sweep.stop, sweep.step)):
        numbers = sorted(map(int, words))
        return IntDistribution(numbers[0], numbers[-1], step=abs(int(sweep.step)))
    return CategoricalDistribution(words)


def _drawn(trial: Trial, key: str, over: BaseDistribution) -> Any:
    if isinstance(over, FloatDistribution):
        return trial.suggest_float(key, over.low, over.high, log=over.log)
    if isinstance(over, IntDistribution):
        return trial.suggest_int(key, over.low, over.high, step=over.step, log=over.log)
    assert isinstance(over, CategoricalDistribution)
    return trial.suggest_categorical(key, over.choices)


def _word(value: Any, over: BaseDistribution) -> str:
    """A value as an override has it."""
    if not isinstance(over, FloatDistribution):
        return str(value)
    short = float(f"{value:.{DIGITS}g}")
    return repr(short if over.low <= short <= over.high else value)
