"""Cutout against its definition pixel by pixel and torchvision's `erase`; streams and digests that it leaves alone."""

import hashlib
import json

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as reference

from lowrank_exp.data import crop_and_flip, cut_out_, draw_augmentation, draw_cutout, normalise
from lowrank_exp.data.module import DIGEST_VERSION
from support.cells import cells


def ready(data):
    data.setup()
    return data


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def masked(images, centres, side):
    """The paper's words, one pixel at a time: a square of that side around the centre."""
    out = images.clone()
    for image, (centre_y, centre_x) in zip(out, centres.tolist(), strict=True):
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                rows = range(centre_y - side // 2, centre_y - side // 2 + side)
                columns = range(centre_x - side // 2, centre_x - side // 2 + side)
                if y in rows and x in columns:
                    image[:, y, x] = 0
    return out


@cells("side", [1, 2, 3, 4, 7])
@cells("channels", [1, 3])
def test_every_centre_equals_the_definition(side, channels):
    images = torch.rand(63, channels, 9, 7, generator=torch.Generator().manual_seed(0)) + 1
    centres = torch.cartesian_prod(torch.arange(9), torch.arange(7))
    expected = masked(images, centres, side)
    assert cut_out_(images, centres, side) is images
    assert torch.equal(images, expected)
    hidden = (images[:, 0] == 0).sum(dim=(1, 2))
    assert hidden.max() == side**2
    assert hidden.min() == (side - side // 2) * min(side - side // 2, 7)


def test_batches_equal_torchvisions_erase(in_memory):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    data = ready(in_memory(shape=(3, 9, 8), crop_padding=2, flip=True, cutout=4, mean=mean, std=std))
    plain = ready(in_memory(shape=(3, 9, 8), crop_padding=2, flip=True, mean=mean, std=std))
    loader = data.train_loader(16, seed=9)
    images, labels = epoch_of(loader, 3)
    without, same = epoch_of(plain.train_loader(16, seed=9), 3)
    assert torch.equal(labels, same)
    positions = torch.cat([positions for _, positions in loader.sampler])
    centres = loader.dataset.centres(3)[positions].tolist()
    cut = 0
    for ours, before, (y, x) in zip(images, without, centres, strict=True):
        top, left = max(0, y - 2), max(0, x - 2)
        expected = reference.erase(before, top, left, min(9, y + 2) - top, min(8, x + 2) - left, torch.tensor(0.0))
        assert torch.equal(ours, expected)
        cut += int((ours == 0).all(dim=0).sum())
    # The hidden share of a pixel is (centres that reach it) / (all centres): 4 a side, less at the borders.
    reach_y, reach_x = ([sum(y - 2 <= p < y + 2 for y in range(side)) for p in range(side)] for side in (9, 8))
    chance = np.outer(reach_y, reach_x) / 72
    assert abs(cut / len(images) - chance.sum()) < 5 * 16 / np.sqrt(len(images)) / 2


def test_crop_and_flip_are_drawn_as_before(in_memory):
    """The tables of crop and flip come from the stream that they always came from."""
    data = ready(in_memory(crop_padding=2, flip=True, cutout=3))
    loader = data.train_loader(16, seed=9)
    rng = np.random.default_rng((9, 5, 1))
    crops, flips = rng.integers(0, 5, size=(55, 2)), rng.integers(0, 2, size=55)
    np.testing.assert_array_equal(loader.dataset.offsets(5), np.column_stack([crops, flips]))


def test_centres_are_uniform_and_apart_from_the_crops():
    table = draw_cutout(90_000, seed=0, epoch=0, height=9, width=6)
    for column, side in ((0, 9), (1, 6)):
        share = np.bincount(table[:, column], minlength=side) / 90_000
        np.testing.assert_allclose(share, 1 / side, atol=5 * np.sqrt(1 / side * (1 - 1 / side) / 90_000))
    crops = draw_augmentation(90_000, seed=0, epoch=0, crop_padding=4, flip=True)
    correlation = np.corrcoef(torch.column_stack([table, crops]).double().numpy().T)
    np.testing.assert_allclose(correlation, np.eye(5), atol=5 / 300)


def test_centres_follow_from_seed_and_epoch_and_leave_global_state_alone():
    before = torch.get_rng_state(), str(np.random.get_state())
    first = draw_cutout(50, seed=1, epoch=0, height=32, width=32)
    assert torch.equal(first, draw_cutout(50, seed=1, epoch=0, height=32, width=32))
    for other in ((2, 0), (1, 1), (0, 1)):
        assert not torch.equal(first, draw_cutout(50, *other, height=32, width=32))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())


def test_an_image_is_cut_alike_in_batches_of_any_size(in_memory):
    data = ready(in_memory(cutout=4))
    small, large = data.train_loader(5, seed=1), data.train_loader(100, seed=1)
    first = epoch_of(small, 2)[0]
    assert torch.equal(first, epoch_of(large, 2)[0])
    assert not torch.equal(first, epoch_of(small, 3)[0])
    assert torch.equal(first, epoch_of(small, 2)[0])


def test_cutout_alone_changes_neither_the_data_nor_evaluation(in_memory):
    data, plain = ready(in_memory(cutout=8)), ready(in_memory())
    before = data._source.train_images.clone()
    assert (epoch_of(data.train_loader(8, seed=1), 0)[0] == 0).any()
    assert torch.equal(data._source.train_images, before)
    for ours, theirs in (
        (data.val_loader(4), plain.val_loader(4)),
        (data.test_loader(4), plain.test_loader(4)),
        (data.train_loader(8, seed=1, augment=False), plain.train_loader(8, seed=1)),
    ):
        assert torch.equal(epoch_of(ours, 0)[0], epoch_of(theirs, 0)[0])


def test_repeated_grey_is_cut_alike_in_every_channel(in_memory):
    data = ready(in_memory(shape=(1, 8, 8), cutout=3))
    grey = epoch_of(data.train_loader(8, seed=1), 0)[0]
    data.adapt((3, 8, 8))
    assert torch.equal(epoch_of(data.train_loader(8, seed=1), 0)[0], grey.repeat(1, 3, 1, 1))


def test_the_square_is_cut_out_of_what_the_network_sees(in_memory):
    views = {"shape": (3, 12, 11), "image_size": [8, 7], "train_view": "random_crop", "test_view": "center_crop"}
    data, plain = ready(in_memory(cutout=3, **views)), ready(in_memory(**views))
    loader = data.train_loader(8, seed=1)
    images = epoch_of(loader, 0)[0]
    centres = loader.dataset.centres(0)[torch.cat([positions for _, positions in loader.sampler])]
    assert centres.amax(dim=0).tolist() == [7, 6]
    assert torch.equal(images, masked(epoch_of(plain.train_loader(8, seed=1), 0)[0], centres, 3))


def test_zero_is_the_mean():
    image = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    kept = crop_and_flip(image, torch.tensor([0]), torch.tensor([[0, 0, 0]]), 0)
    cut = cut_out_(normalise(kept, mean, std), torch.tensor([[2, 2]]), 4)
    torch.testing.assert_close((cut * std + mean)[0, :, 3, 1], mean.flatten())
    torch.testing.assert_close((cut * std + mean)[0], torch.where(cut[0] == 0, mean, image[0] / 255))


def test_digest_without_cutout_is_what_it_was(in_memory):
    """Restated from the settings there were before cutout: stored results stay valid."""
    data = ready(in_memory(crop_padding=1, flip=True))
    told = {"version": DIGEST_VERSION, "content": data._source.digest, "input_shape": [3, 8, 8], "mean": [0.5] * 3,
            "std": [0.5] * 3, "crop_padding": 1, "flip": True}  # fmt: skip
    sha = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for rows in (data._train_rows, data._val_rows):
        sha.update(f"{len(rows)} rows".encode() + rows.numpy().tobytes())
    assert data.digest == sha.hexdigest()[:32]
    digests = {ready(in_memory(crop_padding=1, flip=True, cutout=side)).digest for side in (0, 1, 2)}
    assert len(digests) == 3
    assert data.digest in digests


def test_refused(in_memory):
    for wrong in (-1, 1.5, True, None):
        with pytest.raises(ValueError, match=rf"data.cutout={wrong}: a whole number of at least 0"):
            in_memory(cutout=wrong)
    with pytest.raises(ValueError, match=r"data.cutout=9 is larger than the images, 10x8 .* at most 8 is needed"):
        ready(in_memory(shape=(3, 10, 8), cutout=9))
    data = ready(in_memory(cutout=8))
    with pytest.raises(ValueError, match=r"data.cutout=8 is larger than the images, 7x9"):
        data.adapt((3, 7, 9))
