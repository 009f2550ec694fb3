"""scikit-learn's handwritten digits: small enough for a laptop, and installed with the package."""

from typing import Any, cast, final

import torch

from lowrank_exp.data.images import LabelledImages
from lowrank_exp.data.module import ImageData
from lowrank_exp.data.split import check_fraction, stratified_split


@final
class Digits(ImageData):
    """1797 grey images of 8x8 pixels in 10 classes, scaled from 0..16 to 0..255.

    There is no official test set: `test` of every class is set apart under `split_seed`, then `validation`
    of the rest. By default that leaves 1295 training, 143 validation and 359 test images. Source: UCI
    "Optical Recognition of Handwritten Digits", test part, as in `sklearn.datasets.load_digits`.

    Args:
        test: fraction of every class set apart for testing, `0 < test < 1`.
        common: arguments of `ImageData`. Nothing is decoded: `cache_dir` and `progress` are not used.

    >>> data = Digits(num_classes=10)
    >>> data.setup()
    >>> data.input_shape, sum(data.sizes.values())
    ((1, 8, 8), 1797)
    """

    def __init__(self, test: float = 0.2, **common: Any) -> None:
        super().__init__(**common)
        check_fraction(test, "test")
        if test == 0:
            raise ValueError("data.test=0: the digits have no test set of their own, a fraction above 0 is needed")
        self.test = test

    def _load(self) -> LabelledImages:
        from sklearn.datasets import load_digits  # a second of import that no other data set needs
        from sklearn.utils import Bunch

        digits = cast(Bunch, load_digits())
        images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target).to(torch.int64)
        classes = tuple(str(name) for name in digits.target_names)
        train, test = stratified_split(labels, self.test, self.split_seed, classes, name="test")
        return LabelledImages(images[train], labels[train], images[test], labels[test], classes)
