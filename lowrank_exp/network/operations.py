"""What a forward pass computes, operation by operation, and which layer makes it compute that."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp.network.private import storage_id

PRODUCTS = ("mm", "addmm", "linear", "_scaled_mm")  # operations of a linear layer


class Counter(FlopCounterMode):
    """torch's counter without its tracker of modules, which fails under no_grad on views of parameters."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker = _Everywhere()


class _Everywhere:
    """Says of every operation that it belongs to the whole network."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


class Operations(TorchDispatchMode):
    """Counts the MACs of every operation for the innermost of `layers` that is being called, or as outside them.

    Attributes:
        macs: by layer.
        outside: by kind, `conv` and `linear`: MACs of convolutions that none of `layers` makes, of linear layers that
            lie in plain lists, and of both inside TorchScript.
        weights: by kind, entries of what those read as weights, each once; parameters of `layers` left out.
        uncounted: MACs of other operations outside layers: the products inside attention, functional linear maps.
        unregistered: the layers called that are not among `layers` and not TorchScript.
        open: the calls under way, the innermost last: module, and what it is given.
    """

    supports_higher_order_operators = True

    def __init__(self, network: nn.Module, layers: Mapping[nn.Module, Any], kinds: tuple[type, ...]) -> None:
        super().__init__()
        self.counter = Counter()
        self.macs = dict.fromkeys(layers, 0)
        self.outside, self._read = {"conv": 0, "linear": 0}, {"conv": set(), "linear": set()}
        self.uncounted = 0
        self.unregistered: set[nn.Module] = set()
        self.open: list[tuple[nn.Module, Any]] = []
        self._kinds = kinds
        self._owned = {_key(p) for layer in layers for p in layer.parameters()}
        self._sizes = {_key(p): p.numel() for p in network.parameters() if p.dim() > 1}
        self._made_of = {key: frozenset({key}) for key in self._sizes}  # by storage, the parameters that flowed into it
        self._alive = [StorageWeakRef(p.untyped_storage()) for p in network.parameters()]

    @property
    def weights(self) -> dict[str, int]:
        return {kind: sum(self._sizes[key] for key in keys - self._owned) for kind, keys in self._read.items()}

    @contextmanager
    def counted(self) -> Iterator[None]:
        """The stretch of code whose operations count; every call of a layer in it is noted, registered or not."""

        def before(module: nn.Module, inputs: tuple) -> None:
            a_layer = isinstance(module, self._kinds)
            if a_layer and module not in self.macs:
                self.unregistered.add(module)
            if a_layer or module in self.macs or isinstance(module, torch.jit.ScriptModule):
                self.open.append((module, inputs))

        def after(module: nn.Module, inputs: tuple, output: Any) -> None:
            while any(module is one for one, _ in self.open):  # calls inside it that raised, and were caught, too
                if self.open.pop()[0] is module:
                    break

        hooks = [
            nn.modules.module.register_module_forward_pre_hook(before),
            nn.modules.module.register_module_forward_hook(after),
        ]
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # one operation that no counter looks into
        try:
            with self.counter, self:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        before = self.counter.get_total_flops()
        output = function(*args, **(kwargs or {}))
        read = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        self._flow(read, [value for value in tree_leaves(output) if isinstance(value, Tensor)])
        if spent := (self.counter.get_total_flops() - before) // 2:
            self._count(str(getattr(function, "_overloadpacket", function)).removeprefix("aten."), read, spent)
        return output

    def _flow(self, read: list[Tensor], made: list[Tensor]) -> None:
        """Note which parameters are in what was made."""
        sources = frozenset().union(*(self._made_of.get(_key(tensor), ()) for tensor in read))
        for tensor in made if sources else ():
            key = _key(tensor)
            if key is not None and not sources <= self._made_of.get(key, frozenset()):
                self._made_of[key] = sources | self._made_of.get(key, frozenset())
                self._alive.append(StorageWeakRef(tensor.untyped_storage()))  # so that nothing else gets its number

    def _count(self, name: str, read: list[Tensor], spent: int) -> None:
        caller = next((module for module, _ in reversed(self.open)), None)
        if caller in self.macs:
            self.macs[caller] += spent
        elif "conv" in name:
            self._count_outside("conv", read[1], spent)
        elif caller is not None and name in PRODUCTS:
            self._count_outside("linear", read[-1], spent)
        else:
            self.uncounted += spent

    def _count_outside(self, kind: str, weight: Tensor, spent: int) -> None:
        self.outside[kind] += spent
        key = _key(weight)
        if key not in self._made_of:  # of a layer that is not registered, or a constant
            self._sizes[key], self._made_of[key] = weight.numel(), frozenset({key})
            self._alive.append(StorageWeakRef(weight.untyped_storage()))
        self._read[kind] |= self._made_of[key]


def _key(tensor: Tensor) -> int | None:
    """The number of a tensor's memory, which its views share; None where it has none."""
    try:
        return storage_id(tensor)
    except (NotImplementedError, RuntimeError):
        return None
