"""Resizing against Pillow; who decides the shape; what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from lowrank_exp.data.adapt import adapt_images, choose_shape, image_size_pair


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (5, 3), (20, 7)])
def test_resize_equals_pillow(channels, size):
    height, width = size
    images = np.random.default_rng(0).integers(0, 256, (1100, channels, 9, 8), dtype=np.uint8)
    got = adapt_images(torch.from_numpy(images), (channels, height, width)).numpy()
    for index in (0, 1, 1023, 1024, 1099):
        for channel in range(channels):
            pil = Image.fromarray(images[index, channel]).resize((width, height), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(got[index, channel].astype(int), np.asarray(pil).astype(int), atol=1)


def test_grey_is_repeated_without_copy():
    images = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    adapted = adapt_images(images, (3, 4, 4))
    assert torch.equal(adapted, images.repeat(1, 3, 1, 1))
    assert adapted.data_ptr() == images.data_ptr()
    assert adapt_images(images, (1, 4, 4)) is images


def test_who_decides():
    assert choose_shape((1, 8, 8), None, None, None) == (1, 8, 8)
    assert choose_shape((1, 8, 8), None, (10, 12), 3) == (3, 10, 12)
    assert choose_shape((1, 8, 8), (3, 32, 30), None, None) == (3, 32, 30)
    assert choose_shape((3, 8, 8), (3, 32, 32), (32, 32), 3) == (3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3, 8, 8), (1, 8, 8), None, None), r"colour .* 1 channel is asked for: set model.in_channels=3"),
        (((3, 8, 8), None, None, 1), r"set data.channels=3 or leave it null"),
        (((1, 8, 8), (4, 8, 8), None, None), r"have 1 channels and 4 are asked for; .*set model.in_channels=3"),
        (((1, 8, 8), (1, 8, 9), (8, 8), None), r"is 8x8 and the network takes 8x9 .*data.image_size=\[8,9\]"),
        (((1, 8, 8), (3, 8, 8), None, 1), r"data.channels is 1 and the network takes 3: set data.channels=3"),
        (((1, 8, 8), (8, 8), None, None), r"must be \(C, H, W\) with positive entries, got \(8, 8\)"),
    ],
)  # fmt: skip
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_shape(*arguments)


@pytest.mark.parametrize("wrong", [0, [8], [8, 8, 8], [8, 0], [8, 8.5], True])
def test_image_size_refused(wrong):
    with pytest.raises(ValueError, match="an int, \\[height, width\\] or null is needed"):
        image_size_pair(wrong)
