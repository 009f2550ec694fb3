"""What a rank policy looks at beside costs and weights, so that it can be measured before the policy is asked."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lowrank_exp.rank.allocate import name_of, plain_function, policy_named

MEASURED = ("measured", "A_m", "A_c")  # metrics and curves of measured accuracy
LOOKS_AT = ("accuracy", "sensitivity")


def needs(policy: str | Callable, options: Mapping[str, Any]) -> frozenset[str]:
    """`score` (of whole rank sets), `accuracy` (`with_accuracy`), `sensitivity` (`with_sensitivity`); mostly nothing.

    A function asks for the first by a parameter of that name, for the others by an attribute, such as
    `my_policy.looks_at = ("accuracy",)`, or by what its options `metric` and `curve` are set to (`measured`: accuracy).

    Raises:
        ValueError: an unknown policy, or one that looks at something else.

    >>> sorted(needs("enc_model", {"metric": "A_p"})), sorted(needs("enc_inf", {}))
    ([], ['accuracy', 'score'])
    """
    function = policy_named(policy) if isinstance(policy, str) else policy
    parameters = inspect.signature(function).parameters
    given = {name: p.default for name, p in parameters.items() if p.default is not p.empty} | dict(options)
    asked = {given.get(name) for name in ("metric", "curve") if isinstance(given.get(name), str)}
    said = getattr(plain_function(function), "looks_at", ())
    said = {said} if isinstance(said, str) else set(said)
    if unknown := sorted(said - set(LOOKS_AT)):
        raise ValueError(
            f"the {name_of(function)} policy says that it looks at {', '.join(unknown)}; looks_at may name "
            f"{', '.join(LOOKS_AT)}"
        )
    found = {
        "score": "score" in parameters,
        "accuracy": bool(asked & set(MEASURED)),
        "sensitivity": "sensitivity" in asked,
    }
    return frozenset(name for name, needed in found.items() if needed or name in said)
