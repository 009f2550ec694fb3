"""What a rank policy says about itself, in its own file: what it looks at, and whether it chooses decompositions."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

LOOKS_AT = ("score", "accuracy", "sensitivity", "errors", "responses")
WHY_DENSE = "the rank that {policy} wished is not cheaper than dense"

Policy = Callable[..., dict[str, Any]]
LooksAt = str | Iterable[str] | Callable[[Mapping[str, Any]], Iterable[str]]


def declares(
    *, looks_at: LooksAt = (), chooses: bool = False, why_dense: str = WHY_DENSE
) -> Callable[[Policy], Policy]:
    """Decorate a policy with what it says about itself; setting the attributes of these names does the same.

    Args:
        looks_at: what must be measured before it is asked, beside costs and weights: `score` (of whole rank sets, given
            as the argument `score`), `accuracy` (of layers alone, `with_accuracy`), `sensitivity`
            (`with_sensitivity`), `errors` and `responses` (`with_errors`, the latter with images; a job
            measures the former only where layers have several decompositions); or a function that tells it from the
            policy's options.
        chooses: it may be given layers with several decompositions, and returns a `Choice` of one.
        why_dense: the reason in a plan for a layer that it left dense; `{policy}` is its name.

    >>> @declares(looks_at="accuracy")
    ... def lowest(problem):
    ...     return {candidate.profile.name: candidate.ranks[0] for candidate in problem.candidates}
    >>> looked_at(lowest, {}), chooses_decompositions(lowest)
    (frozenset({'accuracy'}), False)
    """

    def declared(policy: Policy) -> Policy:
        for name, value in (("looks_at", looks_at), ("chooses", chooses), ("why_dense", why_dense)):
            setattr(policy, name, value)
        return policy

    return declared


def looked_at(policy: Policy, options: Mapping[str, Any]) -> frozenset[str]:
    """What the policy declares to look at, with these options and its defaults for the others.

    Raises:
        ValueError: something that nobody measures; or a `score` that is taken and not declared, or the reverse.
    """
    name, parameters = name_of(policy), inspect.signature(policy).parameters
    declared: LooksAt | None = getattr(plain_function(policy), "looks_at", None)
    if declared is None and "score" in parameters:
        raise ValueError(
            f"the {name} policy takes score, and does not declare that it looks at it: add the line "
            f"{name}.looks_at = ('score',) below it, or decorate it by lowrank_exp.rank.declares(looks_at='score')"
        )
    defaults = {key: one.default for key, one in parameters.items() if one.default is not one.empty}
    said = declared({**defaults, **options}) if callable(declared) else declared or ()
    names = {said} if isinstance(said, str) else set(said)
    if unknown := sorted(names - set(LOOKS_AT)):
        raise ValueError(
            f"the {name} policy says that it looks at {', '.join(unknown)}; looks_at may name {', '.join(LOOKS_AT)}"
        )
    if "score" in names and not any(one.kind is one.VAR_KEYWORD or key == "score" for key, one in parameters.items()):
        raise ValueError(f"the {name} policy says that it looks at score; it must take it as an argument of that name")
    return frozenset(names)


def chooses_decompositions(policy: Policy) -> bool:
    """Whether the policy may be given layers with several decompositions."""
    return bool(getattr(plain_function(policy), "chooses", False))


def why_dense(policy: Policy) -> str:
    """The reason in a plan for a layer that the policy left dense."""
    return getattr(plain_function(policy), "why_dense", WHY_DENSE).format(policy=name_of(policy))


def plain_function(policy: Policy) -> Policy:
    """A policy without the options that `functools.partial` has bound."""
    while isinstance(policy, functools.partial):
        policy = policy.func
    return policy


def name_of(policy: Policy) -> str:
    """What a policy is called in plans and messages.

    >>> name_of(functools.partial(sorted))
    'sorted'
    """
    function = plain_function(policy)
    return getattr(function, "__name__", type(function).__name__)
