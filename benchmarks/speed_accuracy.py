"""What accuracy is left at which measured time, without any training: plans by MACs, plans by time, Taylor pruning.

    python benchmarks/speed_accuracy.py --data cifar10 --weights resnet20.th --json accuracy.json

`--data` has images in class folders, `train/<class>` and `test/<class>`; `--weights` are of CIFAR's ResNet of a depth.
The dense network is the one of the file; its batch norm is estimated again on the fitting images where that raises its
validation accuracy, and so is that of every smaller one. `macs`: spatial SVD, the knapsack on MACs, by errors of the
weights. `time`: the knapsack on times measured on the runtime at the batch size, among all decompositions, by response
errors. Both are fitted to the training images (whitened); `asymmetric` is `time`, each layer fitted to inputs from the
layers fitted before it. `taylor`: filters of the lowest Taylor scores go, some at a time, ranked anew each time.
Nothing is chosen by a test image. Times are taken in turn with the dense network's. Tables: `speed_tables.py --accuracy
FILE`; their figure: `front_figure.py`.
"""

import argparse
import copy
import functools
import itertools
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from speed_entries import FASTEST, Profiles
from speed_timing import time_pair
from torch import Tensor, nn

from lowrank_exp import allocate, factorize_, load, profile, save, with_errors, with_times
from lowrank_exp.data import ImageFolder
from lowrank_exp.machine.environment import describe_environment
from lowrank_exp.models import cifar_resnet
from lowrank_exp.models.weights import load_weights_
from lowrank_exp.network.cost import network_cost
from lowrank_exp.pruning import channel_groups, remove_
from lowrank_exp.pruning.criteria import Taylor, filter_scores
from lowrank_exp.pruning.selection import group_scores, pick_lowest
from lowrank_exp.rank import Plan, TimeStore
from lowrank_exp.runtime import runtime_named
from lowrank_exp.training import FirstImages, evaluate, recalibrate_

BUDGETS = (0.8, 0.67, 0.5, 0.4, 0.33)  # of the MACs, or of the time
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what public weights expect
FIGURES = "figures.json"  # of a network that is kept
AT_ONCE = 12  # channels that go between two rankings
BY_TIME = ("time", "asymmetric")
METHODS = ("macs", "time", "asymmetric", "taylor")


@dataclass(frozen=True)
class Made:
    """A smaller network, whether its batch norm was estimated again, and its plan."""

    network: nn.Module
    recalibrated: bool
    plan: Plan | None = None


class Accuracies:
    """The dense network on its data, and what is made of it.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        cache = arguments.cache and str(arguments.cache)
        self.data = ImageFolder(
            root=str(arguments.data), cache_dir=cache, mean=MEAN, std=STD, crop_padding=4, flip=True
        )
        self.data.setup()
        self.train = self.data.train_loader(128, 0, augment=False)
        self.augmented = self.data.train_loader(128, 0, augment=True)  # as in training
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
        recalibrate_(other, self.augmented, self.arguments.images, "cpu")
        helps = self.accuracy(other) > self.accuracy(network)
        return (other, True) if helps else (network, False)

    @functools.cached_property
    def layers_by_macs(self) -> Profiles:
        """Of spatial SVD."""
        return profile(self.dense, self.image, "spatial_svd")

    @functools.cache  # noqa: B019 - there is one of these, which lives as long as the program
    def layers_by_time(self, batch_size: int) -> Profiles:
        """Of all decompositions, with response errors and times."""
        folder = self.arguments.times and self.arguments.times / "errors"
        among = list(self.arguments.decomposition or FASTEST)
        layers = profile(self.dense, self.image, {"conv": among})
        layers = with_errors(layers, self.dense, self.images, fit="whitened", folder=folder)
        runtime = runtime_named(self.arguments.runtime, threads=self.arguments.threads)
        times = TimeStore(self.arguments.times)
        return with_times(layers, self.dense, self.image, runtime, batch_size=batch_size, times=times)

    @functools.cached_property
    def pruned(self) -> dict[float, nn.Module]:
        """Filters go under budgets of MACs, of one network one after the other."""
        small, found = copy.deepcopy(self.dense), {}
        ranked = FirstImages(self.train, self.arguments.images // 2, labels=True)
        for share in BUDGETS:
            while network_cost(small, self.image).macs > share * self.dense_macs:
                groups = channel_groups(small, self.image)
                convolutions = [name for name, layer in small.named_modules() if isinstance(layer, nn.Conv2d)]
                scores = group_scores(filter_scores(small, convolutions, Taylor(), ranked), groups)
                gone = pick_lowest(scores, AT_ONCE, groups=groups)
                remove_(small, {g: sorted({*range(g.channels)} - {*gone.get(g.name, ())}) for g in groups})
            found[share] = copy.deepcopy(small)
        return found

    def made(self, method: str, share: float, batch_size: int) -> Made:
        """A smaller network by a method under a budget; `batch_size` decides plans by time alone."""
        if method == "dense":
            return Made(self.dense, self.dense_recalibrated)
        plan = None
        if method == "macs":
            plan = allocate(self.layers_by_macs, "knapsack", macs=share, metric="error")
        elif method in BY_TIME:
            plan = allocate(self.layers_by_time(batch_size), "knapsack", latency=share, metric="response")
        if plan is None:
            return Made(*self.recalibrated(self.pruned[share]))
        how = {"reconstruct": "whitened", "asymmetric": method == "asymmetric"}
        fitted = factorize_(copy.deepcopy(self.dense), plan, batches=self.images, **how)
        return Made(*self.recalibrated(fitted), plan)

    def kept(self, method: str, share: float, batch_size: int) -> tuple[Made, dict]:
        """The same with its accuracies, from the folder of those that are kept if it is there."""
        for_size = f"-batch{batch_size}" if method in BY_TIME else ""
        name = f"resnet{self.arguments.depth}-{method}-{share}{for_size}"
        folder = self.arguments.kept and self.arguments.kept / name
        if folder and (folder / FIGURES).exists():  # written last
            figures, plan = json.loads((folder / FIGURES).read_text()), folder / "plan.yaml"
            plan = Plan.read(plan) if plan.exists() else None
            return Made(load(folder / "model.pt"), figures["recalibrated"], plan), figures
        made = self.made(method, share, batch_size)
        figures = {"depth": self.arguments.depth, "method": method, "budget": share, "recalibrated": made.recalibrated}
        figures |= {"validation": self.accuracy(made.network), "test": self.accuracy(made.network, test=True)}
        figures |= {"among": (self.arguments.decomposition or "fastest") if method in BY_TIME else None}
        figures |= {"macs": network_cost(made.network, self.image).macs / self.dense_macs}
        if folder:
            save(made.network, folder / "model.pt")
            if made.plan is not None:
                made.plan.write(folder / "plan.yaml")
            (folder / FIGURES).write_text(json.dumps(figures))
        return made, figures

    def timed(self, made: Made, batch_size: int) -> dict:
        """Milliseconds at a batch size, dense and small."""
        plan = made.plan
        runtime = runtime_named(self.arguments.runtime, threads=self.arguments.threads)
        example = self.batch(batch_size)
        dense, small = runtime.prepare(self.dense, example), runtime.prepare(made.network, example)
        figures = {"batch_size": batch_size, "runtime": runtime.name, "threads": self.arguments.threads}
        figures |= asdict(time_pair(dense, small, self.arguments.seconds))
        if plan is not None and plan.predicted_ms is not None:
            figures |= {"predicted_ms": plan.predicted_ms, "predicted_share": plan.remaining("latency")}
        if plan is not None:
            figures["layers"] = {name: [one.decomposition, one.rank] for name, one in plan.layers.items()}
        return figures

    def batch(self, size: int) -> Tensor:
        """The first training images."""
        return next(iter(self.data.train_loader(size, 0, augment=False)))[0]


def run(arguments: argparse.Namespace, found: list[dict]) -> Iterator[dict]:
    """The records, as they come, without those that are `found` already."""
    every = Accuracies(arguments)
    conditions = describe_environment("cpu")
    about = {name: conditions[name] for name in ("commit", "machine", "date")}
    done = {(one["depth"], one["method"], one["budget"], one["batch_size"]) for one in found}
    wanted = [("dense", 1.0), *((method, share) for method in arguments.methods for share in BUDGETS)]
    for size, (method, share) in itertools.product(arguments.batch, wanted):
        if (arguments.depth, method, share, size) in done:
            continue
        try:
            made, figures = every.kept(method, share, size)
        except ValueError as error:  # a budget that cannot be met
            print(f"{method} {share}, batch {size}: {error!s:.160}", flush=True)
            continue
        yield figures | every.timed(made, size) | about


def show(one: dict) -> None:
    """One line of the table."""
    times = f"{one['small_ms']:8.3f} ms ({one['small_minimum_ms']:8.3f}) {one['ratio']:5.2f} x"
    scores = f"validation {100 * one['validation']:.2f}, test {100 * one['test']:.2f}"
    told = f"resnet{one['depth']} {one['method']:6} {one['budget']:4} batch {one['batch_size']:3}"
    recalibrated = ", recalibrated" * one["recalibrated"]
    print(f"{told}: {times}, {one['macs']:.3f} of the MACs, {scores}{recalibrated}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class> and test/<class>")
    parser.add_argument("--weights", type=Path, required=True, help="file of trained weights")
    parser.add_argument("--depth", type=int, default=20, help="of the CIFAR ResNet")
    parser.add_argument("--json", type=Path, help="write the records to this file, and go on with what it has")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--decomposition", nargs="+", help="what plans by time choose from; five, as `fastest` does")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 128])
    parser.add_argument("--images", type=int, default=2000, help="training images of fits, errors and batch norms")
    parser.add_argument("--validation", type=int, default=2000, help="validation images")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each side is timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", type=Path, help="folder where times and errors are kept")
    parser.add_argument("--kept", type=Path, help="folder where networks and accuracies are kept, to be timed again")
    parser.add_argument("--cache", type=Path, help="folder where decoded images are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    records = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    for one in run(arguments, records):
        records.append(one)
        show(one)
        if arguments.json:
            temporary = arguments.json.with_suffix(".part")
            temporary.write_text(json.dumps(records, indent=1))
            os.replace(temporary, arguments.json)
