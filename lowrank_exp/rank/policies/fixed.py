"""Fixed: the ranks that were given, and nothing else."""

from lowrank_exp.rank.budget import Problem
from lowrank_exp.rank.declares import declares


@declares(why_dense="not named in ranks")
def fixed(problem: Problem) -> dict[str, int | None]:
    """Leave every layer whose rank is not given as it is.

    Raises:
        ValueError: a budget is given, which this policy could not keep to.
    """
    if problem.budget:
        raise ValueError(
            f"the fixed policy takes no budget, got {problem.budget.bounds}: its ranks are those of `ranks`. "
            f"Set {' and '.join(problem.budget.bounds)} to null, or choose another policy"
        )
    return {candidate.profile.name: None for candidate in problem.candidates}
