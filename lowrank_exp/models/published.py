"""Weights that the makers of a network publish under a name: the file that a name stands for, and its tensors."""

import os
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor

DIGEST = re.compile(r"-([a-f0-9]{8,})\.")  # resnet18-f37072fd.pth: the file's SHA-256 begins with f37072fd
SPLIT_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")  # DenseNet files: norm.1 for norm1
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # classifiers of Inception and GoogLeNet that only training uses


@dataclass(frozen=True)
class PublishedWeights:
    """The published weights of one network, by name.

    Args:
        network: the network's name, for messages.
        num_classes: the outputs that the network at hand has.
        files: name of the weights -> address of their file, and the classes they know.
    """

    network: str
    num_classes: int
    files: Mapping[str, tuple[str, int]]

    def file(self, weights: str | os.PathLike) -> str | os.PathLike:
        """The file that `weights` stands for: the published one, fetched once, or `weights` itself, a path.

        Files lie where torch.hub and torchvision have them, in `torch.hub.get_dir()/checkpoints`.

        Raises:
            ValueError: for weights of another number of classes.
            FileNotFoundError: if `weights` is neither a name nor a file, or the file cannot be fetched.
        """
        if str(weights) not in self.files:
            if Path(weights).exists():
                return weights
            raise FileNotFoundError(
                f"weights={str(weights)!r} is not a file ({Path(weights).absolute()}), nor published weights of "
                f"{self.network}: it has {', '.join(self.files) or 'none'}"
            )
        address, classes = self.files[str(weights)]
        if classes != self.num_classes:
            raise ValueError(
                f"weights={weights} of {self.network} know {classes} classes, but num_classes={self.num_classes}: "
                f"set model.num_classes={classes} (the data may have fewer classes than the network), or "
                f"model.weights to a file of {self.num_classes} classes, or to null to start untrained"
            )
        return fetch(address, f"weights={weights} of {self.network}")

    def translate(self, state: Mapping[str, Tensor], known: Set[str]) -> dict[str, Tensor]:
        """The tensors of a published file under the names of the network at hand, `known`.

        Files of DenseNet have older names. Auxiliary classifiers are left out where the network has none.
        """
        named = {}
        for name, tensor in state.items():
            name = name if name in known else SPLIT_NAME.sub(r"\1\2", name)
            if name in known or not name.startswith(AUXILIARY):
                named[name] = tensor
        return named


def fetch(address: str, what: str) -> Path:
    """The file of that address below torch.hub's folder, downloaded if it is not there yet.

    A download is checked against the digest in its name and appears whole or not at all.

    Raises:
        FileNotFoundError: if it is not there and cannot be downloaded.
    """
    on_server = urlsplit(address).path
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(on_server).name
    if file.exists():
        return file
    digest = DIGEST.search(file.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(file), digest and digest.group(1))
    except (OSError, RuntimeError) as error:  # no network, no such file, no space; another digest
        raise FileNotFoundError(
            f"{what}: the file {file.name} is not in {folder}, and to download it (path {on_server}) failed: {error}. "
            "Put the file there from a machine with network access, or set model.weights to where you have it"
        ) from error
    return file
