"""Whether the classes and functions that a configuration names are there, and take the keys beside the name.

They are imported for that: what can be said without is said by `check_values`.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from hydra._internal.utils import _locate

from lowrank_exp.command_line.keys.kinds import inside, shown, unknown
from lowrank_exp.command_line.keys.root import ROOT, TARGETS

GIVEN_BY_US = ("weights",)  # of `model`: read here, not by the constructor
SLOW = "lowrank_exp.data."  # is imported with Lightning, which takes seconds
LATER = ("score",)  # of a policy: given by its caller


def check_targets(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a `_target_` that cannot be imported, does not take a key beside it, or lacks one.

    Args:
        config: resolved, trainings as `command_line.deltas.nest_recipes` gives them.
    """
    for name in ROOT.keys:
        for key, node in _nodes(config.get(name), name):
            if node["_target_"].startswith(SLOW) and node["_target_"] in TARGETS:
                continue  # its keys are known without it
            extra = GIVEN_BY_US if key == "model" else ()
            _check(key.removesuffix(".recipe"), {one: value for one, value in node.items() if one not in extra})


def check_packages(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a `_target_` whose package is not installed; none is imported, which may take seconds."""
    for name in ROOT.keys:
        for key, node in _nodes(config.get(name), name):
            package, dot, _ = node["_target_"].partition(".")
            if package and dot and package not in sys.modules and find_spec(package) is None:
                raise _not_imported(key, node["_target_"], f"ModuleNotFoundError: No module named {package!r}")


def _nodes(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All mappings with a `_target_`, the inner ones first, with their full names."""
    parts = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, part in parts:
        yield from _nodes(part, inside(key, name))
    if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
        yield key, node


def _not_imported(key: str, target: str, reason: str) -> ValueError:
    return ValueError(
        f"{key}._target_={shown(target)} cannot be imported: {reason}. Allowed is the full name of a class "
        "or function, such as package.module.Name, that is installed or lies in the working folder"
    )


def _check(key: str, node: Mapping[str, Any]) -> None:
    target = node["_target_"]
    try:
        called = _locate(target)
        parameters = dict(inspect.signature(called).parameters) if callable(called) else None
    except (TypeError, ValueError):
        return  # of builtins nobody knows the signature
    except Exception as error:
        raise _not_imported(key, target, _reason(error)) from error
    if parameters is None:
        raise ValueError(f"{key}._target_={shown(target)} is a {type(called).__name__}, not a class or function")
    names = [name for name in node if not name.startswith("_")]
    kinds = {parameter.kind for parameter in parameters.values()}
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for name in names:
            if name not in named:
                raise ValueError(f"{target} does not take {name}. {unknown(key, name, named)}")
    if "_args_" in node:
        return
    needed = [name for name, p in named.items() if p.default is p.empty]
    if node.get("_partial_"):  # the first one is given when it is called
        needed = [name for name in needed[1:] if name not in LATER]
    if missing := [name for name in needed if name not in names]:
        later = "" if node.get("_partial_") else f", or set {inside(key, '_partial_')}=true if its caller gives it"
        listed = ", ".join(needed)
        raise ValueError(f"{inside(key, missing[0])} is missing: {target} needs {listed}. Give it a value{later}")


def _reason(error: BaseException) -> str:
    """The first cause of a failed import, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".partition("\n")[0]
