"""One forward pass seen from outside: what was called, what was computed, and what came out."""

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from lowrank_exp.network.private import contents, times_written

SEED = 0


@dataclass
class Pass:
    """What a forward pass did; `used` has the ids of the modules that were called and of parameters computed with."""

    calls: list[str] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    error: Exception | None = None
    used: set[int] = field(default_factory=set)

    def differs(self, other: "Pass") -> set[str]:
        """In what the two are not the same: calls, operations, outputs, error."""
        same = {
            "error": (self.error is None) == (other.error is None),
            "calls": self.calls == other.calls,
            "operations": self.operations == other.operations,
            "outputs": self.error is not None or other.error is not None or are_alike(self.outputs, other.outputs),
        }
        return {what for what, so in same.items() if not so}


def observe(model: nn.Module, x: Tensor, names: Mapping[int, str]) -> Pass:
    """Run `model` on a copy of `x`, and tell what it did; `names` are those of modules by `id`.

    An exception of the network's own code is kept, not raised. Draws of random numbers are the same every time.
    """
    seen = Pass()

    def before(module: nn.Module, inputs: tuple) -> None:
        if (name := names.get(id(module))) is not None:
            seen.calls.append(name)
            seen.used.add(id(module))

    handle = register_module_forward_pre_hook(before)
    try:
        with _same_draws(x.device), _Operations(seen):
            output = model(x.clone())
        seen.outputs = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves(output)]
    except Exception as error:  # whatever a network's own code raises
        seen.error = error
    finally:
        handle.remove()
    return seen


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Attributes, submodules, parameters and buffers of every module are afterwards what they were before.

    So are the numbers in buffers that were changed in place.
    """
    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    before = [(content, dict(content)) for module in modules for content in contents(module)]
    numbers = [(buffer, buffer.clone(), versions(buffer)) for buffer in model.buffers()]
    try:
        yield
    finally:
        for now, content in before:
            if now.keys() != content.keys() or any(now[name] is not content[name] for name in content):
                now.clear()
                now.update(content)
        with torch.no_grad():
            for buffer, values, version in numbers:
                if versions(buffer) != version:
                    buffer.copy_(values)


def leaves(value: Any) -> Iterator[Any]:
    """Tensors, numbers and strings of an output: in tuples, lists, mappings, dataclasses and other objects."""
    stack, known = [value], {}
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor | str | bytes | int | float | complex):
            yield value
            continue
        if value is None or id(value) in known:
            continue
        known[id(value)] = value
        if isinstance(value, Mapping):
            stack += list(value.values())[::-1]
        elif isinstance(value, list | tuple):
            stack += list(value)[::-1]
        elif hasattr(value, "__dict__") and not isinstance(value, type | nn.Module) and not callable(value):
            stack += list(vars(value).values())[::-1]


def versions(value: Any) -> list[int]:
    """How often each tensor was changed in place."""
    return [times_written(leaf) for leaf in leaves(value) if isinstance(leaf, Tensor) and not leaf.is_inference()]


def are_alike(outputs: list[Any], others: list[Any]) -> bool:
    """Whether outputs are the same but for rounding; on the meta device, whether their shapes are."""
    return len(outputs) == len(others) and all(_alike(one, other) for one, other in zip(outputs, others, strict=True))


def _alike(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and (one == other or one != one)
    if (one.shape, one.dtype, one.device, one.layout) != (other.shape, other.dtype, other.device, other.layout):
        return False
    if one.is_meta or one.layout != torch.strided:
        return True
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    tolerance = torch.finfo(one.dtype).eps ** 0.75
    one, other = (t.to(torch.complex128 if t.is_complex() else torch.float64) for t in (one, other))
    size = one.abs().nan_to_num(0.0, 0.0, 0.0).max().item() if one.numel() else 0.0
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * size, equal_nan=True)


class _Operations(TorchDispatchMode):
    """Writes down every operation of torch: its name, the shapes, types and numbers it is given, and parameters."""

    def __init__(self, seen: Pass) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        arguments = []
        for leaf in leaves((args, kwargs)):
            if isinstance(leaf, nn.Parameter):
                self.seen.used.add(id(leaf))
            arguments.append((tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf)
        self.seen.operations.append(f"{func} {arguments}")
        return func(*args, **(kwargs or {}))


@contextmanager
def _same_draws(device: torch.device) -> Iterator[None]:
    """The generators of Python, NumPy and torch start at `SEED`, and are afterwards where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if "torch._dynamo" in sys.modules:  # a part that torch.compile has compiled is run as it is written
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            random.seed(SEED)
            np.random.seed(SEED)
            torch.random.default_generator.manual_seed(SEED)
            if device.type == "cuda":
                torch.cuda.manual_seed(SEED)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
