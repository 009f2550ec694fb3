"""The digits against scikit-learn's own arrays."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lowrank_exp.data import Digits


def ready(**arguments):
    data = Digits(**arguments)
    data.setup()
    return data


def test_images_are_scikit_learns():
    data = ready(num_classes=10, validation=0.1)
    assert data.sizes == {"train": 1295, "val": 143, "test": 359}
    source, theirs = data._source, load_digits()
    ours = np.concatenate([source.train_images[:, 0], source.test_images[:, 0]])
    labels = np.concatenate([source.train_labels, source.test_labels])
    back = np.rint(ours * (16 / 255)).reshape(len(ours), -1)
    pairs = sorted(map(tuple, np.column_stack([back, labels]).astype(int)))
    assert pairs == sorted(map(tuple, np.column_stack([theirs.data, theirs.target]).astype(int)))
    assert (ours.min(), ours.max()) == (0, 255)


def test_every_class_gives_a_fifth_to_the_test():
    source = ready()._source
    whole = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(source.test_labels), np.rint(whole * 0.2))


def test_split_seed_moves_the_test_set_too():
    first, again, other = ready(), ready(), ready(split_seed=1)
    assert first.digest == again.digest != other.digest
    assert not np.array_equal(first._source.test_images, other._source.test_images)


@pytest.mark.parametrize("test", [0, 1.0, -0.5])
def test_refused_fractions(test):
    with pytest.raises(ValueError, match=rf"data.test={test}: "):
        Digits(test=test)
