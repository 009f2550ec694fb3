"""The torchvision data sets from small files in torchvision's own formats."""

import hashlib
import pickle
import struct
import time

import numpy as np
import pytest
import torch
from torchvision import datasets

from lowrank_exp.data import CIFAR10, CIFAR100, MNIST, FashionMNIST

RNG = np.random.default_rng(0)
GREY = {
    "train": RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8),
    "t10k": RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8),
}
LABELS = {"train": np.arange(40) % 10, "t10k": np.arange(20) % 10}


def write_mnist(raw):
    raw.mkdir(parents=True)
    for part, images in GREY.items():
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 0x803, *images.shape) + images.tobytes())
        labels = LABELS[part].astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, len(labels)) + labels.tobytes())


@pytest.mark.parametrize(
    ("kind", "name", "second"), [(MNIST, "MNIST", "1 - one"), (FashionMNIST, "FashionMNIST", "Trouser")]
)
def test_mnist_formats(tmp_path, kind, name, second):
    write_mnist(tmp_path / name / "raw")
    data = kind(root=str(tmp_path), num_classes=10, validation=0.25, cache_dir=str(tmp_path / "cache"))
    data.setup()
    assert data.input_shape == (1, 28, 28)
    assert data.classes[1] == second
    assert data.sizes == {"train": 30, "val": 10, "test": 20}
    np.testing.assert_array_equal(data._source.train_images[:, 0], GREY["train"])
    np.testing.assert_array_equal(data._source.test_images[:, 0], GREY["t10k"])
    np.testing.assert_array_equal(data._source.train_labels, LABELS["train"])
    np.testing.assert_array_equal(data._source.test_labels, LABELS["t10k"])


@pytest.mark.parametrize(
    ("kind", "reference", "folder", "key", "names", "count"),
    [
        (CIFAR10, datasets.CIFAR10, "cifar-10-batches-py", "labels", "label_names", 10),
        (CIFAR100, datasets.CIFAR100, "cifar-100-python", "fine_labels", "fine_label_names", 100),
    ],
)
def test_cifar_formats_and_cache(tmp_path, monkeypatch, kind, reference, folder, key, names, count):
    def write(name, content):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(content))
        return name, hashlib.md5(path.read_bytes()).hexdigest()

    pixels = RNG.integers(0, 256, (8 * count, 3072), dtype=np.uint8)
    labels = (np.arange(8 * count) % count).tolist()
    half = 4 * count
    monkeypatch.setattr(reference, "train_list", [write("one", {"data": pixels[:half], key: labels[:half]})])
    monkeypatch.setattr(reference, "test_list", [write("two", {"data": pixels[half:], key: labels[half:]})])
    name, md5 = write("meta", {names: [f"class {index}" for index in range(count)]})
    monkeypatch.setattr(reference, "meta", {"filename": name, "key": names, "md5": md5})

    arguments = {"root": str(tmp_path), "num_classes": count, "validation": 0.25, "cache_dir": str(tmp_path / "cache")}
    data = kind(**arguments)
    data.setup()
    np.testing.assert_array_equal(data._source.train_images.flatten(1), pixels[:half])
    np.testing.assert_array_equal(data._source.test_images.flatten(1), pixels[half:])
    assert data._source.train_labels.tolist() == labels[:half]
    assert data.classes == tuple(f"class {index}" for index in range(count))

    def broken(*_, **__):
        raise AssertionError("read although it is cached")

    monkeypatch.setattr(reference, "__init__", broken)
    again = kind(**arguments)
    again.setup()
    assert again.digest == data.digest
    assert torch.equal(again._source.test_images, data._source.test_images)


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        (MNIST, "MNIST/raw"),
        (FashionMNIST, "FashionMNIST/raw"),
        (CIFAR10, "cifar-10-batches-py"),
        (CIFAR100, "cifar-100-python"),
    ],
)
def test_missing_or_incomplete(tmp_path, kind, folder):
    data = kind(root=str(tmp_path), cache_dir=None)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=rf"{kind.__name__} is not in {tmp_path}/{folder}: .*data.download=true"):
        data.setup()
    assert 0 <= time.perf_counter() - start < 1
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"is incomplete or damaged .*data.download=true to fetch it again"):
        data.setup()
    with pytest.raises(ValueError, match=r"data.root is not set"):
        kind(root=None).setup()
