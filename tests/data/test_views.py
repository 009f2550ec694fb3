"""What is stored and what is seen of an image, against torchvision; which settings go together."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms import functional as reference

from lowrank_exp.data.geometry import Geometry
from lowrank_exp.data.square import cut_centre_square, cut_centre_squares
from lowrank_exp.data.views import (
    ImageView,
    cut_boxes,
    draw_crops,
    draw_resized_crops,
    place_centre_box,
    place_ten_boxes,
)


def images_of(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(37, 50), (50, 37), (24, 24), (30, 30), (24, 33), (20, 21), (9, 40)])
def test_centre_square_equals_resize_and_center_crop(size):
    pil = reference.to_pil_image(images_of(3, *size))
    theirs = reference.center_crop(reference.resize(pil, 24), [24, 24])
    np.testing.assert_array_equal(np.asarray(cut_centre_square(pil, 24)), np.asarray(theirs))
    images = images_of(300, 3, *size)
    theirs = v2.functional.center_crop(v2.functional.resize(images, [24], antialias=True), [24, 24])
    assert torch.equal(cut_centre_squares(images, 24), theirs)
    grey = pil.convert("L")
    theirs = reference.center_crop(reference.resize(grey, 24), [24, 24])
    np.testing.assert_array_equal(np.asarray(cut_centre_square(grey, 24)), np.asarray(theirs))


@pytest.mark.parametrize(
    ("stored", "size"), [((12, 12), (7, 7)), ((12, 12), (8, 7)), ((11, 13), (8, 8)), ((9, 9), (9, 9))]
)
def test_fixed_views_equal_torchvision(stored, size):
    images, rows = images_of(5, 3, *stored), torch.tensor([4, 0, 2])
    centre = ImageView("center_crop", stored, size)
    assert torch.equal(
        centre.cut(images, rows, centre.boxes(3, 0, 0, flip=False)), reference.center_crop(images[rows], list(size))
    )
    ten = ImageView("ten_crop", stored, size)
    got = ten.cut(images, rows, ten.boxes(3, 0, 0, flip=False))
    theirs = torch.stack(reference.ten_crop(images[rows], list(size)), dim=1)
    assert got.shape == (3, 10, 3, *size)
    assert torch.equal(got, theirs)


def test_random_views_equal_torchvision_at_their_boxes():
    images, rows = images_of(40, 3, 20, 17), torch.randperm(40, generator=torch.Generator().manual_seed(2))
    for name, size in (("random_crop", (12, 9)), ("random_resized_crop", (12, 12)), ("random_resized_crop", (24, 24))):
        view = ImageView(name, (20, 17), size)
        boxes = view.boxes(40, 3, 1, flip=True)[rows]
        for row, (top, left, height, width, mirrored), ours in zip(
            rows, boxes[:, 0].tolist(), view.cut(images, rows, boxes), strict=True
        ):
            theirs = v2.functional.resized_crop(images[row], top, left, height, width, list(size), antialias=True)
            assert torch.equal(ours, theirs.flip(2) if mirrored else theirs)
        assert 5 <= boxes[..., 4].sum() <= 35


def test_crops_are_uniform_and_mirroring_does_not_move_them():
    boxes = draw_crops(60_000, seed=1, epoch=2, stored=(10, 9), size=(6, 6), flip=True)[:, 0].numpy()
    for column, places in ((0, 5), (1, 4), (4, 2)):
        share = np.bincount(boxes[:, column], minlength=places) / 60_000
        assert len(share) == places
        np.testing.assert_allclose(share, 1 / places, atol=5 * np.sqrt(1 / places / 60_000))
    assert (boxes[:, 2:4] == 6).all()
    plain = draw_crops(60_000, seed=1, epoch=2, stored=(10, 9), size=(6, 6), flip=False)[:, 0].numpy()
    np.testing.assert_array_equal(plain[:, :4], boxes[:, :4])
    assert plain[:, 4].sum() == 0


@pytest.mark.parametrize("stored", [(64, 64), (20, 90)])
def test_resized_crops_are_distributed_as_torchvisions(stored):
    count = 1500
    ours = draw_resized_crops(count, seed=0, epoch=0, stored=stored, flip=True)[:, 0, :4].double().numpy()
    torch.manual_seed(0)
    image = torch.empty(1, *stored)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)], float)
    for boxes in (ours, theirs):
        top, left, height, width = boxes.T
        assert min(top.min(), left.min(), height.min() - 1, width.min() - 1) >= 0
        assert (top + height).max() <= stored[0]
        assert (left + width).max() <= stored[1]
    for statistic in (
        lambda boxes: boxes,
        lambda boxes: boxes[:, 2:3] * boxes[:, 3:4],
        lambda boxes: boxes[:, 2:3] / boxes[:, 3:4],
        lambda boxes: boxes**2,
    ):
        a, b = statistic(ours), statistic(theirs)
        spread = np.sqrt(a.var(axis=0) / count + b.var(axis=0) / count)
        np.testing.assert_array_less(np.abs(a.mean(axis=0) - b.mean(axis=0)), 5 * spread + 1e-12)


def test_a_box_that_never_fits_is_the_largest_in_the_centre():
    ours = draw_resized_crops(50, seed=0, epoch=0, stored=(3, 90), flip=False)[:, 0].tolist()
    torch.manual_seed(0)
    theirs = [RandomResizedCrop.get_params(torch.empty(1, 3, 90), [0.9, 1.0], [3 / 4, 4 / 3])]
    assert list(theirs[0]) == [0, 43, 3, 4]
    assert ours == [[0, 43, 3, 4, 0]] * 50


def test_boxes_follow_from_seed_and_epoch_and_leave_global_state_alone():
    before = torch.get_rng_state(), str(np.random.get_state())
    for name in ("random_crop", "random_resized_crop"):
        view = ImageView(name, (20, 20), (12, 12))
        first = view.boxes(50, 1, 0, flip=True)
        assert torch.equal(first, view.boxes(50, 1, 0, flip=True))
        for seed, epoch in ((2, 0), (1, 1)):
            assert not torch.equal(first, view.boxes(50, seed, epoch, flip=True))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())


def test_boxes_by_hand():
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    rows = torch.tensor([0])
    assert cut_boxes(image, rows, place_centre_box((4, 4), (2, 2)), (2, 2)).tolist() == [[[[[5, 6], [9, 10]]]]]
    assert cut_boxes(image, rows, place_ten_boxes((4, 4), (2, 2)), (2, 2))[0, 5:7, 0].tolist() == [
        [[3, 2], [7, 6]],
        [[1, 0], [5, 4]],
    ]


def ready(data, shape=None):
    data.adapt(shape)
    data.setup()
    return data


def test_loaders_show_what_the_settings_say(in_memory):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    common = {"shape": (3, 13, 10), "resize_short": 9, "mean": mean, "std": std, "flip": True}
    data = ready(in_memory(train_view="random_crop", test_view="ten_crop", channel_order="bgr", **common), (3, 7, 7))
    assert data.input_shape == (3, 7, 7)
    assert data.test_views == 10
    source = data._load()
    stored = cut_centre_squares(source.train_images, 9), cut_centre_squares(source.test_images, 9)

    def seen(images):
        return reference.normalize(images.flip(-3) / 255, mean, std)

    tests = torch.cat([images for images, _ in data.test_loader(5)])
    torch.testing.assert_close(tests, seen(torch.stack(reference.ten_crop(stored[1], [7, 7]), 1)), rtol=0, atol=0)
    centres = reference.center_crop(stored[0], [7, 7])
    values = torch.cat([images for images, _ in data.val_loader(5)])
    assert torch.equal(values, seen(centres[data._val_rows]))
    sample = torch.cat([images for images, _ in data.val_sample(4, 0, 3)])
    assert {image.sum().item() for image in sample} < {image.sum().item() for image in values}

    def epoch(augment):
        loader = data.train_loader(16, seed=2, augment=augment)
        loader.sampler.set_epoch(1)
        order = torch.cat([positions for _, positions in loader.sampler])
        return torch.cat([images for images, _ in loader]), order, loader.dataset.offsets(1)[order, 0].tolist()

    plain, order, _ = epoch(augment=False)
    assert torch.equal(plain, seen(centres[data._train_rows[order]]))
    random, order, boxes = epoch(augment=True)
    for ours, row, (top, left, _, _, mirrored) in zip(random, data._train_rows[order], boxes, strict=True):
        crop = reference.crop(stored[0][row], top, left, 7, 7)
        assert torch.equal(ours, seen(reference.hflip(crop) if mirrored else crop))


def test_whole_squares_are_resized_once(in_memory):
    data = ready(in_memory(shape=(3, 13, 10), resize_short=9), (3, 6, 6))
    assert data._test_images.shape[2:] == (6, 6)
    data = ready(in_memory(shape=(3, 13, 10), resize_short=9))
    assert data.input_shape == (3, 9, 9)


def test_resized_crops_of_whole_images_and_cutout(in_memory):
    data = ready(in_memory(train_view="random_resized_crop", cutout=4, mean=(0.0,), std=(1.0,)), (3, 8, 8))
    images, _ = next(iter(data.train_loader(61, seed=0)))
    assert images.shape == (55, 3, 8, 8)
    zeros = (images == 0).all(1).sum((1, 2))
    assert 4 <= zeros.min() <= zeros.max() <= 18
    whole = next(iter(data.test_loader(12)))[0]
    assert torch.equal(whole, data._source.test_images / 255)


def test_grey_images_are_cut_before_their_channels_are_repeated(in_memory):
    data = ready(in_memory(shape=(1, 9, 9), test_view="center_crop", train_view="random_crop"), (3, 5, 5))
    images = next(iter(data.test_loader(4)))[0]
    expected = (data._source.test_images[:4, :, 2:7, 2:7] / 255 - 0.5) / 0.5
    assert torch.equal(images, expected.expand(-1, 3, -1, -1))


CHANGES = (
    {"resize_short": 8},
    {"resize_short": 9, "train_view": "random_crop", "test_view": "center_crop"},
    {"resize_short": 9, "train_view": "random_resized_crop", "test_view": "center_crop"},
    {"resize_short": 9, "train_view": "random_crop", "test_view": "ten_crop"},
    {"resize_short": 10, "train_view": "random_crop", "test_view": "ten_crop"},
    {"train_view": "random_resized_crop"},
    {"channel_order": "bgr"},
)


def test_digest_changes_with_what_is_used_alone(in_memory):
    digests = {ready(in_memory(**change), (3, 8, 8)).digest for change in ({}, *CHANGES)}
    assert len(digests) == 1 + len(CHANGES)
    # Digest of these images before there were views: results stored then stay valid.
    assert ready(in_memory()).digest == "30499ce792a9676e3bc4923dc5d75fe8"
    usual = {"resize_short": None, "train_view": "whole", "test_view": "whole", "channel_order": "rgb"}
    assert ready(in_memory(**usual)).digest == ready(in_memory()).digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize_short": 0}, r"data.resize_short=0: the shorter side in pixels, at least 1, or null"),
        ({"resize_short": 8.0}, r"data.resize_short=8.0"),
        ({"train_view": "center_crop"}, r"data.train_view='center_crop' is not known: whole, random_crop, random_re"),
        ({"test_view": "random_crop"}, r"data.test_view='random_crop' is not known: whole, center_crop, ten_crop"),
        ({"channel_order": "gbr"}, r"data.channel_order='gbr' is not known: rgb, bgr"),
        ({"train_view": "random_crop", "crop_padding": 2}, r"data.crop_padding=2 pads whole images.*train_view=whole"),
    ],
)
def test_refused_words(settings, message):
    with pytest.raises(ValueError, match=message):
        Geometry(**settings)


@pytest.mark.parametrize(
    ("settings", "network", "message"),
    [
        ({"train_view": "random_crop", "test_view": "center_crop"}, (3, 9, 9),
         r"data.train_view=random_crop cuts 9x9 .*stored at 8x8: set data.resize_short=9 or more"),
        ({"train_view": "random_resized_crop", "test_view": "center_crop"}, (3, 9, 9),
         r"data.test_view=center_crop cuts 9x9 .*stored at 8x8"),
        ({"train_view": "random_crop"}, (3, 6, 6),
         r"data.test_view=whole shows whole images, stored at 8x8, .*takes 6x6 .*\(center_crop, ten_crop\)"),
        ({"test_view": "ten_crop"}, (3, 6, 6),
         r"data.train_view=whole shows .* cut here too \(random_crop, random_resized_crop\)"),
        ({"test_view": "ten_crop"}, (3, 8, 8), r"data.test_view=ten_crop needs images stored larger than the 8x8"),
        ({"channel_order": "bgr"}, (1, 8, 8),
         r"data.channel_order=bgr is an order of 3 channels and the network takes 1"),
    ],
)  # fmt: skip
def test_refused_with_this_network(in_memory, settings, network, message):
    data = in_memory(shape=(network[0], 8, 8), **settings)
    data.adapt(network)
    with pytest.raises(ValueError, match=message):
        data.setup()


def test_a_network_that_is_refused_later_changes_nothing(in_memory):
    data = ready(in_memory(train_view="random_crop", test_view="center_crop"), (3, 6, 6))
    with pytest.raises(ValueError, match=r"cuts 9x6 .*set data.resize_short=9 or more"):
        data.adapt((3, 9, 6))
    assert data.input_shape == (3, 6, 6)
    data.adapt((3, 7, 6))
    assert next(iter(data.test_loader(2)))[0].shape == (2, 3, 7, 6)


def test_views_of_files_that_differ_in_size(folder):
    from lowrank_exp.data import ImageFolder

    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "test" / "cat" / "1.png")
    views = {"train_view": "random_crop", "test_view": "center_crop", "image_size": 4}
    data = ImageFolder(folder, cache_dir=None, validation=0.2, **views)
    with pytest.raises(ValueError, match=r"14x9 .*: set data.image_size, .*or data.resize_short, which keeps"):
        data.setup()
    data = ready(ImageFolder(folder, cache_dir=None, validation=0.2, resize_short=7, **views))
    assert data.input_shape == (3, 4, 4)
    theirs = reference.center_crop(reference.resize(Image.fromarray(pixels), 7), [7, 7])
    np.testing.assert_array_equal(data._source.test_images[1].permute(1, 2, 0), np.asarray(theirs))
