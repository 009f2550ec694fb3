"""Modules that only pass on to the one module they wrap, and the names that a network has without them."""

from collections.abc import Iterator

from torch import nn

from lowrank_exp.network.private import own_modules

# Classes of torch, by name so that none of them has to be imported, and under which name they hold what they wrap.
_HELD_AS = {
    "AveragedModel": "module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


def held_as(module: nn.Module) -> str | None:
    """The name under which a wrapper holds what it wraps; None where `module` is not a wrapper.

    >>> held_as(nn.DataParallel(nn.Linear(2, 2))), held_as(nn.Sequential(nn.Linear(2, 2)))
    ('module', None)
    """
    for kind in type(module).__mro__:
        name = _HELD_AS.get(kind.__name__)
        if name is not None and kind.__module__.startswith("torch."):
            return name if name in own_modules(module) else None
    return None


def unwrap(module: nn.Module) -> nn.Module:
    """`module` itself, or what it wraps, however often it is wrapped."""
    while (name := held_as(module)) is not None:
        module = own_modules(module)[name]
    return module


def plain_names(model: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, str, nn.Module]]:
    """Every module of `model` with its name and the name that it has without wrappers.

    >>> [names[:2] for names in plain_names(nn.DataParallel(nn.Sequential(nn.ReLU())))]
    [('', ''), ('module', ''), ('module.0', '0')]
    """
    plain: dict[str, str] = {}
    held_name: dict[str, str | None] = {}
    for name, module in model.named_modules(remove_duplicate=remove_duplicate):
        parent, _, own = name.rpartition(".")
        if not name or held_name[parent] == own:
            plain[name] = plain.get(parent, "")
        else:
            plain[name] = join_names(plain[parent], own)
        held_name[name] = held_as(module)
        yield name, plain[name], module


def full_name(model: nn.Module, plain: str) -> str:
    """The name in `model` of what is called `plain` without wrappers; parts that do not exist yet stay as they are.

    >>> full_name(nn.DataParallel(nn.Sequential(nn.ReLU())), "0")
    'module.0'
    """
    parts, rest, module = [], plain.split(".") if plain else [], model
    while True:
        while (held_name := held_as(module)) is not None:
            parts.append(held_name)
            module = own_modules(module)[held_name]
        if not rest or own_modules(module).get(rest[0]) is None:
            return ".".join([*parts, *rest])
        module = own_modules(module)[rest[0]]
        parts.append(rest.pop(0))


def set_layer_(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` in the place of what `model` has under a name, also where that is what `torch.compile` wraps."""
    model.set_submodule(name, layer)
    parent = model.get_submodule(name.rpartition(".")[0])
    if held_as(parent) == "_orig_mod":
        parent.__setstate__(parent.__getstate__())  # it calls what it was made with, until it is set up again


def join_names(parent: str, name: str) -> str:
    """The name of a module within another, either of which may be empty."""
    return f"{parent}.{name}" if parent and name else parent or name
