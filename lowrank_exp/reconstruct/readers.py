"""What reads a layer's output: a batch norm, a ReLU, or something else.

Legend: O out channels; y the layer's output, y' = a y + c what the ReLU gets.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

_RELU = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
# Pooling by the maximum commutes with the ReLU; dropout does nothing in evaluation mode.
_THROUGH = {torch.max_pool1d, torch.max_pool2d, torch.max_pool3d, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d}
_THROUGH |= {F.max_pool1d, F.max_pool2d, F.max_pool3d}


@dataclass(frozen=True)
class Reader:
    """The ReLU behind a layer and the batch norm between them, or neither.

    `relu` is False where anything but a ReLU gets the output: then what is wanted is the output itself. `a` and `c`
    have shape `(O,)` and are None without a batch norm.
    """

    relu: bool
    a: Tensor | None = None
    c: Tensor | None = None


def readers(model: nn.Module, names: Mapping[str, nn.Module], run: Callable[[], Any]) -> dict[str, Reader]:
    """The reader of every layer in `names`, as one forward pass shows.

    A layer's output belongs to a ReLU if each call's output is read by nothing but a ReLU, or by nothing but a batch
    norm (of running statistics) whose output is read by nothing but a ReLU; by functions or by modules. Pooling by the
    maximum may stand between.

    Args:
        model: in evaluation mode.
        names: layers by name, all parts of `model`.
        run: makes the forward pass.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)).eval()
    >>> reader_of = readers(net, {"0": net[0], "2": net[2]}, lambda: net(torch.ones(1, 3, 8, 8)))
    >>> reader_of["0"].relu, reader_of["2"].relu
    (True, False)
    """
    trace = _Trace()
    with _note_outputs(names, trace), trace:
        run()
    reader_of = {}
    for name in names:
        seen = [trace.reader(output) for output in trace.outputs[name]]
        alike = bool(seen) and all(one.relu and one.a is seen[0].a for one in seen)
        reader_of[name] = seen[0] if alike else Reader(relu=False)
    return reader_of


class _Trace(TorchFunctionMode):
    """Every function's tensors, by identity; all of them are kept until the end, so that no identity comes again."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, list[Tensor]] = {}
        self._reads: dict[int, list[tuple[Any, Tensor, tuple, dict]]] = {}
        self._kept: list[Any] = []
        self._scales: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) or (
            isinstance(result, tuple | list) and any(isinstance(r, Tensor) for r in result)
        ):
            self._kept.append((args, kwargs, result))
            for value in [*args, *kwargs.values()]:
                for tensor in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(tensor, Tensor):
                        self._reads.setdefault(id(tensor), []).append((func, result, args, kwargs))
        return result

    def reader(self, tensor: Tensor, read: int = 0, normed: bool = False) -> Reader:
        """What reads `tensor`, its first `read` readers left aside; `normed` behind a batch norm."""
        reads = self._reads.get(id(tensor), [])[read:]
        if not reads:
            return Reader(relu=False)
        func, result, args, kwargs = reads[0]
        same = result is tensor  # in place, or nothing done: the readers after this one read the result
        if (len(reads) > 1 and not same) or not isinstance(result, Tensor):
            return Reader(relu=False)
        if func in _RELU:
            return Reader(relu=True)
        behind = read + 1 if same else 0
        if func in _THROUGH:
            return self.reader(result, behind, normed)
        if func is F.batch_norm and not normed and self.reader(result, behind, normed=True).relu:
            scale = _scale(*args, **kwargs)
            return Reader(relu=False) if scale is None else Reader(True, *self._affine_once(args, kwargs, scale))
        return Reader(relu=False)

    def _affine_once(self, args: tuple, kwargs: dict, scale: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The same tensors for the same batch norm, so that two calls can be compared."""
        key = tuple(id(value) for value in [*args[1:], *kwargs.values()] if isinstance(value, Tensor))
        return self._scales.setdefault(key, scale)


def _scale(
    input: Tensor,  # the names are those of torch's function
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor] | None:
    """a and c of a batch norm by running statistics, `(O,)` each; None where it goes by those of the batch."""
    if training or running_mean is None or running_var is None:
        return None
    a_O = (running_var.double() + eps).rsqrt()
    a_O = a_O if weight is None else a_O * weight.double()
    c_O = -running_mean.double() * a_O
    return a_O, c_O if bias is None else c_O + bias.double()


@contextmanager
def _note_outputs(names: Mapping[str, nn.Module], trace: _Trace) -> Iterator[None]:
    """Every call's output of the layers goes to `trace.outputs`."""
    hooks = []
    try:
        for name, layer in names.items():
            trace.outputs[name] = []
            hooks.append(layer.register_forward_hook(lambda _, __, y, name=name: trace.outputs[name].append(y)))
        yield
    finally:
        for hook in hooks:
            hook.remove()
