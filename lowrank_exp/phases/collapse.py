"""Signs that a phase has ruined a network: an accuracy no better than chance, penalties that outweigh the task."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ERRORS = 3  # standard errors above chance that still count as chance, and below what a network had before
OUTWEIGHS = 10  # times the task's loss
WORTH = 0.5  # of the loss of a network that knows nothing
UNTRAINED = "Nothing has trained this network: set model.weights, or choose a method that trains"


@dataclass(frozen=True)
class Measured:
    """An accuracy: on which images, and how many of these are of every class."""

    images: str
    accuracy: float
    per_class: Sequence[int]

    @property
    def chance(self) -> float:
        r"""The highest accuracy that may be mere chance.

        .. math:: p + 3 \sqrt{p (1 - p) / n}

        with p the share of the largest class, which a network reaches that always names it, of n images.

        >>> round(Measured("test", 0.1, [10] * 10).chance, 4)
        0.19
        """
        return self._above(max(self.per_class) / sum(self.per_class), ERRORS)

    def well_above(self, accuracy: float) -> bool:
        """Whether another accuracy on as many images is clearly more than chance."""
        return self._above(accuracy, -ERRORS) > self.chance

    def _above(self, p: float, errors: int) -> float:
        return p + errors * math.sqrt(p * (1 - p) / sum(self.per_class))


def ruined(
    now: Sequence[Measured], before: Mapping[str, Sequence[float | None]], learnt: bool, remedy: str
) -> list[str]:
    """What is to be said of a network that has been measured after a phase, a sentence each; nothing: it is well.

    Args:
        now: on test images, then on validation images where there are some.
        before: by the name of every earlier phase, in order, the accuracies on the same images; None: not measured.
        learnt: whether it should know something: it has been trained, or has the weights of a file.
        remedy: what to try, a sentence.
    """
    for place, measured in enumerate(now):
        known = {name: value for name, values in before.items() if (value := values[place]) is not None}
        best = max(known, key=known.__getitem__, default=None)
        fell = best is not None and measured.well_above(known[best])
        too_few = measured.chance >= 1  # images to tell chance from a network that knows everything
        if measured.accuracy > measured.chance or too_few or not (fell or learnt):
            continue
        text = (
            f"{measured.accuracy:.2%} of the {measured.images} images are recognised, which is chance for "
            f"{len(measured.per_class)} classes (up to {measured.chance:.2%} of {sum(measured.per_class):,} images)"
        )
        text += f"; it was {known[best]:.2%} after {best}" if fell else ""
        already = bool(known) and list(known.values())[-1] <= measured.chance and fell
        return [text if already else f"{text}. {remedy}".strip()]
    return []


def outweighed(
    history: Sequence[Mapping[str, float]], weights: Callable[[float], Mapping[str, float]], epochs: int, classes: int
) -> list[str]:
    """A sentence where the weighted penalties were far more than the task's loss in some epoch; else nothing.

    They are if they are `OUTWEIGHS` times the loss, and more than `WORTH` of log C, the loss of a network that knows
    nothing of C classes: giving the task up would then be cheap.

    Args:
        history: of a training: `train_loss` and `penalty_<name>`, without its weight.
        weights: of every penalty by name, at a progress in [0, 1).
        epochs: of the whole training.
        classes: C.
    """
    worst: tuple[float, str] = (0.0, "")
    for number, line in enumerate(history):
        terms = {n: w * line.get(f"penalty_{n}", 0.0) for n, w in weights((number + 0.5) / epochs).items()}
        total, loss = sum(terms.values()), line["train_loss"]
        if total <= max(OUTWEIGHS * loss, WORTH * math.log(classes)) or total <= worst[0]:
            continue
        largest = max(terms, key=terms.__getitem__)
        worst = (
            total,
            f"the weighted penalties outweigh the task: {total:.3g} beside a loss of {loss:.3g} in epoch {number} "
            f"({largest} alone {terms[largest]:.3g}; a network that knows nothing of {classes} classes has a loss of "
            f"{math.log(classes):.2f}). Lower regularizer.terms.{largest}.weight",
        )
    return [worst[1]] if worst[1] else []
