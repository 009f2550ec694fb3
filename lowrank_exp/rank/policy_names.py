"""Rank policies by name: ours are the files of `lowrank_exp.rank.policies`, others are named by their import path."""

import importlib
import pkgutil

from lowrank_exp.rank import policies
from lowrank_exp.rank.declares import Policy, chooses_decompositions


def policy_names(choosing: bool = False) -> list[str]:
    """The names of our policies, in order; with `choosing` of those that choose among decompositions.

    >>> policy_names(choosing=True)
    ['alds', 'knapsack']
    """
    names = sorted(module.name for module in pkgutil.iter_modules(policies.__path__))
    return [name for name in names if not choosing or chooses_decompositions(policy_named(name))]


def policy_named(name: str) -> Policy:
    """The policy called `name`, one of ours or the import path of another: `my_package.my_policy`.

    Raises:
        ValueError: an unknown name, with the known ones, or a path that leads to no function.
    """
    known = policy_names()
    if name in known:
        return getattr(importlib.import_module(f"{policies.__name__}.{name}"), name)
    module, dot, function = name.rpartition(".")
    if not dot:
        raise ValueError(
            f"unknown rank policy {name!r}; known: {', '.join(known)}. One of your own is named by its "
            "import path, such as my_package.my_policy"
        )
    try:
        policy = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"the rank policy {name!r} cannot be imported ({error}): the module must be installed or lie in the "
            f"working directory. Those of our own are {', '.join(known)}"
        ) from error
    if not callable(policy):
        raise ValueError(f"the rank policy {name!r} is a {type(policy).__name__}; a policy is a function of a Problem")
    return policy
