"""`ImageData`: setup, adapt, digest and the arguments it refuses."""

import pytest
import torch

from lowrank_exp.data import LabelledImages


def ready(data):
    data.setup()
    return data


def test_what_setup_gives(in_memory):
    data = ready(in_memory(num_classes=3))
    data.setup("fit")
    assert data.loads == 1
    assert data.classes == ("a", "b", "c")
    assert data.num_classes == 3
    assert data.input_shape == (3, 8, 8)
    assert data.sizes == {"train": 55, "val": 6, "test": 12}


def test_the_lightning_hooks_use_the_arguments(in_memory):
    data = ready(in_memory(batch_size=7, seed=5))
    for hook, loader in (
        (data.train_dataloader, data.train_loader(7, 5)),
        (data.val_dataloader, data.val_loader(7)),
        (data.test_dataloader, data.test_loader(7)),
    ):
        for ours, theirs in zip(hook(), loader, strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("before", [True, False])
def test_adapt_before_or_after_setup(in_memory, before):
    data = in_memory(shape=(1, 8, 8))
    if before:
        data.adapt((3, 16, 12))
        data.setup()
    else:
        data.setup()
        data.adapt((3, 16, 12))
    assert data.input_shape == (3, 16, 12)
    images, _ = next(iter(data.test_loader(4)))
    assert images.shape == (4, 3, 16, 12)
    assert torch.equal(images[:, 0], images[:, 2])
    data.adapt(None)
    assert data.input_shape == (1, 8, 8)
    torch.testing.assert_close(next(iter(data.test_loader(4)))[0], (data._load().test_images[:4] / 255 - 0.5) / 0.5)


def test_image_size_and_channels_decide_for_a_network_without_shape(in_memory):
    data = in_memory(shape=(1, 8, 8), image_size=[10, 12], channels=3)
    data.adapt(None)
    assert ready(data).input_shape == (3, 10, 12)


def test_grey_folder_with_three_means_fits_once_the_network_is_known(in_memory):
    data = ready(in_memory(shape=(1, 8, 8), mean=(0.1, 0.2, 0.3), std=(1, 1, 1)))
    with pytest.raises(ValueError, match=r"data.mean has 3 values and the images have 1 channel"):
        data.train_loader(4, seed=0)
    data.adapt((3, 8, 8))
    images, _ = next(iter(data.test_loader(4)))
    torch.testing.assert_close(images[:, 0] - images[:, 2], torch.full((4, 8, 8), 0.2))


def test_failed_adapt_and_failed_setup_change_nothing(in_memory):
    data = ready(in_memory())
    digest = data.digest
    with pytest.raises(ValueError, match=r"model.in_channels=3"):
        data.adapt((1, 8, 8))
    assert data.digest == digest
    data = in_memory(num_classes=10)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"data has 3 classes, data.num_classes is 10: set data.num_classes=3"):
            data.setup()
    with pytest.raises(ValueError, match=r"call setup\(\) first"):
        _ = data.sizes


def test_memory_limit(in_memory):
    with pytest.raises(ValueError, match=r"73 images of 3x16x16 .*set data.memory_limit=56064"):
        ready(in_memory(memory_limit=56063, image_size=16))
    assert ready(in_memory(memory_limit=56064, image_size=16)).input_shape == (3, 16, 16)


def test_no_validation(in_memory):
    data = ready(in_memory(validation=0))
    assert data.sizes == {"train": 61, "val": 0, "test": 12}
    assert len(data.val_loader(8)) == len(list(data.val_loader(8))) == 0


CHANGES = (
    {"validation": 0.2},
    {"split_seed": 1},
    {"crop_padding": 1},
    {"flip": True},
    {"mean": (0.4,)},
    {"std": (0.4,)},
    {"image_size": 9},
    {"shape": (1, 8, 8)},
    {"shape": (1, 8, 8), "channels": 3},
    {"counts": (20, 30, 12)},
)


def test_digest_tells_apart_what_decides_and_nothing_else(in_memory):
    digests = [ready(in_memory(**change)).digest for change in ({}, *CHANGES)]
    assert len(set(digests)) == len(digests) == 11
    assert {len(digest) for digest in digests} == {32}
    for same in (
        {"cache_dir": "elsewhere"},
        {"progress": True},
        {"memory_limit": 10**6},
        {"batch_size": 3},
        {"seed": 3},
        {"num_classes": 3},
        {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        {"image_size": 8},
    ):
        assert ready(in_memory(**same)).digest == digests[0]


def test_digest_of_the_network_shape(in_memory):
    data = ready(in_memory())
    plain = data.digest
    data.adapt((3, 9, 9))
    assert data.digest == ready(in_memory(image_size=9)).digest != plain
    data.adapt((3, 8, 8))
    assert data.digest == plain


def test_digest_sees_every_pixel_label_and_name():
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 1])
    digests = {LabelledImages(images, labels, images, labels, ("a", "b")).digest}
    changed = images.clone()
    changed[2, 0, 1, 1] = 1
    digests.add(LabelledImages(changed, labels, images, labels, ("a", "b")).digest)
    digests.add(LabelledImages(images, labels, changed, labels, ("a", "b")).digest)
    digests.add(LabelledImages(images, labels.flip(0), images, labels, ("a", "b")).digest)
    digests.add(LabelledImages(images, labels, images, labels.flip(0), ("a", "b")).digest)
    digests.add(LabelledImages(images, labels, images, labels, ("a", "c")).digest)
    assert len(digests) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": torch.zeros(2, 1, 2, 2)}, r"train images must be uint8 .* got torch.float32"),
        ({"test_images": torch.zeros(2, 2, 2, dtype=torch.uint8)}, r"test images must be .*\(2, 2, 2\)"),
        ({"train_labels": torch.tensor([0])}, r"int64 of shape \(2,\), one per image, got torch.int64 \(1,\)"),
        ({"train_labels": torch.tensor([0, 2])}, r"train labels must lie in 0..1 \(2 classes\), got 2"),
        ({"test_labels": torch.tensor([-1, 0])}, r"test labels must lie in 0..1 \(2 classes\), got -1"),
        ({"test_images": torch.zeros(2, 1, 3, 2, dtype=torch.uint8)}, r"\(1, 2, 2\) and test images are \(1, 3, 2\)"),
    ],
)  # fmt: skip
def test_labelled_images_refuses(change, message):
    images, labels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])
    right = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    with pytest.raises(ValueError, match=message):
        LabelledImages(**{**right, **change}, classes=("a", "b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": 1.0}, "data.validation=1.0"),
        ({"split_seed": -1}, "data.split_seed=-1: a whole number of at least 0"),
        ({"crop_padding": 1.5}, "data.crop_padding=1.5"),
        ({"crop_padding": -1}, "data.crop_padding=-1"),
        ({"flip": 1}, "data.flip=1: true or false"),
        ({"mean": (0.1, 0.2)}, "as many finite values in each, one or three"),
        ({"mean": (0.1,), "std": (0.1, 0.2, 0.3)}, "as many finite values in each, one or three"),
        ({"std": (0.0,)}, "std above 0"),
        ({"channels": 2}, r"data.channels=2: 1 \(grey\), 3 \(RGB\) or null"),
        ({"image_size": 0}, "data.image_size=0"),
        ({"memory_limit": 0}, "data.memory_limit=0"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"seed": -1}, "data.seed=-1"),
    ],
)
def test_arguments_refused(in_memory, change, message):
    with pytest.raises(ValueError, match=message):
        in_memory(**change)
