"""A network without its numbers, and what to do with one that needs them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.inputs import like_network
from lowrank_exp.network.modes import evaluating

Answer = TypeVar("Answer")


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` on the meta device: shapes without numbers, but for integer buffers, which are structure."""
    memo: dict[int, Any] = {
        id(b): torch.empty_like(b, device="meta") if b.is_floating_point() else b.clone() for b in model.buffers()
    }
    memo |= {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy_network(model, memo)


def by_shapes(ask: Callable[[nn.Module, Tensor], Answer], model: nn.Module, example_input: Tensor) -> Answer:
    """What `ask(network, example)` says of a copy of `model` on the meta device.

    Where that fails, of a copy in memory: there are networks that make constants in their forward pass, look at values
    or move their input, all of which needs numbers.

    Raises:
        Exception: what `ask` raises of the copy in memory; of a model on the meta device itself, what it raises there.
    """
    shapes = meta_copy(model)
    try:
        return ask(shapes, example_input.to("meta"))
    except Exception:  # whatever the network's own code raises without numbers
        if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            raise
        return ask(copy_network(model).cpu(), example_input.cpu())


def copy_that_runs(model: nn.Module, examples: Iterable[Tensor]) -> tuple[nn.Module, Tensor, Any]:
    """A copy of `model` whose forward pass works, an input that it takes, and what it gives for it.

    It lies on the meta device, or in memory where the network needs numbers, see `by_shapes`; the input is the first of
    `examples`, each of one image, that will do.

    Raises:
        ValueError: there is none, or the network cannot be copied.
    """
    copies = [meta_copy(model)]
    for example in examples:
        for number in range(2):
            if number == len(copies):
                copies.append(copy_network(model).cpu())
            try:
                with evaluating(copies[number]):
                    return copies[number], example, copies[number](like_network(example, copies[number]))
            except Exception as error:  # whatever the network's own code raises
                failed = error
    shape = tuple(example.shape)
    raise ValueError(
        f"the network fails on an image of shape {shape}, on one of zeros and on the first of the training data "
        f"({type(failed).__name__}: {failed}): it must take a batch of images, "
        f"(N, {', '.join(map(str, shape[1:]))}), on the device of its parameters, and give logits (N, classes)"
    ) from failed


@contextmanager
def finite(network: nn.Module) -> Iterator[None]:
    """Parameters that the network gets meanwhile, of whatever numbers lay in memory, become small random ones."""
    before = set(map(id, network.parameters()))
    yield
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if id(parameter) not in before and not parameter.is_meta:
                numbers = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(numbers / max(1, parameter[0].numel()) ** 0.5)
