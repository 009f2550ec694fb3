"""The dense network of a job, which all its figures are compared with: what it costs, and how good it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from lowrank_exp.files.results import PhaseResult
from lowrank_exp.job.timer import UNTIMED
from lowrank_exp.network.cost import network_cost
from lowrank_exp.network.shapes import by_shapes
from lowrank_exp.phases.phase import Phase

INITIAL = "initial"  # as phases call the network that the first one gets


@dataclass(frozen=True)
class Dense:
    """The dense network of a job.

    Args:
        phase: the one after which it is measured; `initial`: before the first one.
        costs: `macs`, `weights` and `parameters`.
        known: whether the network has weights to be measured by before the first phase.
        compressed: whether the network came compressed, so that only the shapes of the dense one are known.
    """

    phase: str
    costs: Mapping[str, int]
    known: bool
    compressed: bool

    @property
    def is_measured_first(self) -> bool:
        """Whether it is to be measured before the first phase."""
        return self.phase == INITIAL and self.known and not self.compressed

    def result(self, phases: Sequence[PhaseResult], epochs: Mapping[str, int]) -> PhaseResult:
        """What the result of the job says of it.

        Args:
            phases: what was measured, after phases or as `initial`.
            epochs: that phases have trained, by name, in order.
        """
        measured, reason = {phase.name: phase for phase in phases}.get(self.phase), self._why_not(epochs)
        if measured is None or reason:
            return PhaseResult(INITIAL, **self.costs, warnings=[reason or f"nothing was measured after {self.phase}"])
        same = all(getattr(measured, name) == cost for name, cost in self.costs.items())
        kept = measured if same else replace(measured, bytes=None, **UNTIMED)
        return replace(kept, **self.costs, values={}, warnings=[], missed=False)

    def _why_not(self, epochs: Mapping[str, int]) -> str:
        """Why there is no accuracy of a dense network that has learnt something; empty: there is one."""
        if self.compressed:
            return "model.weights has a compressed network, and the dense one is not at hand"
        if self.known:
            return ""
        if self.phase == INITIAL:
            return "it is not trained before it is compressed, and its weights are not from a file"
        names = list(epochs)
        until = names[: names.index(self.phase) + 1] if self.phase in names else names
        return "" if any(epochs[name] for name in until) else f"nothing has trained it before {self.phase}"


def dense_costs(network: nn.Module, example: Tensor) -> dict[str, int]:
    """MACs, weights and parameters of a network, by its shapes."""
    cost = by_shapes(network_cost, network, example)
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return {"macs": cost.macs, "weights": cost.weights, "parameters": parameters}


def find_dense_phase(phases: Mapping[str, Phase], method: Mapping[str, Any], known: bool) -> str:
    """The phase after which the network is the dense one, trained; `initial`: there is none.

    The one that the method's `dense` names, else the one named `dense`, else the first one if it leaves the network
    dense. A method that says `initial` means it where the network has weights of its own (`known`), or where a phase
    compresses it.

    Args:
        phases: in order.
        method: its configuration.
        known: whether the network that the first phase gets has weights that it was trained to.
    """
    named = method.get("dense")
    if named == INITIAL and (known or not all(phase.keeps_dense for phase in phases.values())):
        return INITIAL
    first = next(iter(phases))
    found = next((name for name in (named, "dense") if name in phases), None)
    return found or (first if phases[first].keeps_dense else INITIAL)
