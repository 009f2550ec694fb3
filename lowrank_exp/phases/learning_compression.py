"""Learning-compression (LC): training and the choice of ranks take turns until the weights are of low rank.

Legend: W weights, Theta the same at low rank, M multipliers, mu weight of the penalty, k step.
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.checks import is_number, whole
from lowrank_exp.decomposition import Decompositions, SVDDecomposition, recompose
from lowrank_exp.files.results import digest
from lowrank_exp.files.whole import check_sums, open_told, write_whole
from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.shapes import finite
from lowrank_exp.phases.factorize import report_plan
from lowrank_exp.phases.made_factors import noted_subnormals, with_subnormals
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal
from lowrank_exp.phases.train import Train
from lowrank_exp.rank import Plan, PlannedLayer, needs, profile
from lowrank_exp.rank.candidates import candidates
from lowrank_exp.regularizers import QuadraticPenalty, Regularizer, Weighted
from lowrank_exp.surgery import factorize_, replay_to_plan_
from lowrank_exp.training.checkpoint import DamagedCheckpointError

PENALTY = "lc"  # its name in the history: penalty_lc
HEAVIEST = 1e30  # a penalty's weight that numbers in single precision can still be multiplied by
APART = 0.01  # of the squared length of the weights: so far from low rank they are said to be so


@dataclass(frozen=True, kw_only=True)
class LearningCompression(Phase):
    r"""Bring a trained dense network to low rank, layer by layer at ranks that are chosen on the way; factors remain.

    .. math:: \min_{W, \Theta, r} \; L(W) + \lambda \sum_l C_l(r_l) \quad \text{such that} \quad
        W_l = \Theta_l, \; \text{rank}(\Theta_l) \le r_l

    by a penalty that grows, mu_k = mu growth^k. Theta starts as the C step of the given weights; then, for every k,

    .. math:: \text{L step: } & W = \arg\min_W L(W) + \frac{\mu_k}{2} \sum_l \|W_l - \Theta_l - M_l / \mu_k\|^2 \\
        \text{C step: } & r, \Theta = \arg\min \lambda C(r) +
        \frac{\mu_k}{2} \sum_l \|W_l - M_l / \mu_k - \Theta_l\|^2 \\
        \text{multipliers: } & M_l \leftarrow M_l - \mu_k (W_l - \Theta_l)

    The L step is a training from the weights at hand, with the penalty beside those that it has. The C step is exact:
    `rank` chooses the ranks, Theta is the truncated SVD at these. The policy `c_step` has the paper's price lambda, or
    a budget. In the end the network is factorized into the last Theta. Layers that `rank` may not decompose are trained
    without the penalty; one that it may and that the C step leaves dense has Theta = W - M / mu.

    The history has, beside what training writes, `step` (k), `mu`, the mean over the epoch of half the squared distance
    from Theta + M / mu (`penalty_lc`), and in the last epoch of a step what its C step left: `distance`, the squared
    distance of W from Theta relative to the squared norm of W, over all these layers, and `macs_remaining`, as the plan
    has it. A run that was interrupted goes on after its last finished epoch.

    Args:
        train: the L step: a training of `epochs` epochs, its schedule and momentum anew at every step.
        epochs: of one L step, in the place of those of `train`; at least 1.
        steps: how many L and C steps, at least 1.
        mu: weight of the penalty at the first step, above 0.
        growth: factor on mu from step to step, at least 1.
        multipliers: whether M is used (augmented Lagrangian); else it is 0 (quadratic penalty).
        decomposition: `conv` and `linear`, as `lowrank_exp.profile` takes them: SVDs.
        rank: called with the profiles, gives the plan; no policy that looks at data.

    Raises:
        ValueError: an argument out of range, a decomposition that is not an SVD, a policy that looks at data, or no
            layer that may be decomposed.

    Source: Idelbayev, Carreira-Perpinan 2020, "Low-rank compression of neural nets: learning the rank of each layer".

    Differs from the paper:
        1. Ranks under a budget, and by any policy; see also `c_step`.
        2. The learning rate is not cut to 1 / mu: keep it below that.
    """

    trains: ClassVar[bool] = True

    train: Train
    epochs: int
    steps: int
    mu: float
    growth: float
    decomposition: Mapping[str, Any]
    rank: Callable[..., Plan]
    multipliers: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "steps"):
            whole(name, getattr(self, name))
        for name, least, allowed in (("mu", 0.0, "above 0"), ("growth", 1.0, "of at least 1")):
            value = getattr(self, name)
            if not is_number(value) or not least <= value < math.inf or value == 0:
                raise ValueError(f"{name} must be a number {allowed}, got {value!r}")
        if math.log(self.mu) + (self.steps - 1) * math.log(self.growth) > math.log(HEAVIEST):
            raise ValueError(
                f"mu={self.mu:g}, multiplied by growth={self.growth:g} from step to step, passes {HEAVIEST:g} before "
                f"the last of {self.steps} steps: lower growth, or take fewer steps"
            )
        options = getattr(self.rank, "keywords", {})
        # Errors are known without a measurement: the C step takes decompositions by SVD alone.
        if looks_at := needs(options["policy"], options) - {"errors"} if "policy" in options else ():
            raise ValueError(
                f"the C step chooses ranks by the weights alone, and {options['policy']} looks at data "
                f"({', '.join(sorted(looks_at))}): take c_step or another policy"
            )

    @property
    def remedy(self) -> str:
        return self.train.remedy

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self.train.walk_(network, example)
        plan, _ = self.c_step(network, {}, self.mu, example)
        with finite(network):
            replay_to_plan_(network, plan)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        example = setting.example
        state = _State.read(setting.folder / "last.ckpt", network)
        if state is None:
            plan, theta = self.c_step(network, {}, self.mu, example)
            state = _State(0, theta, {name: torch.zeros_like(part) for name, part in theta.items()}, plan)
        if state.history and not (setting.folder / f"l_step_{state.step}" / "last.ckpt").exists():
            setting.on_resume(len(state.history), self.steps * self.epochs)
        for metrics in state.history:
            setting.on_epoch(metrics)
        for k in range(state.step):  # left over where it was killed right after a C step
            shutil.rmtree(setting.folder / f"l_step_{k}", ignore_errors=True)
        for k in range(state.step, self.steps):
            state = self._step(k, network, state, setting, example)
        for name, theta in state.theta.items():
            with torch.no_grad():
                network.get_submodule(name).weight.copy_(theta)
        done = replace(report_plan(state.plan, self.rank, network), history=state.history)
        with noted_subnormals() as noted:
            factorize_(network, state.plan, example_input=example)
        return with_subnormals(replace(done, warnings=[*done.warnings, *_apart(state.history)]), noted)

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        network = copy_network(network)
        state = _State.read(setting.folder / "last.ckpt", network)
        steps, seconds = self.steps - (0 if state is None else state.step), stopwatch()
        plan, theta = self.c_step(network, {}, self.mu, setting.example)
        seconds = seconds()
        training = self._l_step(self.mu, theta).rehearse(network, replace(setting, folder=setting.folder / "l_step"))
        parts = [(f"{steps} L steps of {what}", steps * each) for what, each in training.parts]
        with finite(network):
            replay_to_plan_(network, plan)
        parts.append((f"{steps} C steps and the factors", (steps + 1) * seconds))
        return Rehearsal(network, parts, same_weights=False, epochs=self.steps * self.epochs)

    def c_step(
        self, network: nn.Module, shifts: Mapping[str, Tensor], mu: float, example: Tensor
    ) -> tuple[Plan, dict[str, Tensor]]:
        """The plan, and Theta by layer, of the weights less `shifts` (M / mu; none: 0); `network` is not changed."""
        network = copy_network(network)
        with torch.no_grad():
            for name, shift in shifts.items():
                network.get_submodule(name).weight.sub_(shift)
        decompositions = Decompositions.of(self.decomposition)
        layers = profile(network, example, decompositions)
        priced = getattr(self.rank, "keywords", {}).get("policy") == "c_step"
        plan = self.rank(layers, mu=mu) if priced else self.rank(layers)
        names = candidates(layers, self.rank)
        if not names:
            raise ValueError("no layer of this network may be decomposed: there are no ranks to learn")
        kinds = decompositions.by_layer({name: network.get_submodule(name) for name in names})
        theta = {}
        for name, kind in kinds.items():
            if not isinstance(kind, SVDDecomposition):
                raise ValueError(
                    f"{name}: the C step is an SVD, and {kind and kind.name} is none: take channel_svd or spatial_svd"
                )
            layer, rank = network.get_submodule(name), plan[name]
            low = layer if rank is None else recompose(kind.factorize(layer, rank))
            theta[name] = low.weight.detach().clone()
        return plan, theta

    def _step(self, k: int, network: nn.Module, state: "_State", setting: Setting, example: Tensor) -> "_State":
        """One L step and its C step; the network is trained in place, what comes out is kept in a file."""
        mu = self.mu * self.growth**k
        shifts = {name: M / mu for name, M in state.multipliers.items()}
        targets = {name: theta + shifts[name] for name, theta in state.theta.items()}
        folder = setting.folder / f"l_step_{k}"

        def told(metrics: Mapping[str, float]) -> dict[str, float]:
            return {**metrics, "epoch": k * self.epochs + metrics["epoch"], "step": k, "mu": mu}

        def hear(metrics: Mapping[str, float]) -> None:
            if metrics["epoch"] + 1 < self.epochs:  # the last one is told with what the C step leaves
                setting.on_epoch(told(metrics))

        seed = int(digest([setting.seed, k])[:8], 16)

        def go_on(finished: int, of: int) -> None:
            setting.on_resume(k * self.epochs + finished, self.steps * self.epochs)

        inner = replace(setting, seed=seed, folder=folder, on_epoch=hear, on_resume=go_on)
        done = self._l_step(mu, targets).run_(network, inner)
        plan, theta = self.c_step(network, shifts, mu, example)
        weights = {name: network.get_submodule(name).weight.detach() for name in theta}
        apart = {name: weights[name] - theta[name] for name in theta}
        lines = [told(metrics) for metrics in done.history]
        lines[-1] |= {
            "distance": (_squares(apart) / _squares(weights)).item(),
            "macs_remaining": plan.remaining("macs"),
        }
        setting.on_epoch(lines[-1])
        multipliers = state.multipliers
        if self.multipliers:
            multipliers = {name: M - mu * apart[name] for name, M in multipliers.items()}
        state = _State(k + 1, theta, multipliers, plan, [*state.history, *lines])
        state.write(setting.folder / "last.ckpt", network)
        shutil.rmtree(folder, ignore_errors=True)
        return state

    def _l_step(self, mu: float, targets: Mapping[str, Tensor]) -> Train:
        own = self.train.recipe.regularizer or Regularizer({})
        terms = {**own.terms, PENALTY: Weighted(QuadraticPenalty(targets), mu)}
        return self.train.changed(epochs=self.epochs, regularizer=Regularizer(terms, own.projection))


@dataclass(frozen=True)
class _State:
    """What the steps so far have left: how many they are, Theta, M, the plan of the last C step, the history."""

    step: int
    theta: dict[str, Tensor]
    multipliers: dict[str, Tensor]
    plan: Plan
    history: list[dict[str, float]] = field(default_factory=list)

    def write(self, path: Path, network: nn.Module) -> None:
        content = {"step": self.step, "theta": self.theta, "multipliers": self.multipliers, "history": self.history}
        plan = {"layers": {n: asdict(part) for n, part in self.plan.layers.items()}}
        plan |= {"policy": self.plan.policy, "over": self.plan.over}
        with write_whole(path) as temporary, open_told(temporary) as file:
            torch.save({**content, "plan": plan, "network": network.state_dict()}, file)

    @classmethod
    def read(cls, path: Path, network: nn.Module) -> "_State | None":
        """The state in a file, its weights in `network`; None where there is no file."""
        if not path.is_file():
            return None
        where = next(network.parameters()).device
        try:
            check_sums(path)
            content = torch.load(path, map_location=where, weights_only=True)
            weights, plan = content.pop("network"), content.pop("plan")
            layers = {name: PlannedLayer(**part) for name, part in plan.pop("layers").items()}
            state = cls(**content, plan=Plan(layers, **plan))
            network.load_state_dict(weights)
            return state
        except Exception as error:  # torch raises many kinds for files that are not whole
            raise DamagedCheckpointError(path, f"{type(error).__name__}: {str(error)[:200]}") from error


def _apart(history: Sequence[Mapping[str, float]]) -> list[str]:
    """A sentence where the weights are not at low rank after the last step; else nothing."""
    distance = next((line["distance"] for line in reversed(history) if "distance" in line), 0.0)
    if distance <= APART:
        return []
    return [
        f"the weights were still {distance:.2%} of their squared length away from low rank after the last step, and "
        "the network is factorized all the same: take more steps, a larger mu or growth"
    ]


def _squares(weights: Mapping[str, Tensor]) -> Tensor:
    """The sum of all squares, in double precision."""
    return torch.stack([part.double().square().sum() for part in weights.values()]).sum()
