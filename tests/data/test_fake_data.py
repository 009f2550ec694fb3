"""Fake images: as many and of the shape asked for, uniform, balanced, a function of their seed."""

import numpy as np
import pytest
import torch

from lowrank_exp.data import FakeData


def ready(**arguments):
    data = FakeData(**arguments)
    data.setup()
    return data


def test_counts_shape_and_classes():
    data = ready(num_classes=7, train_images=70, test_images=15, image_size=[6, 5], channels=1, validation=0.2)
    assert data.sizes == {"train": 56, "val": 14, "test": 15}
    assert data.input_shape == (1, 6, 5)
    assert data.classes == tuple(f"class {label}" for label in range(7))
    source = data._source
    assert torch.bincount(source.train_labels).tolist() == [10] * 7
    assert torch.bincount(source.test_labels).tolist() == [3] + [2] * 6
    assert source.train_labels.tolist() != sorted(source.train_labels.tolist())


def test_without_a_size_the_network_decides():
    data = FakeData()
    data.adapt((3, 48, 40))
    data.setup()
    assert data.input_shape == (3, 48, 40)
    assert data._source.image_shape == (3, 32, 32)
    data.adapt(None)
    assert data.input_shape == (3, 32, 32)


def test_bytes_are_uniform_and_the_yaml_tells_their_mean_and_deviation():
    images = ready()._source.train_images.flatten()
    share = np.bincount(images, minlength=256) / len(images)
    np.testing.assert_allclose(share, 1 / 256, atol=6 * np.sqrt(1 / 256 / len(images)))
    pixels = images.double() / 255
    assert abs(pixels.mean() - 0.5) < 5 * 0.29 / np.sqrt(len(images))
    assert abs(pixels.std() - 0.2898) < 2e-4


def test_the_image_seed_decides_and_nothing_else():
    before = torch.get_rng_state(), str(np.random.get_state())
    first = ready(train_images=100, test_images=100, seed=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())
    torch.manual_seed(1)
    again, other = (ready(train_images=100, test_images=100, image_seed=seed) for seed in (0, 1))
    assert first.digest == again.digest != other.digest
    assert torch.equal(first._source.train_images, again._source.train_images)
    assert not torch.equal(first._source.train_images, first._source.test_images)
    assert not torch.equal(first._source.train_labels, first._source.test_labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": None}, "data.num_classes=None: a whole number of at least 2"),
        ({"num_classes": 1}, "data.num_classes=1: a whole number of at least 2"),
        ({"train_images": 9}, "data.train_images=9: a whole number of at least 10"),
        ({"test_images": 0}, "data.test_images=0: a whole number of at least 1"),
        ({"image_seed": -1}, "data.image_seed=-1: a whole number of at least 0"),
        ({"image_seed": 0.5}, "data.image_seed=0.5"),
        ({"train_images": 2000, "memory_limit": 10**6}, r"2200 images of 3x32x32 .*data.memory_limit=6758400"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ready(**arguments)
