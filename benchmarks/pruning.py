"""How fast filters are scored, removed and re-initialised, beside the peers that users have.

    python benchmarks/pruning.py --json pruning.json
    python benchmarks/pruning.py --only repr --threads 1

Both sides in one process, one after the other, warm, each called for half a second: medians; of removal, which changes
the network, the median of several copies. `taylor` is scoring on one batch of random images, beside a plain forward and
backward pass of it, a floor. `groups` is finding what is coupled, `removal` slicing every layer once when three tenths
of the channels go, beside torch-pruning, which slices at every channel's turn; the error is the largest difference of
the outputs from those with the channels silenced, over the largest output. `repr orthogonality` is the metric of all
convolutions, beside whole Gram matrices of normalised filters; its error, against float64. `re-initialisation` is that
of three tenths of every convolution's filters, beside a QR in float64 and a projection; the error is the largest cosine
of a new filter with a kept or an old one, zero where the null space is not empty.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch_pruning
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.benchmark import Timer

from lowrank_exp.models import cifar_resnet
from lowrank_exp.pruning import channel_groups, mask_, remove_
from lowrank_exp.pruning.criteria import L2, Orthogonality, Taylor, filter_scores
from lowrank_exp.pruning.criteria.filters import filters
from lowrank_exp.pruning.null_space import NullSpace
from lowrank_exp.pruning.selection import group_scores, pick_lowest_of_each

SHARE = 0.3  # of the filters
COPIES = 5  # of a network that is changed
# Images of a batch, and their size.
BATCHES = {"resnet20": (64, 32), "resnet18": (16, 96), "vgg16": (8, 64)}


def network(name: str) -> nn.Module:
    """With fresh weights, in eval mode."""
    torch.manual_seed(0)
    return (cifar_resnet() if name == "resnet20" else getattr(torchvision.models, name)(weights=None)).eval()


def convolutions(model: nn.Module) -> list[str]:
    """Their names."""
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]


def median(call: Callable, seconds: float) -> float:
    """Median seconds of a call, made again and again for so many seconds after a warm-up."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).median


def median_of(call: Callable, arguments: list) -> float:
    """Median seconds of a call with each of these arguments; the first is the warm-up."""
    taken = []
    for argument in arguments:
        began = time.perf_counter()
        call(argument)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def record(case: str, ours: float, peer: float, peer_name: str, errors: tuple | None = None) -> dict:
    """One line of the table; errors below 1e-6 count as 0."""
    errors = tuple(0.0 if error < 1e-6 else error for error in errors) if errors else (None, None)
    told = "" if errors[0] is None else f"{errors[0]:.6f} {errors[1]:.6f}"
    print(f"{case:35} {ours * 1e3:9.1f} ms {peer * 1e3:9.1f} ms {peer / ours:7.2f} x  {told:20} {peer_name}")
    figures = {"case": case, "ours": ours, "peer": peer, "peer_name": peer_name, "ratio": peer / ours}
    return figures | {"error_ours": errors[0], "error_peer": errors[1], "threads": torch.get_num_threads()}


def taylor(seconds: float) -> Iterator[dict]:
    """Scores of all convolutions on one batch."""
    for name, (count, size) in BATCHES.items():
        model = network(name)
        layers = convolutions(model)
        generator = torch.Generator().manual_seed(0)
        images, labels = torch.randn(count, 3, size, size, generator=generator), torch.arange(count) % 10

        def ours(model=model, layers=layers, images=images, labels=labels) -> dict[str, Tensor]:
            return filter_scores(model, layers, Taylor(), [(images, labels)])

        def peer(model=model, images=images, labels=labels) -> None:
            model.zero_grad(set_to_none=True)
            cross_entropy(model(images), labels).backward()

        yield record(f"taylor {name}", median(ours, seconds), median(peer, seconds), "forward and backward")


def removal(seconds: float) -> Iterator[dict]:
    """What is coupled, and the removal of three tenths of every group."""
    for name in ("resnet18", "vgg16"):
        model, x = network(name), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

        def peer_graph(model=model, x=x) -> torch_pruning.DependencyGraph:
            return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)

        def ours_graph(model=model, x=x) -> list:
            return channel_groups(model, x)

        taken = median(ours_graph, seconds), median(peer_graph, seconds)
        yield record(f"groups {name}", *taken, "torch-pruning")
        groups = channel_groups(model, x)
        scores = group_scores(filter_scores(model, convolutions(model) + linears(model), L2()), groups)
        gone = pick_lowest_of_each(scores, SHARE, groups=groups)
        keep = {g: sorted(set(range(g.channels)) - set(gone.get(g.name, ()))) for g in groups}

        def ours(copied: nn.Module, keep=keep) -> None:
            remove_(copied, keep)

        def peer(pair: tuple, gone=gone) -> None:
            copied, graph = pair
            modules = dict(copied.named_modules())
            for producer, channels in gone.items():
                cut = getattr(
                    torch_pruning, f"prune_{'linear' if is_linear(modules[producer]) else 'conv'}_out_channels"
                )
                graph.get_pruning_group(modules[producer], cut, idxs=list(channels)).prune()

        ours_copies = [copy.deepcopy(model) for _ in range(COPIES)]
        peer_copies = [(copied, peer_graph(copied)) for copied in (copy.deepcopy(model) for _ in range(COPIES))]
        taken = median_of(ours, ours_copies), median_of(peer, peer_copies)
        silenced = copy.deepcopy(model)
        mask_(silenced, groups, gone)
        with torch.no_grad():
            wanted, of_ours, of_peer = (net(x) for net in (silenced, ours_copies[0], peer_copies[0][0]))
        errors = [float((found - wanted).abs().max() / wanted.abs().max()) for found in (of_ours, of_peer)]
        yield record(f"removal {name}", *taken, "torch-pruning", tuple(errors))


def linears(model: nn.Module) -> list[str]:
    """Names of linear layers."""
    return [name for name, layer in model.named_modules() if is_linear(layer)]


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer is a linear one."""
    return isinstance(layer, nn.Linear)


def repr_cases(seconds: float) -> Iterator[dict]:
    """RePr's metric, and its re-initialisation."""
    model = network("vgg16")
    layers = {name: model.get_submodule(name) for name in convolutions(model)}

    def metric(dtype: torch.dtype = torch.float32) -> list[Tensor]:
        found = []
        for layer in layers.values():
            W_OX = normalize(layer.weight.detach().flatten(1).to(dtype), dim=1)
            found.append((W_OX @ W_OX.T - torch.eye(len(W_OX), dtype=dtype)).abs().sum(dim=1) / len(W_OX))
        return found

    def ours() -> dict[str, Tensor]:
        return filter_scores(model, list(layers), Orthogonality())

    exact = torch.cat(metric(torch.float64))
    errors = [
        float(((found.double() - exact).abs() / exact).max())
        for found in (-torch.cat(list(ours().values())), torch.cat(metric()))
    ]
    taken = median(ours, seconds), median(metric, seconds)
    yield record("repr orthogonality vgg16", *taken, "whole Gram matrices", tuple(errors))

    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    generator = torch.Generator().manual_seed(0)
    dropped = {
        name: torch.randperm(len(weight), generator=generator)[: int(SHARE * len(weight))].tolist()
        for name, weight in before.items()
    }

    def reinitialise() -> None:
        for name, layer in layers.items():
            NullSpace().reinitialise_(layer, dropped[name], generator, old=before[name])

    def by_qr() -> list[Tensor]:
        new = []
        for name, layer in layers.items():
            W_OX = before[name].flatten(1).double()
            Q_XO = torch.linalg.qr(W_OX.T).Q
            V_DX = torch.randn(len(dropped[name]), W_OX.shape[1], generator=generator, dtype=torch.float64)
            new.append((V_DX - V_DX @ Q_XO @ Q_XO.T).to(layer.weight.dtype))
        return new

    def worst(new: list[Tensor]) -> float:
        """Over the layers that have a null space."""
        cosines = [0.0]
        for name, new_DX in zip(layers, new, strict=True):
            old_OX = normalize(before[name].flatten(1).double(), dim=1)
            if old_OX.shape[1] > old_OX.shape[0]:
                cosines.append(float((normalize(new_DX.flatten(1).double(), dim=1) @ old_OX.T).abs().max()))
        return max(cosines)

    reinitialise()
    errors = worst([filters(layer)[0, dropped[name]] for name, layer in layers.items()]), worst(by_qr())
    taken = median(reinitialise, seconds), median(by_qr, seconds)
    yield record("re-initialisation 30 % of vgg16", *taken, "torch.linalg.qr", errors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--only", nargs="+", default=["taylor", "removal", "repr"])
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each side of a case is timed")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = {"taylor": taylor, "removal": removal, "repr": repr_cases}
    found = [r for name in arguments.only for r in parts[name](arguments.seconds)]
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
