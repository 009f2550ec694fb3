"""Runtimes by name: ours are the modules of this room, others are named by their import path."""

import importlib
import inspect
import pkgutil

from lowrank_exp.runtime.base import Runtime


def runtimes_by_name() -> dict[str, type[Runtime]]:
    """The classes of our runtimes, each by the name that it says.

    >>> runtimes_by_name()["eager"].__name__
    'Eager'
    """
    room = importlib.import_module(__package__)
    found = {}
    for module in pkgutil.iter_modules(room.__path__, f"{__package__}."):
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and issubclass(kind, Runtime) and not inspect.isabstract(kind):
                found[kind.name] = kind
    return found


def installed_runtimes() -> list[str]:
    """The names of our runtimes that can be used here, in order."""
    return sorted(name for name, kind in runtimes_by_name().items() if kind.missing() is None)


def runtime_named(name: str, *, threads: int | None = None) -> Runtime:
    """The runtime called `name`, one of ours or the import path of another's class: `my_package.MyRuntime`.

    Args:
        threads: of one forward pass; None: as many as torch has.

    Raises:
        ValueError: an unknown name, with the known ones; a path that leads to no runtime; or one that lacks something
            here, such as the extra that brings it.

    >>> runtime_named("eager", threads=1).describe()["threads"]
    1
    """
    kind = runtimes_by_name().get(name) or _imported(name)
    if (missing := kind.missing()) is not None:
        raise ValueError(f"the runtime {name} cannot be used here: {missing}")
    try:
        return kind(threads=threads)
    except TypeError as error:
        raise ValueError(
            f"the runtime {name} cannot be made with threads={threads} ({error}): a runtime defines prepare and "
            "describe, and its other options have defaults"
        ) from error


def _imported(name: str) -> type[Runtime]:
    known = ", ".join(sorted(runtimes_by_name()))
    module, dot, kind = str(name).rpartition(".")
    if not dot:
        raise ValueError(
            f"unknown runtime {name!r}; known: {known}. One of your own is named by its import path, such as "
            "my_package.MyRuntime"
        )
    try:
        found = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"the runtime {name!r} cannot be imported ({error}): the module must be installed or lie in the working "
            f"directory. Those of our own are {known}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise ValueError(
            f"the runtime {name!r} is not one: it must be a class that inherits from lowrank_exp.runtime.Runtime"
        )
    return found
