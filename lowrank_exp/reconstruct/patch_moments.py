"""Second moments of what every layer of a network sees, within a bound on memory.

Legend: G groups, P places, D entries of a patch.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.network.draws import kept_generators
from lowrank_exp.network.modes import evaluating
from lowrank_exp.reconstruct.held_rows import HeldRows, moments_within, second_bytes
from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.passes import forward, image_batches
from lowrank_exp.reconstruct.patches import patches_GPD


def patch_moments(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[Any],
    *,
    positions: int | None,
    seed: int,
    memory: int,
) -> Iterator[tuple[str, Moments | HeldRows]]:
    """Moments of the patches that each layer sees, in evaluation mode; as many layers in one pass as `memory` allows.

    Args:
        model: any network that takes one tensor.
        layers: convolutions and linear layers of it, by name.
        batches: can be iterated several times; tensors of images `(N, ...)`, or tuples with them in front.
        positions: so many random places of every image are looked at; None: all of them.
        seed: draws the places.
        memory: bytes that the moments of one pass may take; of a layer that needs more, its rows are held instead, in a
            pass of its own.

    Raises:
        ValueError: a layer is not reached by the data, or by numbers that are not finite; there is no room for what is
            to be known of its rows.
    """
    device = next(model.parameters()).device
    for names in _within(memory, layers):
        found = {name: moments_within(memory, name, layers[name]) for name in names}
        places = {name: torch.Generator().manual_seed(seed) for name in names}  # whichever layers are in the pass

        def see(name: str, found: dict[str, Moments | HeldRows] = found, places: dict[str, Any] = places) -> Any:
            def add(x: Tensor, y: Tensor) -> None:
                share = 1.0 if positions is None else positions / _places(layers[name], y)
                for rows_GPD in patches_GPD(layers[name], x):
                    found[name].add(rows_GPD if share >= 1 else _some(rows_GPD, share, places[name]))

            return add

        with kept_generators(), evaluating(model):
            for images in image_batches(batches, device, seed):
                forward(model, images, {layers[name]: see(name) for name in names})
        for name in names:
            if not found[name].count or not found[name].finite():
                what = "with numbers that are not finite" if found[name].count else "never"
                raise ValueError(f"{name}: the images reach it {what}, so the errors of its responses are not known")
            yield name, found.pop(name)


def _within(memory: int, layers: Mapping[str, nn.Module]) -> Iterator[list[str]]:
    """Runs of names whose moments, and those of one batch, stay within `memory` together; at least one name each."""
    some: list[str] = []
    for name in layers:
        sizes = [second_bytes(layers[one]) for one in [*some, name]]
        if some and sum(sizes) + max(sizes) > memory:
            yield some
            some = []
        some.append(name)
    if some:
        yield some


def _places(layer: nn.Module, y: Tensor) -> int:
    """Places of one image in the layer's output."""
    if isinstance(layer, nn.Linear):
        return max(1, y.numel() // (y.shape[-1] * len(y))) if y.dim() > 1 else 1
    return y.shape[-len(layer.kernel_size) :].numel()


def _some(rows_GPD: Tensor, share: float, generator: torch.Generator) -> Tensor:
    P = rows_GPD.shape[1]
    chosen = torch.randperm(P, generator=generator)[: max(1, round(share * P))]
    return rows_GPD[:, chosen.to(rows_GPD.device)]
