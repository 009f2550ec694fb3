"""The state of a network as a file holds it: tensors and plain values by the names that it has without wrappers."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from lowrank_exp.decomposition.codebook import Codebook, stored_state
from lowrank_exp.network.private import module_versions, own_buffers, own_parameters, set_module_versions_
from lowrank_exp.network.wrappers import held_as, join_names, plain_names
from lowrank_exp.network_file.coding import Indices
from lowrank_exp.text.shown import shown

EXTRA = "_extra_state"  # torch's name for what `get_extra_state` gives
DEEPEST = 50


class NetworkState(NamedTuple):
    """What `state_dict` gives.

    Attributes:
        entries: the network's own, by names without wrappers.
        wrappers: those of wrappers themselves, such as the number of averaged models.
        metadata: by module: the version of its state, and what else its class adds.
    """

    entries: dict[str, Any]
    wrappers: dict[str, Any]
    metadata: dict[str, dict[str, Any]]


class _Names(NamedTuple):
    modules: dict[str, nn.Module]
    plain: dict[str, str]

    @classmethod
    def of(cls, model: nn.Module) -> "_Names":
        found = list(plain_names(model, remove_duplicate=False))
        return cls({name: module for name, _, module in found}, {name: plain for name, plain, _ in found})

    def key(self, key: str) -> tuple[str, bool]:
        """A key of the state without wrappers, and whether it is of a wrapper itself."""
        owner = key.rpartition(".")[0]
        while owner not in self.plain:
            owner = owner.rpartition(".")[0]
        own, module = key[len(owner) :].removeprefix("."), self.modules[owner]
        of_wrapper = held_as(module) is not None and (own in (*own_parameters(module), *own_buffers(module), EXTRA))
        return join_names(self.plain[owner], own), of_wrapper


def network_state(model: nn.Module) -> NetworkState:
    """The state of `model`: tensors detached and on the CPU, extra state where it is of plain values and tensors.

    Raises:
        ValueError: an entry that a file of plain values and tensors cannot hold, by name; two of the same name.
    """
    names, state = _Names.of(model), stored_state(model)
    entries: dict[str, Any] = {}
    wrappers: dict[str, Any] = {}
    for key, value in state.items():
        plain, of_wrapper = names.key(key)
        place = wrappers if of_wrapper else entries
        if plain in place:
            raise ValueError(f"two entries of the network's state are called {plain!r} without the wrappers around it")
        place[plain] = _make_portable(key, value)
    metadata = {}
    for name, found in module_versions(state).items():
        # A graph of torch.fx has lost the classes of the modules that it went through, and so their versions.
        if name in names.modules and not _is_rebuilt(names.modules[name]):
            metadata[names.plain[name]] = _to_plain(f"the metadata of {name!r}", found)
    return NetworkState(entries, wrappers, metadata)


def load_state_(model: nn.Module, state: NetworkState) -> None:
    """Load what `network_state` gave into a network of the same names and shapes, wrapped or not, in place.

    A module that the metadata do not name gets those that it would write itself. Entries of wrappers that `model` has
    not are left out, and those that `state` has not stay as they are.
    """
    names, own = _Names.of(model), model.state_dict()
    loaded: OrderedDict[str, Any] = OrderedDict()
    for key, value in own.items():
        plain, of_wrapper = names.key(key)
        loaded[key] = state.wrappers.get(plain, value) if of_wrapper else state.entries[plain]
    versions = {}
    for name, found in module_versions(own).items():
        wrapper = name in names.modules and held_as(names.modules[name]) is not None
        known = None if wrapper else state.metadata.get(names.plain.get(name, name))
        versions[name] = found if known is None else known
    set_module_versions_(loaded, versions)
    model.load_state_dict(loaded)


def own_entries(model: nn.Module) -> dict[str, Any]:
    """The entries of the network's own state by names without wrappers, as they are."""
    names, found = _Names.of(model), {}
    for key, value in model.state_dict(keep_vars=True).items():
        plain, of_wrapper = names.key(key)
        if not of_wrapper:
            found[plain] = value
    return found


def indices_of(model: nn.Module) -> dict[str, Indices]:
    """The entries of the network's state that are the indices of a codebook."""
    found = ((plain, module) for _, plain, module in plain_names(model) if isinstance(module, Codebook))
    return {join_names(plain, "indices"): Indices(book.bits, book.blocks) for plain, book in found}


def _is_rebuilt(module: nn.Module) -> bool:
    return held_as(module) is not None or type(module) is nn.Module or isinstance(module, fx.GraphModule)


def _make_portable(key: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return _portable_tensor(key, value)
    if key.rpartition(".")[2] == EXTRA:
        return _to_plain(key, value)
    raise ValueError(
        f"{key} is a {type(value).__name__} and not a tensor, as torch's quantization leaves in a network: a file of "
        "plain tensors cannot hold it. Save the network as it was before that"
    )


def _portable_tensor(key: str, tensor: Tensor) -> Tensor:
    if is_lazy(tensor):
        raise ValueError(f"{key} has no shape yet: run the network once, then save it")
    if tensor.is_meta:
        raise ValueError(
            f"{key} is on the meta device: it has a shape and no numbers, so there is nothing to save. Build the "
            "network on another device and load its weights first"
        )
    plain = tensor.detach().cpu()
    if type(plain) is not Tensor or plain.is_quantized or plain.layout != torch.strided:
        kind = plain.dtype if plain.is_quantized else plain.layout if type(plain) is Tensor else type(plain).__name__
        raise ValueError(f"{key} is a tensor of another kind ({kind}): a file of plain tensors cannot hold it")
    stored = plain.untyped_storage().nbytes()
    return plain.contiguous() if stored < plain.numel() * plain.element_size() else plain  # a view that repeats numbers


def _to_plain(name: str, value: Any, depth: int = 0) -> Any:
    """`value` with its tensors detached and on the CPU, if it is made of plain values and tensors alone."""
    if isinstance(value, Tensor):
        return _portable_tensor(name, value)
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    inner = partial(_to_plain, name, depth=depth + 1)
    if depth < DEEPEST and isinstance(value, Mapping):
        return {inner(key): inner(one) for key, one in value.items()}
    if depth < DEEPEST and type(value) in (list, tuple):
        return type(value)(inner(one) for one in value)
    raise ValueError(
        f"{name} holds a {type(value).__name__} ({shown(value)}): only None, numbers, strings, tensors, and lists, "
        "tuples and mappings of these can be saved"
    )
