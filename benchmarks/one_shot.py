"""What is left of a trained network's accuracy at equal MACs, without fine-tuning: ours, and what the peers give.

    python benchmarks/one_shot.py --data cifar10 --weights resnet20.th --json one_shot.json

`--data` has images in class folders, `train/<class>` and `test/<class>`; `--weights` are of CIFAR's ResNet of a depth.
`tltorch`: Tucker-2 by tensorly-torch, every convolution but the first at one share of its channels. `torch-pruning`: by
magnitude, every group at one share of its channels. `ours weights`: spatial SVD, the knapsack on errors of the weights.
`ours data`: the same, ranks by errors of responses, factors fitted in sequence to training images, without labels.
Batch norm of all alike is estimated again, on as many augmented images, where that raises the validation accuracy.
Nothing is chosen by a test image. In the records `error_ours` and `error_peer` are the points of test accuracy that are
lost; seconds are those of making the network.
"""

import argparse
import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from speed_entries import CIFAR, Entries
from torch import nn

from lowrank_exp import allocate, factorize_, profile, with_errors
from lowrank_exp.data import ImageFolder
from lowrank_exp.machine.environment import describe_environment
from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.models import cifar_resnet
from lowrank_exp.models.weights import load_weights_
from lowrank_exp.network.cost import network_cost
from lowrank_exp.training import FirstImages, evaluate, recalibrate_

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what public weights expect
PEERS = ("tltorch", "torch-pruning")
OURS = ("ours weights", "ours data")


class Networks:
    """The dense network on its data, and what is made of it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        cache = arguments.cache and str(arguments.cache)
        self.data = ImageFolder(
            root=str(arguments.data), cache_dir=cache, mean=MEAN, std=STD, crop_padding=4, flip=True
        )
        self.data.setup()
        self.train = self.data.train_loader(100, 0, augment=False)
        self.augmented = self.data.train_loader(100, 0, augment=True)  # as in training
        self.images = FirstImages(self.train, arguments.images)
        self.dense = cifar_resnet(depth=arguments.depth).eval()
        load_weights_(self.dense, arguments.weights)
        name = next((name for name, depth in CIFAR.items() if depth == arguments.depth), "resnet20")
        self.entries = Entries(name, None, None, trained=self.dense)
        self.image = self.entries.image

    def accuracy(self, network: nn.Module, test: bool = False) -> float:
        """On the validation images, or on the test images."""
        loader = self.data.test_loader(250) if test else self.data.val_sample(2000, 0, 250)
        return evaluate(network, loader, "cpu").accuracy or 0.0

    def recalibrated(self, network: nn.Module) -> nn.Module:
        """The network, with its batch norm estimated again if that helps."""
        other = copy.deepcopy(network)
        recalibrate_(other, self.augmented, self.images.images, "cpu")
        return other if self.accuracy(other) > self.accuracy(network) else network

    def macs(self, network: nn.Module) -> float:
        """As a share of the dense network's."""
        return network_cost(network, self.image).macs / self.entries.dense_macs

    def made(self, how: str, share: float) -> nn.Module:
        """A smaller network at a share of the MACs."""
        if how == "tltorch":
            return self.entries.tucker_by_peer(share).network
        if how == "torch-pruning":
            return self.entries.pruned_by_peer(share).network
        layers = profile(self.dense, self.image, "spatial_svd")
        if how == "ours weights":
            return factorize_(copy.deepcopy(self.dense), allocate(layers, "knapsack", macs=share, metric="error"))
        layers = with_errors(layers, self.dense, self.images, fit="whitened")
        plan = allocate(layers, "knapsack", macs=share, metric="response")
        fit = {"reconstruct": "whitened", "asymmetric": True, "batches": self.images}
        return factorize_(copy.deepcopy(self.dense), plan, **fit)


def time(make: Callable[[], nn.Module]) -> tuple[nn.Module, float]:
    """What it gives, and the seconds that it took."""
    seconds = stopwatch()
    return make(), seconds()


def run(arguments: argparse.Namespace) -> list[dict]:
    """One record for each of ours beside each peer."""
    networks, records = Networks(arguments), []
    dense = networks.accuracy(networks.dense, test=True)
    print(f"dense resnet{arguments.depth}: test {100 * dense:.2f} %", flush=True)
    conditions = describe_environment("cpu")
    about = {name: conditions[name] for name in ("commit", "machine", "date")} | {"threads": arguments.threads}
    for share in arguments.shares:
        found = {}
        for how in (*PEERS, *OURS):
            made, seconds = time(lambda how=how, share=share: networks.made(how, share))
            small = networks.recalibrated(made)
            lost = 100 * (dense - networks.accuracy(small, test=True))
            found[how] = {"lost": lost, "seconds": seconds, "macs": networks.macs(small)}
            print(
                f"{share} {how:14} {found[how]['macs']:.3f} of the MACs, {lost:6.2f} points lost, {seconds:6.1f} s"
                + ", recalibrated" * (small is not made),
                flush=True,
            )
        for ours in OURS:
            for peer in PEERS:
                one, other = found[ours], found[peer]
                record = {"case": f"{ours} {share} resnet{arguments.depth}", "peer_name": peer}
                record |= {"ours": one["seconds"], "peer": other["seconds"], "ratio": other["seconds"] / one["seconds"]}
                record |= {"error_ours": one["lost"], "error_peer": other["lost"]}
                records.append(record | {"macs": one["macs"], "macs_peer": other["macs"]} | about)
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class> and test/<class>")
    parser.add_argument("--weights", type=Path, required=True, help="file of trained weights")
    parser.add_argument("--depth", type=int, default=20, help="of the CIFAR ResNet")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.33, 0.25], help="of the MACs")
    parser.add_argument("--images", type=int, default=1000, help="training images of fits, errors and batch norms")
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="folder where decoded images are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    records = run(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))
