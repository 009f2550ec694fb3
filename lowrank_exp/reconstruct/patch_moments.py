"""Second moments of what every layer of a network sees, within a bound on memory.

Legend: G groups, P places, O out channels of one group, D entries of a patch.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from lowrank_exp.network.cost import out_channels
from lowrank_exp.network.draws import kept_generators
from lowrank_exp.network.modes import evaluating
from lowrank_exp.reconstruct.held_rows import HeldRows, moments_within, second_bytes
from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.passes import See, forward, image_batches, names_within
from lowrank_exp.reconstruct.patch_sums import patch_sums
from lowrank_exp.reconstruct.patches import patches_GPD, responses_GPO


def patch_moments(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[Any],
    *,
    seed: int,
    memory: int,
    of_responses: Container[str] = (),
) -> Iterator[tuple[str, Moments | HeldRows]]:
    """Moments of the patches that each layer sees, in evaluation mode; as many layers in one pass as `memory` allows.

    Args:
        model: any network that takes one tensor.
        layers: convolutions and linear layers of it, by name.
        batches: can be iterated several times; tensors of images `(N, ...)`, or tuples with them in front.
        seed: of a loader that draws its order.
        memory: bytes that the moments of one pass may take; of a layer that needs more, its rows are held instead, in a
            pass of its own.
        of_responses: layers of which the moments are those of the responses without the bias, which are far smaller.

    Raises:
        ValueError: a layer is not reached by the data, or by numbers that are not finite; there is no room for what is
            to be known of its rows.
    """
    device = next(model.parameters()).device
    needed = {name: _bytes(layer, name in of_responses) for name, layer in layers.items()}
    for names in names_within(memory, needed):
        found = {
            name: Moments() if name in of_responses else moments_within(memory, name, layers[name]) for name in names
        }

        def see(name: str, found: dict[str, Moments | HeldRows] = found) -> See:
            return (_responses if name in of_responses else _patches)(layers[name], found[name])

        with kept_generators(), evaluating(model):
            for images in image_batches(batches, device, seed):
                forward(model, images, {layers[name]: see(name) for name in names})
        for name in names:
            if not found[name].count or not found[name].finite():
                what = "with numbers that are not finite" if found[name].count else "never"
                raise ValueError(f"{name}: the images reach it {what}, so the errors of its responses are not known")
            yield name, found.pop(name)


def _patches(layer: nn.Module, moments: Moments | HeldRows) -> See:
    def add(x: Tensor, y: Tensor) -> None:
        if isinstance(moments, HeldRows):
            for x_GPD in patches_GPD(layer, x):
                moments.add(x_GPD)
            return
        for sums in patch_sums(layer, x):
            moments.add_sums(sums.count, sums.rows, sums.products)

    return add


def _responses(layer: nn.Module, moments: Moments | HeldRows) -> See:
    def add(x: Tensor, y: Tensor) -> None:
        for y_GPO in responses_GPO(layer, y):
            bias_GO = None if layer.bias is None else layer.bias.detach().to(y_GPO).reshape(len(y_GPO), 1, -1)
            moments.add(y_GPO if bias_GO is None else y_GPO - bias_GO)

    return add


def _bytes(layer: nn.Module, of_responses: bool) -> int:
    G = getattr(layer, "groups", 1)
    return 8 * G * (out_channels(layer) // G) ** 2 if of_responses else second_bytes(layer)
