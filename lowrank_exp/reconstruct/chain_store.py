"""Chains of factors kept as soon as they are fitted, so that a fit which was stopped goes on with the next layer."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowrank_exp.files.whole import check_sums, open_told, write_whole

log = logging.getLogger(__name__)


class ChainStore:
    """Fitted chains by a key of what decides them, in a folder, or without one in memory.

    The images are not part of the keys: whoever names the folder sees to it that they are always the same.

    A file is written whole or not at all, and one that is not what was written is fitted anew, with a warning.

    >>> store, layer = ChainStore(), nn.Linear(2, 1)
    >>> store.write("key", layer)
    >>> torch.equal(store.read("key", nn.Linear(2, 1)).weight, layer.weight), store.read("other", layer)
    (True, None)
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._memory: dict[str, dict[str, Any]] = {}

    def read(self, key: str, skeleton: nn.Module) -> nn.Module | None:
        """`skeleton` with the weights that were kept; None where there are none."""
        record = self._memory.get(key)
        if self.folder is not None:
            path = self.folder / f"{key}.pt"
            try:
                check_sums(path)
                record = torch.load(path, weights_only=True)
            except FileNotFoundError:
                return None
            except Exception as error:  # torch raises many kinds for files that are not whole
                log.warning("%s is damaged and is fitted anew (%s: %.200s)", path, type(error).__name__, error)
                return None
        if record is None:
            return None
        skeleton.load_state_dict(record["state"])
        for name, parameter in skeleton.named_parameters():
            parameter.requires_grad_(name in record["trained"])
        return skeleton.train(record["training"])

    def write(self, key: str, chain: nn.Module) -> None:
        """Keep the weights of a chain."""
        record = {
            "state": {name: tensor.detach().cpu().clone() for name, tensor in chain.state_dict().items()},
            "trained": [name for name, parameter in chain.named_parameters() if parameter.requires_grad],
            "training": chain.training,
        }
        if self.folder is None:
            self._memory[key] = record
            return
        with write_whole(self.folder / f"{key}.pt", durable=False) as temporary, open_told(temporary) as file:
            torch.save(record, file)
