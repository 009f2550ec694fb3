"""Which tensors of a checkpoint are those of a network: containers, prefixes, and what lies beside."""

import os
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lowrank_exp.network.private import module_versions, set_module_versions_

# Keys under which people keep a network's tensors, those that are trained before running averages of them.
TRAINED = (
    *("state_dict", "model_state_dict", "model", "module", "net", "network", "net_state_dict", "network_state_dict"),
    *("model_state", "state", "weights", "model_weights", "params", "online_model", "student", "backbone", "encoder"),
)
AVERAGED = re.compile(r"(^|_)(ema|averaged?|avg|swa|teacher|target|shadow)(_|$)")
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # parts of names; of torch.compile ...
# What files of Lightning and of torch's AveragedModel hold beside a network.
BESIDE = re.compile(
    r"(n_averaged|((train|val|valid|test)_)?(criterion|loss(_fn|_func|_function)?|metrics?|acc(uracy)?))(\.|$)"
)
SHOWN = 5  # names in a message
DEPTH = 4  # mappings inside each other that are looked into


@dataclass(frozen=True)
class CheckpointPart:
    """Tensors in a checkpoint that may be those of a network.

    Attributes:
        keys: that lead to them, from the outside.
        prefix: what all their names began with.
        state: tensors by name, prefix and wrappers taken off; with the file's `_metadata`, if it has some.
        left_out: names of what lies beside them in the same mapping.
        wrapper: a part of `WRAPPERS` that was taken out of names; empty: none.
    """

    keys: tuple[str, ...]
    prefix: str
    state: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    wrapper: str = ""

    @property
    def place(self) -> str:
        """Keys and prefix as one name; empty: the whole file."""
        return ".".join([*self.keys, self.prefix.rstrip(".")]).strip(".")

    @property
    def known(self) -> bool:
        """Whether its keys are such as people keep networks under."""
        return all(key in TRAINED or AVERAGED.search(key.lower()) for key in self.keys)

    @property
    def order(self) -> tuple[bool, int]:
        """Of several that fit the first is taken: what was trained before averages of it, then as TRAINED has it."""
        words = self.place.lower().split(".") if self.place else []
        known = [TRAINED.index(word) if word in TRAINED else len(TRAINED) for word in words]
        return any(AVERAGED.search(word) for word in words), max(known, default=-1)

    def line_to_save(self, path: str | os.PathLike) -> str:
        """The line of Python that keeps this part in a file of its own."""
        path = str(path)
        imports, load = "torch", f"torch.load({path!r}, weights_only=True)"
        if path.endswith(".safetensors"):
            imports, load = "safetensors.torch, torch", f"safetensors.torch.load_file({path!r})"
        expression = load + "".join(f"[{key!r}]" for key in self.keys)
        if self.prefix:
            p = repr(self.prefix)
            expression = f"{{k.removeprefix({p}): v for k, v in {expression}.items() if k.startswith({p})}}"
        return f"import {imports}; torch.save({expression}, '{self.place.rpartition('.')[2] or 'network'}.pt')"

    def describe(self, others: Sequence["CheckpointPart"], path: str | os.PathLike) -> str:
        """One line that says what was taken of a file, and how to take something else; empty: all of it as it was."""
        sentence = [f"took {'.'.join(self.keys) or 'its tensors'}"]
        sentence += [f"without the prefix {self.prefix}"] if self.prefix else []
        sentence += [f"without {self.wrapper}. in names"] if self.wrapper else []
        sentence += [f"left out {list_names(self.left_out)}"] if self.left_out else []
        if others:
            places = list_names(other.place or "the outermost tensors" for other in others)
            sentence.append(
                f"which it prefers to {places} that would fit too (to have that: {others[0].line_to_save(path)})"
            )
        return f"{path}: {', '.join(sentence)}" if self.keys or len(sentence) > 1 else ""


def find_best_parts(content: Any, own: Mapping[str, Any]) -> list[CheckpointPart]:
    """The parts of a checkpoint that have every name of `own`, the one to take first; else the one with most of them.

    Counts of batches (`num_batches_tracked`) may be missing, and where a part has the shapes of `own`, those with other
    shapes are none. Names that are `own` stay as they are; from others parts of `WRAPPERS` are taken wherever they
    stand, and then what stands before.
    """
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    parts = [part for keys, state in mappings(content) for part in _parts(keys, state, own.keys(), len(needed))]
    whole = [part for part in parts if needed <= part.state.keys()]
    fitting = [part for part in whole if all(shape_of(part.state[name]) == shape_of(own[name]) for name in needed)]
    if whole:
        return sorted(fitting or whole, key=lambda part: part.order)
    return sorted(parts, key=lambda part: (-len(own.keys() & part.state.keys()), part.order))[:1]


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor; None for anything else."""
    return tuple(value.shape) if isinstance(value, Tensor) else None


def mappings(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every mapping of a checkpoint that has a tensor, and the keys that lead to it; the outermost first."""
    if not isinstance(content, Mapping) or len(keys) > DEPTH:
        return
    if any(isinstance(value, Tensor) for value in content.values()) and all(isinstance(key, str) for key in content):
        yield keys, content
    for key, value in content.items():
        if isinstance(key, str):
            yield from mappings(value, (*keys, key))


def _parts(keys: tuple[str, ...], state: Mapping[str, Any], own: Set[str], enough: int) -> Iterator[CheckpointPart]:
    """The parts of one mapping: one for every prefix before enough names of `own`, or before most of them."""
    for wrappers in (WRAPPERS, {*WRAPPERS, "module"}):
        renamed = {name: name if name in own else unwrapped(name, wrappers) for name in state}
        counts = Counter(
            name[: len(name) - len(end)] for name in renamed.values() for end in _list_ends(name) if end in own
        )
        prefixes = [prefix for prefix, count in counts.items() if count >= enough]
        if prefixes:
            break
    for prefix in prefixes or [max(counts, key=counts.__getitem__, default="")]:
        inside = {name: new.removeprefix(prefix) for name, new in renamed.items() if new.startswith(prefix)}
        aside = {name for name, new in inside.items() if new not in own and _is_beside(new, state[name])}
        taken = {new: state[name] for name, new in inside.items() if name not in aside}
        left_out = tuple(name for name in state if name not in inside or name in aside)
        wrapper = next((part for name, new in renamed.items() if name != new for part in _list_missing(name, new)), "")
        yield CheckpointPart(keys, prefix, _add_metadata(taken, state, prefix, wrappers), left_out, wrapper)


def _is_beside(name: str, value: Any) -> bool:
    """Whether something is not part of a network: not a tensor, or a criterion, a metric, a count of averages."""
    return not isinstance(value, Tensor) or BESIDE.match(name) is not None


def _list_ends(name: str) -> Iterator[str]:
    """A name, and what is left of it behind each dot."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name


def unwrapped(name: str, wrappers: Set[str] = WRAPPERS) -> str:
    """A name without what wrappers have put into it.

    >>> unwrapped("module._orig_mod.conv.weight")
    'module.conv.weight'
    """
    return ".".join(part for part in name.split(".") if part not in wrappers)


def _list_missing(name: str, new: str) -> list[str]:
    """The parts of a name that another one lacks."""
    return [part for part in name.split(".") if part not in new.split(".")]


def _add_metadata(
    taken: Mapping[str, Any], state: Mapping[str, Any], prefix: str, wrappers: Set[str]
) -> Mapping[str, Any]:
    """The tensors with what the file says of modules, such as their versions, under the modules' new names."""
    metadata = module_versions(state)
    if not isinstance(metadata, Mapping) or not metadata:
        return taken
    taken = OrderedDict(taken)
    places = {f"{unwrapped(name, wrappers)}.": value for name, value in metadata.items() if isinstance(name, str)}
    inside = {place: value for place, value in places.items() if place.startswith(prefix)}
    set_module_versions_(taken, {place.removeprefix(prefix).rstrip("."): value for place, value in inside.items()})
    return taken


def list_names(names: Any) -> str:
    """The first few names, and how many more there are.

    >>> list_names("abcdefg")
    'a, b, c, d, e and 2 more'
    """
    names = [str(name) for name in names]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
