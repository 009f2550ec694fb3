"""Crop, flip and normalisation against torchvision, image by image."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as reference

from lowrank_exp.data import crop_and_flip, draw_augmentation, normalise

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("padding", [0, 3, 12])
def test_batch_equals_torchvision_per_image(padding):
    images = torch.randint(0, 256, (60, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    offsets = draw_augmentation(40, seed=5, epoch=2, crop_padding=padding, flip=True)
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(2))[:40]
    cropped = crop_and_flip(images, rows, offsets, padding)
    got = normalise(cropped, torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1))
    for row, (dy, dx, flip), ours in zip(rows, offsets.tolist(), got, strict=True):
        pil = reference.pad(reference.to_pil_image(images[row]), padding)
        pil = reference.crop(pil, dy, dx, 9, 7)
        pil = reference.hflip(pil) if flip else pil
        expected = reference.normalize(reference.to_tensor(pil), MEAN, STD)
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_offsets_are_uniform():
    table = draw_augmentation(90_000, seed=0, epoch=0, crop_padding=4, flip=True)
    for column in (0, 1):
        share = np.bincount(table[:, column], minlength=9) / 90_000
        np.testing.assert_allclose(share, 1 / 9, atol=5 * np.sqrt(1 / 9 * 8 / 9 / 90_000))
    np.testing.assert_allclose(table[:, 2].double().mean(), 0.5, atol=5 * 0.5 / 300)
    correlation = np.corrcoef(table.double().numpy().T)
    np.testing.assert_allclose(correlation, np.eye(3), atol=5 / 300)


def test_offsets_follow_from_seed_and_epoch_and_leave_global_state_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = draw_augmentation(50, seed=1, epoch=0, crop_padding=4, flip=True)
    assert torch.equal(first, draw_augmentation(50, seed=1, epoch=0, crop_padding=4, flip=True))
    for other in ((2, 0), (1, 1), (0, 1)):
        assert not torch.equal(first, draw_augmentation(50, *other, crop_padding=4, flip=True))
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])


def test_flip_does_not_change_the_crops():
    with_flip = draw_augmentation(50, seed=1, epoch=0, crop_padding=4, flip=True)
    without = draw_augmentation(50, seed=1, epoch=0, crop_padding=4, flip=False)
    assert torch.equal(with_flip[:, :2], without[:, :2])
    assert without[:, 2].tolist() == [0] * 50
