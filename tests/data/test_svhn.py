"""SVHN from small files in its own format (MATLAB, images last, 10 for the digit 0)."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from lowrank_exp.data import SVHN

COUNTS = {"train": 40, "test": 20, "extra": 30}
RNG = np.random.default_rng(0)
PIXELS = {split: RNG.integers(0, 256, (32, 32, 3, count), dtype=np.uint8) for split, count in COUNTS.items()}
DIGITS = {split: RNG.permutation(np.arange(count) % 10) for split, count in COUNTS.items()}


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """Writes files of some splits and tells torchvision their hashes; gives the root."""

    def write(*splits, digits=DIGITS):
        root = tmp_path / "sets"
        (root / "SVHN").mkdir(parents=True, exist_ok=True)
        told = {}
        for split in COUNTS:
            path = root / "SVHN" / f"{split}_32x32.mat"
            md5 = ""
            if split in splits:
                labels = np.where(digits[split] == 0, 10, digits[split]).astype(np.uint8)[:, None]
                savemat(path, {"X": PIXELS[split], "y": labels})
                md5 = hashlib.md5(path.read_bytes()).hexdigest()
            told[split] = [(tmp_path / "no such place").as_uri(), path.name, md5]
        monkeypatch.setattr(datasets.SVHN, "split_list", told)
        return root

    return write


def ready(root, **arguments):
    data = SVHN(root=str(root), **{"num_classes": 10, "validation": 0.25, "cache_dir": None, **arguments})
    data.setup()
    return data


def images(split):
    """(N, 3, 32, 32) with a plain loop over the file's last axis."""
    return np.stack([PIXELS[split][:, :, :, index].transpose(2, 0, 1) for index in range(COUNTS[split])])


def test_train_and_test(svhn):
    data = ready(svhn("train", "test"))
    assert data.input_shape == (3, 32, 32)
    assert data.classes == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert data.sizes == {"train": 30, "val": 10, "test": 20}
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(data._source, f"{split}_images"), images(split))
        np.testing.assert_array_equal(getattr(data._source, f"{split}_labels"), DIGITS[split])


def test_extra_joins_the_training_images(svhn):
    root = svhn("train", "test", "extra")
    plain, extra = ready(root), ready(root, extra=True)
    assert plain.sizes["train"] == 30
    assert extra.sizes == {"train": 50, "val": 20, "test": 20}
    np.testing.assert_array_equal(extra._source.train_images, np.concatenate([images("train"), images("extra")]))
    np.testing.assert_array_equal(extra._source.train_labels, np.concatenate([DIGITS["train"], DIGITS["extra"]]))
    assert torch.equal(extra._source.test_images, plain._source.test_images)
    assert plain.digest != extra.digest


def test_cache_tells_extra_apart(svhn, tmp_path, monkeypatch):
    root, cache = svhn("train", "test", "extra"), str(tmp_path / "cache")
    fresh = [ready(root, extra=extra, cache_dir=cache) for extra in (False, True)]

    def broken(*_, **__):
        raise AssertionError("read although it is cached")

    monkeypatch.setattr(datasets.SVHN, "__init__", broken)
    again = [ready(root, extra=extra, cache_dir=cache) for extra in (False, True)]
    assert [data.digest for data in again] == [data.digest for data in fresh]


def test_missing_and_damaged_files_are_named(svhn, tmp_path):
    with pytest.raises(ValueError, match=rf"SVHN is not in {tmp_path}/SVHN: .*data.download=true to fetch it"):
        ready(tmp_path)
    with pytest.raises(ValueError, match=r"data.root is not set"):
        SVHN(root=None).setup()
    root = svhn("train", "test")
    with pytest.raises(ValueError, match=r"extra_32x32.mat in .*/SVHN is incomplete or damaged .*data.download=true"):
        ready(root, extra=True)
    path = root / "SVHN" / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"test_32x32.mat in .*/SVHN is incomplete or damaged .*data.download=true"):
        ready(root)


def test_a_failed_download_is_told(svhn):
    root = svhn("train")
    with pytest.raises(ValueError, match=r"test_32x32.mat could not be fetched to, or read from, .*/SVHN .*no such pl"):
        ready(root, download=True)


def test_a_label_that_is_no_digit(svhn):
    digits = {**DIGITS, "train": np.where(np.arange(40) == 3, 11, DIGITS["train"])}
    with pytest.raises(ValueError, match=r"SVHN in .*/SVHN is incomplete .*train labels must lie in 0..9 .*, got 11"):
        ready(svhn("train", "test", digits=digits))


def test_extra_is_true_or_false():
    with pytest.raises(ValueError, match=r"data.extra=1: true or false is needed"):
        SVHN(extra=1)
