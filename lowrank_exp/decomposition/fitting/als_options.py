"""How the CP of a layer is fitted: the options of alternating least squares and what they may be."""

from dataclasses import dataclass

from lowrank_exp.decomposition.fitting.cp_start import STARTS


@dataclass(frozen=True, kw_only=True)
class ALSOptions:
    """Keyword arguments of `cp_als` that a layer's decomposition fixes once for all its tensors and ranks.

    `cp_als(tensor, rank, batch_axes=1, **asdict(options))` is the fit; what each option does is told there, and the
    defaults are those of `cp_als`. Where `cp_als` also takes factors to begin with and no time at all, a decomposition
    does not.

    Raises:
        ValueError: an unknown init, or a number out of range.

    >>> ALSOptions(tolerance=1e-5).tolerance, ALSOptions().restarts
    (1e-05, 0)
    """

    init: str = "auto"
    ridge: float = 1e-9
    acceleration: bool = True
    tolerance: float = 1e-6
    max_iterations: int = 300
    max_seconds: float | None = None
    restarts: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.init not in STARTS:
            raise ValueError(f"init must be one of {', '.join(STARTS)}, got {self.init!r}")
        if not self._in_range():
            raise ValueError(
                "ridge, tolerance and restarts must be 0 or more, max_seconds above 0, max_iterations 1 or more; got "
                f"{self.ridge}, {self.tolerance}, {self.restarts}, {self.max_seconds} and {self.max_iterations}"
            )

    def _in_range(self) -> bool:
        timed = self.max_seconds is None or self.max_seconds > 0
        return timed and self.ridge >= 0 and self.tolerance >= 0 and self.restarts >= 0 and self.max_iterations >= 1
