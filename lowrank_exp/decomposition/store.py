"""One SVD per layer, kept on disk: it serves every rank of a sweep and every process of it."""

import hashlib
import json
import logging
from pathlib import Path

import torch
from torch import nn

from lowrank_exp.decomposition.svd import SVD, SVDDecomposition
from lowrank_exp.files.whole import check_sums, open_told, write_whole

log = logging.getLogger(__name__)


class SVDStore:
    """SVDs by the matrices of the weight and the decomposition; computed once, then read from `folder`.

    Without a folder nothing is kept. A file is written whole or not at all, and one that is not what was written is
    computed again, with a warning.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.used: set[str] = set()  # the names of the files that were asked for

    def __call__(self, decomposition: SVDDecomposition, layer: nn.Module) -> SVD:
        """`decomposition.svd(layer)`, from the store where it lies there."""
        if self.folder is None or layer.weight.is_meta:
            return decomposition.svd(layer)
        path = self.folder / f"{_key(decomposition, layer)}.pt"
        self.used.add(path.name)
        damaged = False
        if path.exists():
            try:
                check_sums(path)
                return SVD(*(t.to(layer.weight.device) for t in torch.load(path, weights_only=True)))
            except Exception as error:  # torch raises many kinds for files that are not whole
                log.warning("%s is damaged and is made anew (%s: %.200s)", path, type(error).__name__, error)
                damaged = True
        svd = decomposition.svd(layer)
        with write_whole(path, durable=False, first=not damaged) as temporary, open_told(temporary) as file:
            torch.save([t.cpu().contiguous() for t in svd], file)
        return svd


def _key(decomposition: SVDDecomposition, layer: nn.Module) -> str:
    weight = layer.weight.detach().cpu().contiguous()
    with torch.no_grad():  # by them, as two decompositions of one's own may have had one name
        matrices = decomposition.matrices(layer).detach().cpu().contiguous()
    kind, groups = type(layer).__name__, getattr(layer, "groups", 1)
    setting = [decomposition.name, decomposition.options(), list(weight.shape), str(weight.dtype), kind, groups]
    content = hashlib.sha256(json.dumps(setting, sort_keys=True).encode())
    content.update(matrices.view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:32]
