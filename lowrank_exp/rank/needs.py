"""What a rank policy looks at beside costs and weights, so that it can be measured before the policy is asked."""

from collections.abc import Mapping
from typing import Any

from lowrank_exp.rank.declares import Policy, looked_at
from lowrank_exp.rank.policy_names import policy_named


def needs(policy: str | Policy, options: Mapping[str, Any]) -> frozenset[str]:
    """`score` (of whole rank sets), `accuracy` (`with_accuracy`), `sensitivity` (`with_sensitivity`), `errors` and
    `responses` (`with_errors`); mostly nothing.

    Args:
        policy: one of ours by name, another by its import path, or the function.
        options: those that are given to it; the others have their defaults.

    Raises:
        ValueError: an unknown policy, or one that says it looks at something else; see `lowrank_exp.rank.declares`.

    >>> sorted(needs("enc_model", {"metric": "A_p"})), sorted(needs("enc_inf", {}))
    ([], ['accuracy', 'score'])
    """
    return looked_at(policy_named(policy) if isinstance(policy, str) else policy, options)
