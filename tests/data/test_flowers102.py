"""Flowers-102 from small files in its own format (MATLAB tables, JPEGs of many sizes), against Pillow."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets
from torchvision.transforms import functional as reference

from lowrank_exp.data import Flowers102

RNG = np.random.default_rng(0)
# One training, one validation and one test image of every class, numbered at random from 1.
NUMBERS = dict(zip(("trnid", "valid", "tstid"), RNG.permutation(306).reshape(3, 102) + 1, strict=True))
LABELS = np.empty(306, dtype=np.uint8)
for numbers in NUMBERS.values():
    LABELS[numbers - 1] = RNG.permutation(102) + 1


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """The root of the data set; `tell` gives torchvision the tables' hashes after a change."""
    base = tmp_path / "sets" / "flowers-102"
    (base / "jpg").mkdir(parents=True)
    for number in range(1, 307):
        height, width = 8 + number % 5, 8 + number % 7
        pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(base / "jpg" / f"image_{number:05d}.jpg")

    def tell(labels=LABELS):
        savemat(base / "imagelabels.mat", {"labels": labels[None]})
        savemat(base / "setid.mat", {name: numbers[None].astype(np.uint16) for name, numbers in NUMBERS.items()})
        files = {"image": ("102flowers.tgz", "0"), **{
            kind: (name, hashlib.md5((base / name).read_bytes()).hexdigest())
            for kind, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
        }}  # fmt: skip
        monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)
        return base.parent

    tell()
    return tell


def ready(root, **arguments):
    settings = {"num_classes": 102, "image_size": [6, 7], "validation": 0, "cache_dir": None, **arguments}
    data = Flowers102(root=str(root), **settings)
    data.setup()
    return data


def test_images_equal_pillow_and_train_joins_val(flowers):
    root = flowers()
    source = ready(root)._source
    numbers = np.concatenate([NUMBERS["trnid"], NUMBERS["valid"]])
    for images, labels, order in (
        (source.train_images, source.train_labels, numbers),
        (source.test_images, source.test_labels, NUMBERS["tstid"]),
    ):
        np.testing.assert_array_equal(labels, LABELS[order - 1].astype(int) - 1)
        for ours, number in zip(images, order, strict=True):
            with Image.open(root / "flowers-102" / "jpg" / f"image_{number:05d}.jpg") as image:
                expected = image.convert("RGB").resize((7, 6), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(ours.permute(1, 2, 0), np.asarray(expected))


def test_classes_and_sizes(flowers):
    data = ready(flowers(), validation=0.5)
    assert data.sizes == {"train": 102, "val": 102, "test": 102}
    assert data.input_shape == (3, 6, 7)
    assert data.classes[:2] == ("pink primrose", "hard-leaved pocket orchid")
    assert len(set(data.classes)) == 102


def test_cache_follows_size_and_files(flowers, tmp_path, monkeypatch):
    root, cache = flowers(), tmp_path / "cache"
    fresh = ready(root, cache_dir=str(cache))
    other = ready(root, cache_dir=str(cache), image_size=5)
    assert other.input_shape == (3, 5, 5)
    assert len(list(cache.iterdir())) == 2
    path = root / "flowers-102" / "jpg" / "image_00001.jpg"
    whole = path.read_bytes()
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"jpg/image_00001.jpg cannot be decoded"):
        ready(root, cache_dir=str(cache))
    path.write_bytes(whole)
    again = ready(root, cache_dir=str(cache))
    assert again.digest == fresh.digest != other.digest
    assert len(list(cache.iterdir())) == 3  # the file has a new time

    def broken(*_, **__):
        raise AssertionError("read although it is cached")

    monkeypatch.setattr(datasets.Flowers102, "__init__", broken)
    assert torch.equal(ready(root, cache_dir=str(cache))._source.train_images, fresh._source.train_images)


def test_the_memory_limit_ends_before_decoding(flowers):
    with pytest.raises(ValueError, match=r"306 images of 3x6x7 .*data.memory_limit=38556"):
        ready(flowers(), memory_limit=38555)


def test_missing_and_damaged_files_are_named(flowers, tmp_path):
    with pytest.raises(ValueError, match=rf"Flowers102 is not in {tmp_path}/flowers-102: .*data.download=true"):
        ready(tmp_path)
    with pytest.raises(ValueError, match=r"data.root is not set"):
        Flowers102(root=None, image_size=6).setup()
    root = flowers()
    (root / "flowers-102" / "jpg" / "image_00007.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 306 images are missing, the first is .*/jpg/image_00007.jpg\)"):
        ready(root)
    path = root / "flowers-102" / "setid.mat"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"Flowers102 in .*/flowers-102 is incomplete or damaged .*download=true"):
        ready(root)


@pytest.mark.parametrize(("wrong", "got"), [(103, "102"), (0, "255|-1")])
def test_a_label_without_class(flowers, wrong, got):
    labels = LABELS.astype(np.int16)
    labels[NUMBERS["tstid"][0] - 1] = wrong
    with pytest.raises(ValueError, match=rf"Flowers102 in .* is incomplete .*test labels must lie in 0..101 .*({got})"):
        ready(flowers(labels))


def test_the_aspect_ratio_is_kept_where_the_shorter_side_is_resized(flowers):
    root = flowers()
    data = ready(root, image_size=None, resize_short=6)
    assert data.input_shape == (3, 6, 6)
    for ours, number in zip(data._source.test_images, NUMBERS["tstid"], strict=True):
        with Image.open(root / "flowers-102" / "jpg" / f"image_{number:05d}.jpg") as image:
            expected = reference.center_crop(reference.resize(image.convert("RGB"), 6), 6)
        np.testing.assert_array_equal(ours.permute(1, 2, 0), np.asarray(expected))
    cut = ready(root, image_size=5, resize_short=6, train_view="random_crop", test_view="center_crop")
    assert cut.input_shape == (3, 5, 5)
    assert torch.equal(cut._source.test_images, data._source.test_images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"differ in size: set data.resize_short, as in .*=256, or data.image_size"),
        ({"image_size": 5, "test_view": "center_crop"}, r"differ in size: set data.resize_short, as in .*=256$"),
    ],
)
def test_a_size_is_needed(arguments, message):
    with pytest.raises(ValueError, match=message):
        Flowers102(root="data", **arguments)
