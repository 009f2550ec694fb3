"""What `speed.py` times: networks with random weights, and what makes them smaller, ours and the peers' ways.

Random weights lose the same at every rank, trained ones do not. So the spectra of these fall: the k-th channel of each
mode is k^-0.4 as large, the k-th place of each axis k^-0.3. With these exponents ResNet-20 loses by spatial SVD (mean
of the layers' squared errors) 0.07, 0.17 and 0.35 at 0.75, 0.5 and 0.25 of its MACs; the trained one of
akamaster/pytorch_resnet_cifar10 loses 0.05, 0.16 and 0.36.
"""

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from lowrank_exp import LayerProfile, Plan, allocate, profile, with_errors, with_times
from lowrank_exp.decomposition import CP, ChannelSVD, SpatialSVD, TensorTrain, Tucker2
from lowrank_exp.models import cifar_resnet
from lowrank_exp.network.cost import network_cost
from lowrank_exp.rank import TimeStore
from lowrank_exp.runtime import Runtime
from lowrank_exp.surgery import replay_to_plan_

# As conf/decomposition/fastest.yaml has them.
FASTEST = (ChannelSVD(), SpatialSVD(), Tucker2(), TensorTrain(), CP("merged", tolerance=1e-3, max_iterations=50))
FALL = {"channels": 0.4, "places": 0.3}  # exponents of the spectra
CIFAR = {"resnet20": 20, "resnet56": 56}
NETWORKS = ("resnet18", "resnet50", "vgg16", "alexnet", *CIFAR)
STEPS, CLOSE = 14, 0.003  # of a bisection: at most so many, until the share of the MACs is so near
Profiles = Mapping[str, LayerProfile]


def image_of(name: str) -> Tensor:
    """One random image of a network's size."""
    size = 32 if name in CIFAR else 224
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def batch_sizes(name: str) -> tuple[int, ...]:
    """Those that a network is timed at."""
    return (1, 128) if name in CIFAR else (1, 8)


def network(name: str) -> nn.Module:
    """With random weights whose spectra fall, in evaluation mode."""
    torch.manual_seed(0)
    model = cifar_resnet(depth=CIFAR[name]) if name in CIFAR else getattr(torchvision.models, name)(weights=None)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            plant_spectra_(layer.weight.data)
    return model.eval()


def plant_spectra_(weight: Tensor) -> None:
    """Let the spectra of a Gaussian weight `(O, I, ...)` fall, in place; its norm stays."""
    norm = weight.norm()
    for axis, size in enumerate(weight.shape):
        falling = torch.arange(1, size + 1).pow(-FALL["channels" if axis < 2 else "places"])
        weight *= falling.reshape([size if other == axis else 1 for other in range(weight.dim())])
    weight *= norm / weight.norm()


@dataclass(frozen=True)
class Small:
    """A smaller network, the share of the MACs that it has, what its weights lose (summed over layers), its plan."""

    network: nn.Module
    macs: float
    error: float | None = None
    plan: Plan | None = None


def total_error(layers: Profiles, plan: Plan) -> float:
    """The sum over layers of the relative squared error of the weight."""
    total = 0.0
    for name, planned in plan.layers.items():
        for one in layers[name].alternatives:
            told = (one.decomposition, one.options)
            if planned.rank is not None and told == (planned.decomposition, planned.options):
                total += float(one.error[one.ranks.index(planned.rank)])
    return total


class Entries:
    """The smaller networks that are made of one; what several ask for is computed once.

    Args:
        name: of the network.
        decomposition: names of those that our plans choose from; None: `FASTEST`.
        folder: where times and errors are kept; None: nowhere.
        trained: the network with its weights, whose factors peers compute too; None: random weights, of which they give
            the shapes alone.
    """

    def __init__(
        self, name: str, decomposition: Sequence[str] | None, folder: Path | None, trained: nn.Module | None = None
    ) -> None:
        self.name, self.decomposition, self.folder = name, {"conv": list(decomposition or FASTEST)}, folder
        self.dense, self.image, self.is_trained = trained or network(name), image_of(name), trained is not None
        self.dense_macs = network_cost(self.dense, self.image).macs
        self.times = TimeStore(folder)
        self.tucker_by_peer = functools.cache(self._tucker_by_peer)
        self.pruned_by_peer = functools.cache(self._pruned_by_peer)

    @functools.cached_property
    def spatial(self) -> Profiles:
        """Profiles of what users do today."""
        return profile(self.dense, self.image, "spatial_svd")

    @functools.cached_property
    def every(self) -> Profiles:
        """Profiles of all decompositions that our plans choose from, with the errors that they reach."""
        folder = None if self.folder is None else self.folder / "errors"
        return with_errors(profile(self.dense, self.image, self.decomposition), self.dense, folder=folder)

    def timed(self, runtime: Runtime, batch_size: int) -> Profiles:
        """The same with times."""
        return with_times(self.every, self.dense, self.image, runtime, batch_size=batch_size, times=self.times)

    def by_macs(self, share: float, layers: Profiles) -> Small:
        """The knapsack on MACs."""
        return self._of_plan(layers, allocate(layers, "knapsack", macs=share, metric="error"))

    def by_time(self, share: float, layers: Profiles) -> Small:
        """The knapsack on time."""
        return self._of_plan(layers, allocate(layers, "knapsack", latency=share, metric="error"))

    def by_time_at_macs(self, share: float, layers: Profiles) -> Small:
        """The knapsack on time, under the budget of time with which it has this share of the MACs."""

        def plan(time: float) -> Plan:
            return allocate(layers, "knapsack", latency=time, metric="error")

        return self._of_plan(layers, bisect(plan, lambda found: found.remaining("macs"), share, 0.05, 0.99))

    def _of_plan(self, layers: Profiles, plan: Plan) -> Small:
        small = replay_to_plan_(copy.deepcopy(self.dense), plan)
        return Small(small, plan.remaining("macs"), total_error(layers, plan), plan)

    def _tucker_by_peer(self, share: float) -> Small:
        """tensorly-torch: every convolution but the first by Tucker-2, at one share of its channels."""
        from tltorch import FactorizedConv

        convolutions = {n: one for n, one in self.dense.named_modules() if isinstance(one, nn.Conv2d)}
        layers = {n: layer for n, layer in profile_on_meta(self.dense, self.image).items() if n in convolutions}
        layers.pop(next(iter(convolutions)))

        def ranks(part: float) -> dict[str, tuple[int, int]]:
            found = {}
            for n in layers:
                O, I, *kernel = convolutions[n].weight.shape
                R = max(1, round(part * I))
                Q = min(max(1, round(part * O)), R * math.prod(kernel))  # a core of full rank
                found[n] = (min(R, Q * math.prod(kernel)), Q)
            return found

        def macs(chosen: Mapping[str, tuple[int, int]]) -> float:
            saved = sum(layers[n].macs - layers[n].cost(rank).macs for n, rank in chosen.items())
            return 1 - saved / self.dense_macs

        chosen, small = bisect(ranks, macs, share, 0.01, 1.0), copy.deepcopy(self.dense)
        for n, (R, Q) in chosen.items():
            rank = (Q, R, *convolutions[n].kernel_size)
            how = {"factorization": "tucker", "implementation": "factorized", "decompose_weights": self.is_trained}
            small.set_submodule(n, FactorizedConv.from_conv(convolutions[n], rank=rank, **how))
        return Small(small.eval(), macs(chosen))

    def _pruned_by_peer(self, share: float) -> Small:
        """torch-pruning: the same share of every group's channels, by magnitude."""
        import torch_pruning

        last = [layer for layer in self.dense.modules() if isinstance(layer, nn.Linear)][-1:]
        places = [n for n, layer in self.dense.named_modules() if layer in last]

        def pruned(part: float) -> nn.Module:
            small = copy.deepcopy(self.dense)
            pruner = torch_pruning.pruner.BasePruner(
                small,
                self.image,
                importance=torch_pruning.importance.MagnitudeImportance(p=2),
                pruning_ratio=1 - part,
                ignored_layers=[small.get_submodule(n) for n in places],
            )
            pruner.step()
            return small

        def macs(small: nn.Module) -> float:
            return network_cost(small, self.image).macs / self.dense_macs

        small = bisect(pruned, macs, share, 0.05, 1.0)
        return Small(small, macs(small))


def profile_on_meta(model: nn.Module, image: Tensor) -> Profiles:
    """What Tucker-2 costs; nothing is decomposed."""
    return profile(copy.deepcopy(model).to("meta"), image, "tucker2")


def bisect(make: Callable, measure: Callable, wanted: float, low: float, high: float) -> object:
    """What `make` gives for the number in `[low, high]` at which `measure` of it, which rises, is nearest to `wanted`.

    Numbers for which there is nothing (a budget that cannot be met) are too low.
    """
    best, off = None, float("inf")
    for _ in range(STEPS):
        middle = (low + high) / 2
        try:
            made = make(middle)
        except ValueError:
            low = middle
            continue
        found = measure(made)
        if abs(found - wanted) < off:
            best, off = made, abs(found - wanted)
        if off < CLOSE:
            break
        low, high = (middle, high) if found < wanted else (low, middle)
    if off > 0.02:
        raise ValueError(f"{wanted} of the MACs cannot be had: the nearest is off by {off:.3f}")
    return best
