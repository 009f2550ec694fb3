"""What a rank policy looks at beside costs and weights, so that it can be measured before the policy is asked."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lowrank_exp.rank.allocate import policy_named

MEASURED = ("measured", "A_m", "A_c")  # metrics and curves of measured accuracy


def needs(policy: str | Callable, options: Mapping[str, Any]) -> frozenset[str]:
    """`score` (of whole rank sets), `accuracy` (`with_accuracy`), `sensitivity` (`with_sensitivity`); mostly nothing.

    Raises:
        ValueError: an unknown policy.

    >>> sorted(needs("enc_model", {"metric": "A_p"})), sorted(needs("enc_inf", {}))
    ([], ['accuracy', 'score'])
    """
    function = policy_named(policy) if isinstance(policy, str) else policy
    parameters = inspect.signature(function).parameters
    given = {name: p.default for name, p in parameters.items() if p.default is not p.empty} | dict(options)
    asked = {given.get(name) for name in ("metric", "curve") if isinstance(given.get(name), str)}
    found = {
        "score": "score" in parameters,
        "accuracy": bool(asked & set(MEASURED)) or function.__name__ == "greedy_eval",
        "sensitivity": "sensitivity" in asked,
    }
    return frozenset(name for name, needed in found.items() if needed)
