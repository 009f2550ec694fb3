"""Several criteria as one."""

from collections.abc import Mapping
from dataclasses import dataclass

from lowrank_exp.checks import one_of
from lowrank_exp.pruning.combine import FORMS
from lowrank_exp.pruning.criteria.criterion import DataCriterion, WeightCriterion


@dataclass(frozen=True)
class WeightedSum:
    r"""The weighted sum of several criteria's scores, each brought to one measure first: :math:`\sum_i w_i \Theta_i`.

    Args:
        criteria: by any name.
        weights: of each, by the same names.
        form: what each one's scores become before they are added, see `combine.normalise`.

    Raises:
        ValueError: no criterion, other names in `weights` than in `criteria`, a sum in a sum, an unknown form.
    """

    criteria: Mapping[str, WeightCriterion | DataCriterion]
    weights: Mapping[str, float]
    form: str = "l2"

    def __post_init__(self) -> None:
        if not self.criteria or set(self.criteria) != set(self.weights):
            got = f"criteria {', '.join(self.criteria)} and weights {', '.join(self.weights)}"
            raise ValueError(f"WeightedSum takes one weight for each criterion, got {got}")
        for name, criterion in self.criteria.items():
            if not isinstance(criterion, WeightCriterion | DataCriterion):
                raise ValueError(f"WeightedSum: {name} is a {type(criterion).__name__}, not a single criterion")
        one_of("WeightedSum: form", self.form, FORMS)
