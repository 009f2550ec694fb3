"""How good a network is with some layers cut to some ranks, before any fine-tuning."""

import functools
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lowrank_exp.decomposition import Rank, decomposition_named
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.files.results import digest
from lowrank_exp.files.whole import write_whole
from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.draws import kept_generators
from lowrank_exp.rank import Choice, LayerProfile
from lowrank_exp.replacing import give_hooks_
from lowrank_exp.training.evaluate import evaluate

log = logging.getLogger(__name__)

QUALITIES = ("accuracy", "loss")
CHAINS = 256  # kept for rank sets to come


class NetworkScore:
    """`score(ranks)` for the rank policies that look at data: validation accuracy, or exp(-loss).

    The network is copied once. From one rank set to the next only layers whose rank differs are exchanged, by factors
    that are sliced from one SVD per layer; so a score costs the forward passes.

    Args:
        network: dense, or compressed before; it is not changed.
        layers: its profiles, for the decomposition of every layer.
        batches: images and labels to score on; they are gone through once and held in memory.
        quality: `accuracy` (a fraction), or `loss` for exp(-mean cross-entropy).
        device: where to compute.
        svds: where SVDs are kept.
        folder: where every score is stored as soon as it is measured, and looked up; None stores nothing. The caller
            names it by what decides the scores: the network, the images.
        progress: show a bar that counts scores.

    Raises:
        ValueError: an unknown quality, no images.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Mapping[str, LayerProfile],
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        quality: str = "accuracy",
        device: str = "cpu",
        svds: SVDStore | None = None,
        folder: Path | None = None,
        progress: bool = False,
    ) -> None:
        if quality not in QUALITIES:
            raise ValueError(f"quality={quality!r} is not known: {' or '.join(QUALITIES)}")
        self.network = copy_network(network).to(device).eval()
        self.layers, self.quality, self.device, self.folder = layers, quality, device, folder
        with kept_generators():
            self.batches = [(images.to(device), labels.to(device)) for images, labels in batches]
        self._svds = svds or SVDStore()
        self._dense = {name: module for name, module in self.network.named_modules() if name in layers}
        self._cut: dict[str, Choice] = {}
        self._chain = functools.lru_cache(CHAINS)(self._factorized)
        self._factorizer = functools.cache(self._taken_apart)
        self._bar = tqdm(desc="scoring", unit=" scores", leave=False, disable=not progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def __call__(self, ranks: Mapping[str, Rank | Choice | None]) -> float:
        """The score at these ranks; layers that are not named are dense. 0 where logits are not finite.

        Raises:
            ValueError: a layer or a rank that does not exist.
        """
        cut = self._choices(ranks)
        path = self.folder / f"{_key(cut)}.json" if self.folder is not None else None
        scores = _read(path)
        if scores is None:
            self._exchange_(cut)
            found = evaluate(self.network, self.batches, self.device)
            scores = {"accuracy": found.accuracy, "loss": found.loss}
            if path is not None:
                record = {"ranks": _told(cut), **scores}
                with write_whole(path, durable=False) as temporary:
                    temporary.write_text(json.dumps({**record, "digest": digest(record)}), encoding="utf-8")
        self._bar.update()
        accuracy, loss = scores["accuracy"], scores["loss"]
        if accuracy is None or loss is None:
            return 0.0
        return accuracy if self.quality == "accuracy" else math.exp(-loss)

    def _choices(self, ranks: Mapping[str, Rank | Choice | None]) -> dict[str, Choice]:
        if unknown := sorted(ranks.keys() - self.layers.keys()):
            raise ValueError(f"there is no layer {unknown[0]!r} to score; the layers are {', '.join(self.layers)}")
        given = {name: rank for name, rank in sorted(ranks.items()) if rank is not None}
        return {
            name: rank if isinstance(rank, Choice) else Choice(self.layers[name], rank) for name, rank in given.items()
        }

    def _exchange_(self, cut: Mapping[str, Choice]) -> None:
        for name in self._cut.keys() | cut.keys():
            now, wanted = _told_one(self._cut.get(name)), _told_one(cut.get(name))
            if now != wanted:
                chain = self._dense[name] if wanted is None else self._chain(name, *wanted)
                give_hooks_(chain, self.network.get_submodule(name))
                self.network.set_submodule(name, chain)
        self._cut = dict(cut)

    def _factorized(self, name: str, decomposition: str, options: str, rank: Rank) -> nn.Module:
        with torch.no_grad():
            return self._factorizer(name, decomposition, options)(rank).eval()

    def _taken_apart(self, name: str, decomposition: str, options: str) -> Callable[[Rank], nn.Module]:
        return decomposition_named(decomposition, **json.loads(options)).factorizer(self._dense[name], self._svds)


def _told_one(choice: Choice | None) -> tuple[str, str, Rank] | None:
    """What decides a layer's factors."""
    if choice is None:
        return None
    return choice.profile.decomposition, json.dumps(choice.profile.options, sort_keys=True), choice.rank


def _told(cut: Mapping[str, Choice]) -> dict[str, list]:
    return {name: list(_told_one(choice)) for name, choice in cut.items()}


def _key(cut: Mapping[str, Choice]) -> str:
    return digest(_told(cut))[:32]


def _read(path: Path | None) -> dict | None:
    """A stored score; None where there is none, or its file is damaged. Those of earlier versions have no digest."""
    try:
        record = json.loads(path.read_bytes()) if path is not None else None
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        record, problem = {}, str(error)[:200]
    else:
        problem = "its content has changed since it was written"
    if record is None:
        return None
    if isinstance(record, dict) and all(isinstance(record.get(name), int | float) for name in QUALITIES):
        expected = record.pop("digest", None)
        if expected in (None, digest(record)):
            return record
    log.warning("the score in %s is damaged and is measured anew (%s)", path, problem)
    return None
