"""The oracle: what silencing one filter alone does to the loss, measured for every filter."""

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lowrank_exp.checks import boolean, one_of
from lowrank_exp.network.cost import out_channels
from lowrank_exp.network.draws import kept_generators
from lowrank_exp.network.modes import evaluating
from lowrank_exp.pruning.criteria.bn_scale import norms_watched
from lowrank_exp.pruning.criteria.criterion import PLACES
from lowrank_exp.pruning.criteria.filters import scored_layers

SAME = 1e-5  # relative difference up to which the loss of the whole network is that of the file


@dataclass(frozen=True)
class Oracle:
    """The oracle as a criterion: the filters go first without which the loss, or the accuracy, changes least.

    It takes a pass over the images for every filter; `filter_scores` holds them in memory.

    Args:
        measure: `loss`; or `accuracy`, of which its fall counts, as in RePr's comparison of criteria.
        absolute: whether a change for the better counts as one for the worse; false: what is better gone goes first.
        at: what is silenced, see `oracle`.

    Raises:
        ValueError: another `measure` or `at`, an `absolute` that is neither true nor false.

    Source: see `oracle`; by accuracy: Prakash, Storer, Florencio, Zhang 2019, "RePr: improved training of
    convolutional filters", section on ranking metrics.
    """

    measure: str = "loss"
    absolute: bool = True
    at: str = "relu"

    def __post_init__(self) -> None:
        one_of("Oracle: measure", self.measure, ("loss", "accuracy"))
        one_of("Oracle: at", self.at, PLACES)
        boolean("Oracle: absolute", self.absolute)

    def scores(
        self,
        network: nn.Module,
        layers: Sequence[str],
        batches: Iterable[tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        path: str | os.PathLike | None = None,
    ) -> dict[str, Tensor]:
        """`oracle` on these images: by layer the scores `(O,)`.

        Args:
            network, layers, path: see `oracle`.
            batches: images and labels, gone through once.
            loss: of the network's output and the labels, the mean over the images.

        Raises:
            ValueError: no images; and what `oracle` raises.
        """
        device = next(network.parameters()).device
        with kept_generators():
            pairs = [(images.to(device), labels.to(device)) for images, labels in batches]
        if not (N := sum(len(images) for images, _ in pairs)):
            raise ValueError("Oracle looks at images, and the batches gave none")

        def score(network: nn.Module) -> float:
            with evaluating(network):
                return sum(self._of_batch(network(images), labels, loss) for images, labels in pairs) / N

        return oracle(network, layers, score, absolute=self.absolute, at=self.at, path=path)

    def _of_batch(self, output: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        """Summed over the images; of an accuracy the share that is missed."""
        if self.measure == "accuracy":
            return float((output.argmax(dim=1) != labels).sum())
        return float(loss(output, labels)) * len(labels)


def oracle(
    network: nn.Module,
    layers: Sequence[str],
    score: Callable[[nn.Module], float],
    *,
    absolute: bool = True,
    at: str = "relu",
    path: str | os.PathLike | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    r"""The change of the loss when one filter alone is silenced, for every filter of every layer.

    .. math:: s_f = |C(z_f = 0) - C| \quad\text{or}\quad s_f = C(z_f = 0) - C

    One evaluation per filter, and one of the whole network. With `path`, each is appended to that file as soon as it is
    known, and those that it holds are not measured again: a run that was killed goes on.

    Args:
        network: it is not changed.
        layers: names of convolutions and linear layers.
        score: the loss of the network it is given, on the same images each time, in eval mode; such as
            `lambda network: evaluate(network, batches).loss`.
        absolute: the paper's better oracle; False: signed, so that filters without which the loss is lower go first.
        at: what is silenced: `relu`, the map behind the batch norm, if that takes the layer's output as it is; `layer`,
            the layer's own output, after which a batch norm still adds its shift.
        path: of a file of JSON lines; None keeps none. The caller names it by what decides the losses: the network and
            the images.
        progress: show a bar that counts filters.

    Returns:
        By layer, in the given order, the scores `(O,)`, float64.

    Raises:
        ValueError: a name of no such layer, another `at`, a loss that is not finite, a file that is of other layers or
            whose loss of the whole network is another.

    Source: Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning convolutional neural networks for resource efficient
    inference", oracle pruning: oracle-abs and oracle-loss.
    """
    modules = scored_layers(network, layers)
    one_of("oracle: at", at, PLACES)
    with norms_watched(network, modules) as norms:
        whole = _finite(score(network), "the whole network")
    heading = {"at": at, "layers": {name: out_channels(layer) for name, layer in modules.items()}, "whole": whole}
    losses = _LossFile(None if path is None else Path(path), heading)
    changes = {}
    with tqdm(total=sum(heading["layers"].values()), unit=" filters", leave=False, disable=not progress) as bar:
        for name, layer in modules.items():
            silenced = [layer, network.get_submodule(norms[name])] if at == "relu" and name in norms else [layer]
            for f in range(out_channels(layer)):
                if (name, f) not in losses.known:
                    losses.add(name, f, _finite(_without(network, silenced, f, score), f"{name} without filter {f}"))
                bar.update()
            change_O = torch.tensor([losses.known[name, f] for f in range(out_channels(layer))], dtype=torch.float64)
            changes[name] = change_O - losses.whole
    return {name: change_O.abs() for name, change_O in changes.items()} if absolute else changes


def _without(network: nn.Module, silenced: list[nn.Module], f: int, score: Callable[[nn.Module], float]) -> float:
    """The loss with channel f of these modules' outputs at zero."""

    def silence(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        axis = -1 if isinstance(module, nn.Linear) else 1
        return output.index_fill(axis, torch.tensor(f, device=output.device), 0)

    hooks = [module.register_forward_hook(silence) for module in silenced]
    try:
        return score(network)
    finally:
        for hook in hooks:
            hook.remove()


def _finite(loss: float | None, what: str) -> float:
    if loss is None or not math.isfinite(loss):
        raise ValueError(f"oracle: the loss of {what} is {loss}; it must be a finite number")
    return float(loss)


class _LossFile:
    """The losses measured so far, by layer and filter, kept in a file of one line each behind a heading."""

    def __init__(self, path: Path | None, heading: dict) -> None:
        self.known: dict[tuple[str, int], float] = {}
        self.path, self.whole = path, heading["whole"]
        if path is None:
            return
        lines, whole_bytes = _whole_lines(path)
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            _append(path, heading)
            return
        self.whole = lines[0]["whole"]
        if any(lines[0][key] != heading[key] for key in ("at", "layers")):
            raise ValueError(f"{path} holds losses of other layers, or of another `at`: name another file")
        if not math.isclose(self.whole, heading["whole"], rel_tol=SAME):
            mismatch = f"loss {self.whole} of the whole network, not {heading['whole']}"
            raise ValueError(f"{path} holds losses of another network or other images ({mismatch}): name another file")
        self.known = {(line["layer"], line["filter"]): line["loss"] for line in lines[1:]}
        os.truncate(path, whole_bytes)

    def add(self, name: str, f: int, loss: float) -> None:
        self.known[name, f] = loss
        if self.path is not None:
            _append(self.path, {"layer": name, "filter": f, "loss": loss})


def _append(path: Path, line: dict) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _whole_lines(path: Path) -> tuple[list[dict], int]:
    """The lines that were written to their end, and how many bytes they are; the last one may have been cut off."""
    lines, length = [], 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        if not line.endswith(b"\n"):
            break
        lines.append(json.loads(line))
        length += len(line)
    return lines, length
