"""What accuracy is left at which measured time, without any training: plans by MACs, plans by time, Taylor pruning.

    python benchmarks/speed_accuracy.py --data cifar10 --weights resnet20.th --json accuracy.json --figure front.png

`--data` has images in class folders, `train/<class>` and `test/<class>`; `--weights` are of CIFAR's ResNet of a depth.
The dense network is the one of the file; its batch norm is estimated again on the fitting images where that raises its
validation accuracy, and so is that of every smaller one. `macs`: spatial SVD, the knapsack on MACs, by errors of the
weights. `time`: the knapsack on times measured on the runtime at the batch size, among all decompositions, by response
errors. Both are fitted to the training images (whitened). `taylor`: filters of the lowest Taylor scores go, some at a
time, ranked anew each time. Nothing is chosen by a test image. Times are taken in turn with the dense network's.
"""

import argparse
import copy
import functools
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from speed_entries import FASTEST
from torch import Tensor, nn

from lowrank_exp import allocate, factorize_, profile, with_errors, with_times
from lowrank_exp.data import ImageFolder
from lowrank_exp.machine.environment import describe_environment
from lowrank_exp.models import cifar_resnet
from lowrank_exp.models.weights import load_weights_
from lowrank_exp.network.cost import network_cost
from lowrank_exp.pruning import channel_groups, remove_
from lowrank_exp.pruning.criteria import Taylor, filter_scores
from lowrank_exp.pruning.selection import group_scores, pick_lowest
from lowrank_exp.rank import Plan, TimeStore
from lowrank_exp.runtime import runtime_named, time_interleaved
from lowrank_exp.training import FirstImages, evaluate, recalibrate_

BUDGETS = (0.8, 0.67, 0.5, 0.4, 0.33)  # of the MACs, or of the time
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what public weights expect
AT_ONCE = 12  # channels that go between two rankings
COLORS = {"macs": "#0072B2", "time": "#D55E00", "taylor": "#009E73"}
LABELS = {"macs": "plan by MACs", "time": "plan by time", "taylor": "Taylor pruning"}


class Accuracies:
    """The dense network on its data, and what is made of it.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        cache = arguments.cache and str(arguments.cache)
        self.data = ImageFolder(root=str(arguments.data), cache_dir=cache, mean=MEAN, std=STD)
        self.data.setup()
        self.train = self.data.train_loader(128, 0, augment=False)
        self.images = FirstImages(self.train, arguments.images)
        self.image = torch.zeros(1, *self.data.input_shape)
        dense = cifar_resnet(depth=arguments.depth).eval()
        load_weights_(dense, arguments.weights)
        self.dense, self.dense_recalibrated = self.recalibrated(dense)
        self.dense_macs = network_cost(self.dense, self.image).macs

    def accuracy(self, network: nn.Module, test: bool = False) -> float:
        """On the validation images, or on the test images."""
        loader = self.data.test_loader(250) if test else self.data.val_sample(self.arguments.validation, 0, 250)
        return evaluate(network, loader, "cpu").accuracy

    def recalibrated(self, network: nn.Module) -> tuple[nn.Module, bool]:
        """The network with its batch norm estimated again, if that helps; and whether it does."""
        other = copy.deepcopy(network)
        recalibrate_(other, self.train, self.arguments.images, "cpu")
        helps = self.accuracy(other) > self.accuracy(network)
        return (other, True) if helps else (network, False)

    def fitted(self, plan: Plan) -> nn.Module:
        """The network at a plan."""
        return factorize_(copy.deepcopy(self.dense), plan, reconstruct="whitened", batches=self.images)

    def by_macs(self) -> Iterator[tuple[float, nn.Module, Plan | None]]:
        """Spatial SVD under budgets of MACs."""
        layers = profile(self.dense, self.image, "spatial_svd")
        for share in BUDGETS:
            plan = allocate(layers, "knapsack", macs=share, metric="error")
            yield share, self.fitted(plan), plan

    def by_time(self, batch_size: int) -> Iterator[tuple[float, nn.Module, Plan | None]]:
        """All decompositions under budgets of time."""
        folder = self.arguments.times and self.arguments.times / "errors"
        layers = profile(self.dense, self.image, {"conv": list(FASTEST)})
        layers = with_errors(layers, self.dense, self.images, fit="whitened", folder=folder)
        runtime = runtime_named(self.arguments.runtime, threads=self.arguments.threads)
        times = TimeStore(self.arguments.times)
        layers = with_times(layers, self.dense, self.image, runtime, batch_size=batch_size, times=times)
        for share in BUDGETS:
            try:
                plan = allocate(layers, "knapsack", latency=share, metric="response")
            except ValueError as error:
                print(f"time {share}, batch {batch_size}: {error!s:.160}")
                continue
            yield share, self.fitted(plan), plan

    def by_taylor(self) -> Iterator[tuple[float, nn.Module, Plan | None]]:
        """Filters go under budgets of MACs, of one network one after the other."""
        small = copy.deepcopy(self.dense)
        ranked = FirstImages(self.train, self.arguments.images // 2, labels=True)
        for share in BUDGETS:
            while network_cost(small, self.image).macs > share * self.dense_macs:
                groups = channel_groups(small, self.image)
                convolutions = [name for name, layer in small.named_modules() if isinstance(layer, nn.Conv2d)]
                scores = group_scores(filter_scores(small, convolutions, Taylor(), ranked), groups)
                gone = pick_lowest(scores, AT_ONCE, groups=groups)
                remove_(small, {g: sorted({*range(g.channels)} - {*gone.get(g.name, ())}) for g in groups})
            yield share, copy.deepcopy(small), None

    def measured(
        self, method: str, share: float, network: nn.Module, plan: Plan | None, batch_sizes: list[int]
    ) -> list:
        """Accuracies of a smaller network, and its times at batch sizes."""
        network, helped = self.recalibrated(network)
        figures = {"depth": self.arguments.depth, "method": method, "budget": share, "recalibrated": helped}
        figures |= {"validation": self.accuracy(network), "test": self.accuracy(network, test=True)}
        figures |= {"macs": network_cost(network, self.image).macs / self.dense_macs}
        return [figures | self.timed(network, plan, batch_size) for batch_size in batch_sizes]

    def timed(self, network: nn.Module, plan: Plan | None, batch_size: int) -> dict:
        """Milliseconds at a batch size, dense and small."""
        runtime = runtime_named(self.arguments.runtime, threads=self.arguments.threads)
        example = self.batch(batch_size)
        prepared = {"dense": runtime.prepare(self.dense, example), "small": runtime.prepare(network, example)}
        of = time_interleaved(prepared, seconds=self.arguments.seconds)
        figures = {"batch_size": batch_size, "runtime": runtime.name, "threads": self.arguments.threads}
        for side, timing in of.items():
            figures |= {f"{side}_ms": timing.median_ms, f"{side}_minimum_ms": timing.minimum_ms}
        figures |= {"ratio": of["dense"].median_ms / of["small"].median_ms}
        figures |= {"ratio_of_minima": of["dense"].minimum_ms / of["small"].minimum_ms}
        if plan is not None and plan.predicted_ms is not None:
            figures |= {"predicted_ms": plan.predicted_ms, "predicted_share": plan.remaining("latency")}
        if plan is not None:
            figures["layers"] = {name: [one.decomposition, one.rank] for name, one in plan.layers.items()}
        return figures

    def batch(self, size: int) -> Tensor:
        """The first training images."""
        return next(iter(self.data.train_loader(size, 0, augment=False)))[0]


def run(arguments: argparse.Namespace, found: list[dict]) -> Iterator[list[dict]]:
    """The records, as they come; budgets of methods that are `found` already are passed over."""
    made = Accuracies(arguments)
    conditions = describe_environment("cpu")
    about = {name: conditions[name] for name in ("commit", "machine", "date")}
    done = {(one["depth"], one["method"], one["budget"], one["batch_size"]) for one in found}
    if not any(one["depth"] == arguments.depth and one["method"] == "dense" for one in found):
        yield [one | about for one in made.measured("dense", 1.0, made.dense, None, arguments.batch)]
    ways = {"macs": (made.by_macs, arguments.batch), "taylor": (made.by_taylor, arguments.batch)}
    for size in arguments.batch:
        ways[f"time {size}"] = (functools.partial(made.by_time, size), [size])
    for way, (networks, sizes) in ways.items():
        method = way.split()[0]
        if method not in arguments.methods:
            continue
        if all((arguments.depth, method, share, size) in done for share in BUDGETS for size in sizes):
            continue
        for share, network, plan in networks():
            missing = [size for size in sizes if (arguments.depth, method, share, size) not in done]
            if missing:
                yield [one | about for one in made.measured(method, share, network, plan, missing)]


def show(one: dict) -> None:
    """One line of the table."""
    times = f"{one['small_ms']:8.3f} ms ({one['small_minimum_ms']:8.3f}) {one['ratio']:5.2f} x"
    scores = f"validation {100 * one['validation']:.2f}, test {100 * one['test']:.2f}"
    told = f"resnet{one['depth']} {one['method']:6} {one['budget']:4} batch {one['batch_size']:3}"
    recalibrated = ", recalibrated" * one["recalibrated"]
    print(f"{told}: {times}, {one['macs']:.3f} of the MACs, {scores}{recalibrated}", flush=True)


def draw(found: list[dict], path: Path) -> None:
    """Test accuracy against speed-up: a row for every depth, a column for every batch size."""
    from matplotlib.figure import Figure

    depths, sizes = (sorted({one[key] for one in found}) for key in ("depth", "batch_size"))
    figure = Figure(figsize=(4.2 * len(sizes), 3.2 * len(depths)), dpi=160, layout="constrained")
    every = figure.subplots(len(depths), len(sizes), squeeze=False)
    for row, depth in zip(every, depths, strict=True):
        for axes, size in zip(row, sizes, strict=True):
            here = [one for one in found if (one["depth"], one["batch_size"]) == (depth, size)]
            dense = next(one for one in here if one["method"] == "dense")
            axes.plot(1, 100 * dense["test"], "k*", markersize=10, label="dense", zorder=4)
            for method, color in COLORS.items():
                points = sorted((one for one in here if one["method"] == method), key=lambda one: one["budget"])
                x, y = [one["ratio"] for one in points], [100 * one["test"] for one in points]
                axes.plot(x, y, "o-", color=color, label=LABELS[method], markersize=4)
            axes.set_title(f"ResNet-{depth}, batch {size}", fontsize=10)
            axes.set_xlabel(f"speed-up in {dense['runtime']}, measured", fontsize=9)
            axes.set_ylabel("test accuracy, %", fontsize=9)
            axes.set_ylim(bottom=max(0.0, 100 * dense["test"] - 40))
            axes.grid(alpha=0.25, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
    every[0][0].legend(fontsize=8, frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class> and test/<class>")
    parser.add_argument("--weights", type=Path, required=True, help="file of trained weights")
    parser.add_argument("--depth", type=int, default=20, help="of the CIFAR ResNet")
    parser.add_argument("--json", type=Path, help="write the records to this file, and go on with what it has")
    parser.add_argument("--figure", type=Path, help="draw what the records have to this file (png, svg)")
    parser.add_argument("--methods", nargs="+", default=list(COLORS), choices=COLORS)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 128])
    parser.add_argument("--images", type=int, default=2000, help="training images of fits, errors and batch norms")
    parser.add_argument("--validation", type=int, default=2000, help="validation images")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each side is timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", type=Path, help="folder where times and errors are kept")
    parser.add_argument("--cache", type=Path, help="folder where decoded images are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    records = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    for some in run(arguments, records):
        for one in some:
            records.append(one)
            show(one)
        if arguments.json:
            temporary = arguments.json.with_suffix(".part")
            temporary.write_text(json.dumps(records, indent=1))
            os.replace(temporary, arguments.json)
    if arguments.figure:
        draw(records, arguments.figure)
