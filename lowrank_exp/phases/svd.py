"""The phases of SVD training: into SVD form, and out of it to plain small layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.network.copying import copy_network
from lowrank_exp.phases.factorize import report_plan
from lowrank_exp.phases.made_factors import noted_subnormals, with_subnormals
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Prospect, Rehearsal
from lowrank_exp.rank import Plan
from lowrank_exp.svd_form import profile_svd, to_svd_, truncate_
from lowrank_exp.svd_form.convert import WantedRank


@dataclass(frozen=True, kw_only=True)
class ToSVD(Phase):
    """Put layers into SVD form, `U diag(s) V`; at full rank the network computes what it did.

    Args:
        decomposition: `conv`, `linear` and `layers`, as `to_svd_` takes them: channel, spatial and linear SVDs.
        rank: null: full; an integer; a fraction of the full rank, in (0, 1]; or a mapping of layers to these.
        layers: names or `re:` patterns; null: every layer that has an SVD form.
    """

    decomposition: Mapping[str, Any]
    rank: WantedRank | Mapping[str, WantedRank] = None
    layers: Sequence[str] | None = None

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        to_svd_(network, self.decomposition, self.rank, self.layers, example_input=example)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        to_svd_(network, self.decomposition, self.rank, self.layers, store=setting.svds, example_input=setting.example)
        return Done()

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        return _run_on_a_copy(self, network, setting)


@dataclass(frozen=True, kw_only=True)
class Truncate(Phase):
    """Cut off small singular values; plain layers remain.

    Exactly one of `energy`, `threshold` and `rank` says how many are kept; see `lowrank_exp.svd_form.truncate_`.

    Args:
        energy: the share of the sum of squares of a layer's singular values that is removed, in [0, 1).
        threshold: singular values up to it are removed.
        rank: a rank policy, called with the profiles of the forms; a policy that looks at data is refused.
        by: `resvd`, the singular values of the product, or `by_s`, the entries of s as they are.
        empty: a layer of which nothing would be kept: `keep_one`, or `refuse`.
        costly: a layer that would not get cheaper: `dense`, or `truncate` all the same.
    """

    energy: float | None = None
    threshold: float | None = None
    rank: Callable[..., Plan] | None = None
    by: str = "resvd"
    empty: str = "keep_one"
    costly: str = "dense"

    @property
    def remedy(self) -> str:
        return "Cut off less, or train on afterwards"

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self._truncate_(network, example)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        with noted_subnormals() as noted:
            plan = self._truncate_(network, setting.example)
        return with_subnormals(report_plan(plan, self.rank, network), noted)

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        return _run_on_a_copy(self, network, setting)

    def _truncate_(self, network: nn.Module, example: Tensor) -> Plan:
        ranks = None if self.rank is None else self.rank(profile_svd(network, example, self.by))
        return truncate_(
            network,
            ranks,
            energy=self.energy,
            threshold=self.threshold,
            by=self.by,
            empty=self.empty,
            costly=self.costly,
            example_input=example,
        )


def _run_on_a_copy(phase: ToSVD | Truncate, network: nn.Module, setting: Setting) -> Rehearsal:
    """These phases are short enough to be run."""
    network, seconds = copy_network(network), stopwatch()
    plan = phase.run_(network, setting).plan
    return Rehearsal(network, [("SVDs", seconds())], prospect=None if plan is None else Prospect.of(plan))
