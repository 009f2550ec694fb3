"""Cut a validation (or test) part out of labelled images, class by class."""

import numpy as np
import torch
from torch import Tensor

from lowrank_exp import checks


def stratified_split(
    labels: Tensor, fraction: float, seed: int, classes: tuple[str, ...], name: str = "validation"
) -> tuple[Tensor, Tensor]:
    """Take the same fraction of every class, chosen at random under a seed of its own.

    Of the `n_c` images of class c, `round(fraction * n_c)` go to the part (halves to even).

    Args:
        labels: int64 `(N,)`.
        fraction: share of every class that goes to the part, `0 <= fraction < 1`; 0 gives an empty part.
        seed: decides the choice, with the labels and the fraction and nothing else.
        classes: names, for messages.
        name: what the part is called in messages (`data.<name>` is the setting).

    Returns:
        `(rest, part)`: ascending int64 positions into `labels`; together each position once.

    Raises:
        ValueError: the fraction is out of range, or a class would have no image on one of the two sides.

    >>> rest, part = stratified_split(torch.tensor([0, 0, 1, 1]), 0.5, seed=0, classes=("a", "b"))
    >>> len(rest), sorted((rest.tolist() + part.tolist()))
    (2, [0, 1, 2, 3])
    """
    check_fraction(fraction, name)
    part: list[np.ndarray] = []
    labels_N = labels.numpy()
    if fraction > 0:
        for index, class_name in enumerate(classes):
            positions = np.flatnonzero(labels_N == index)
            take = round(fraction * len(positions))
            if not 0 < take < len(positions):
                raise ValueError(
                    f"data.{name}={fraction} takes {take} of the {len(positions)} training images of class "
                    f"'{class_name}': each side needs at least one. Change data.{name} "
                    "(0 takes none of any class) or add images"
                )
            # A generator per class: the choice in one class does not depend on the size of another.
            order = np.random.default_rng((seed, index)).permutation(len(positions))
            part.append(positions[order[:take]])
    in_part = np.zeros(len(labels_N), dtype=bool)
    if part:
        in_part[np.concatenate(part)] = True
    return torch.from_numpy(np.flatnonzero(~in_part)), torch.from_numpy(np.flatnonzero(in_part))


def check_fraction(fraction: float, name: str) -> None:
    """Raise ValueError unless `0 <= fraction < 1`."""
    allowed = f"a fraction of the training images, 0 <= {name} < 1, is needed"
    checks.fraction(name, fraction, f"data.{name}={fraction}: {allowed}", zero=True, one=False)
