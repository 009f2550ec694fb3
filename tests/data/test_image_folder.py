"""Scanning, decoding and caching of class folders, against Pillow; every mistake named."""

import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowrank_exp.data import ImageFolder
from lowrank_exp.data import image_folder as module
from lowrank_exp.data.scan import scan_folder


def load(root, **arguments):
    data = ImageFolder(root, **{"cache_dir": None, "validation": 0.2, **arguments})
    data.setup()
    return data


def pillow(root: Path, part: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((root / part).glob("*/*"))])


def test_pixels_and_labels_equal_pillow(folder):
    source = load(str(folder))._source
    assert source.classes == ("cat", "dog")
    np.testing.assert_array_equal(source.train_images.permute(0, 2, 3, 1), pillow(folder, "train"))
    np.testing.assert_array_equal(source.test_images.permute(0, 2, 3, 1), pillow(folder, "test"))
    assert source.train_labels.tolist() == [0] * 5 + [1] * 5
    assert source.test_labels.tolist() == [0, 0, 1, 1]


def test_more_files_than_one_task_holds(tmp_path):
    for part, count in (("train", 300), ("test", 2)):
        (tmp_path / part / "only").mkdir(parents=True)
        for number in range(count):
            colour = (number % 256, number // 256, 7)
            Image.new("RGB", (2, 3), colour).save(tmp_path / part / "only" / f"{number:03}.png")
    source = load(tmp_path, progress=True)._source
    expected = [[number % 256, number // 256, 7] for number in range(300)]
    assert source.train_images[:, :, 2, 1].tolist() == expected


def test_grey_stays_grey_and_becomes_colour_beside_colour(folder):
    for path in folder.glob("*/*/*.png"):
        Image.open(path).convert("L").save(path)
    data = load(folder)
    assert data.input_shape == (1, 6, 5)
    np.testing.assert_array_equal(data._source.train_images[:, 0], pillow(folder, "train"))
    grey = data._source.train_images
    Image.new("RGB", (5, 6), (10, 20, 30)).save(folder / "test" / "dog" / "1.png")
    source = load(folder)._source
    assert torch.equal(source.train_images, grey.repeat(1, 3, 1, 1))
    assert source.test_images[3, :, 0, 0].tolist() == [10, 20, 30]


def test_other_modes_become_rgb(folder):
    Image.new("RGBA", (5, 6), (1, 2, 3, 0)).save(folder / "train" / "cat" / "0.png")
    Image.new("CMYK", (5, 6), (0, 0, 0, 255)).save(folder / "train" / "cat" / "1.tiff")
    (folder / "train" / "cat" / "1.png").unlink()
    source = load(folder)._source
    assert source.train_images[0, :, 0, 0].tolist() == [1, 2, 3]
    assert source.train_images[1, :, 0, 0].tolist() == [0, 0, 0]


def test_sizes_that_differ(folder):
    odd = folder / "test" / "cat" / "1.png"
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(odd)
    with pytest.raises(ValueError, match=r"cat/0.png is 5x6 and .*test/cat/1.png is 8x9 .*set data.image_size"):
        load(folder)
    data = load(folder, image_size=[7, 4])
    assert data.input_shape == (3, 7, 4)
    expected = Image.fromarray(pixels).resize((4, 7), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data._source.test_images[1].permute(1, 2, 0), np.asarray(expected))


def test_truncated_and_foreign_files_are_named(folder):
    path = folder / "train" / "dog" / "3.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train/dog/3.png cannot be decoded .*replace or remove it"):
        load(folder)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"train/dog/3.png cannot be decoded"):
        load(folder)
    path.write_bytes(whole)
    first = folder / "train" / "cat" / "0.png"
    first.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"train/cat/0.png cannot be decoded"):
        load(folder)


def test_truncated_jpeg_is_named(folder):
    path = folder / "train" / "dog" / "9.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"train/dog/9.jpg cannot be decoded"):
        load(folder)


def test_sixteen_bits_are_refused(folder):
    Image.fromarray(np.full((6, 5), 40_000, dtype=np.uint16)).save(folder / "train" / "cat" / "2.png")
    with pytest.raises(ValueError, match=r"cat/2.png has more than 8 bits per channel"):
        load(folder)


def test_memory_limit_ends_before_decoding(folder):
    (folder / "train" / "dog" / "3.png").write_bytes(b"damaged, but never opened")
    with pytest.raises(ValueError, match=r"14 images of 3x6x5 .*set data.memory_limit=1260"):
        load(folder, memory_limit=1259, in_memory="always")


def test_layout_mistakes(folder, tmp_path):
    with pytest.raises(ValueError, match=r"data.root is not set: .*data.root=<folder>"):
        load(None)
    with pytest.raises(ValueError, match=r"nowhere is not a folder: expected <root>/train/<class>"):
        load(tmp_path / "nowhere")
    (folder / "test").rename(folder / "val")
    with pytest.raises(ValueError, match=r"has no folder 'test': .*it holds train, val"):
        load(folder)
    (folder / "val").rename(folder / "test")
    (folder / "train" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"differ: only in train \['emu'\], only in test \[\]"):
        load(folder)
    (folder / "test" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"train/emu holds no image"):
        load(folder)
    (folder / "train" / "emu" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"emu/notes.txt is not an image file \(allowed: .jpg"):
        load(folder)
    (folder / "train" / "labels.csv").touch()
    with pytest.raises(ValueError, match=r"train/labels.csv is not a class folder"):
        load(folder)
    empty = tmp_path / "empty"
    for part in ("train", "test"):
        (empty / part).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"empty/train holds no class folder"):
        load(empty)


def test_hidden_files_are_left_alone(folder):
    before = load(folder).digest
    (folder / "train" / ".DS_Store").touch()
    (folder / "train" / "cat" / ".thumbs").touch()
    assert load(folder).digest == before


def test_construction_reads_nothing_and_a_missing_root_is_reported_at_once():
    data = ImageFolder("/no/such/folder")
    start = time.perf_counter()
    with pytest.raises(ValueError, match="/no/such/folder is not a folder"):
        data.setup()
    assert 0 <= time.perf_counter() - start < 1


@pytest.fixture
def decodings(monkeypatch):
    """How often something was decoded."""
    calls = []
    decode = module.decode_images

    def counted(*arguments):
        calls.append(len(arguments[0]))
        return decode(*arguments)

    monkeypatch.setattr(module, "decode_images", counted)
    return calls


def test_second_start_reads_the_cache(folder, tmp_path, decodings):
    cache = tmp_path / "cache"
    fresh, again = (load(folder, cache_dir=str(cache)) for _ in range(2))
    assert decodings == [14]
    assert again.digest == fresh.digest == load(folder).digest
    assert torch.equal(again._source.train_images, fresh._source.train_images)
    assert [path.suffix for path in cache.iterdir()] == [".pt"]


def test_cache_follows_the_files(folder, tmp_path, decodings):
    cache = str(tmp_path / "cache")
    before = load(folder, cache_dir=cache).digest
    path = folder / "train" / "cat" / "0.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert load(folder, cache_dir=cache).digest == before
    assert len(decodings) == 2
    Image.new("RGB", (5, 6)).save(path)
    assert load(folder, cache_dir=cache).digest != before
    load(folder, cache_dir=cache, image_size=8)
    assert len(decodings) == 4
    moved = folder.rename(tmp_path / "moved")
    load(moved, cache_dir=cache)
    assert len(decodings) == 4


@pytest.mark.parametrize("damage", ["half", "empty", "bit", "other"])
def test_damaged_cache_is_made_anew(folder, tmp_path, decodings, damage, caplog):
    cache = tmp_path / "cache"
    digest = load(folder, cache_dir=str(cache)).digest
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    if damage == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        torch.save({"digest": "x"}, path)
    else:
        pixels = pillow(folder, "train")[0].transpose(2, 0, 1).tobytes()
        place = whole.index(pixels)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with caplog.at_level(logging.WARNING):
        assert load(folder, cache_dir=str(cache)).digest == digest
    assert "is damaged and is made anew" in caplog.text
    assert decodings == [14, 14]
    load(folder, cache_dir=str(cache))
    assert decodings == [14, 14]


def test_cache_folder_that_cannot_be_written_is_a_warning(folder, tmp_path, caplog):
    (tmp_path / "cache").touch()
    with caplog.at_level(logging.WARNING):
        assert load(folder, cache_dir=str(tmp_path / "cache")).sizes["test"] == 4
    assert "could not be cached" in caplog.text


def test_failed_write_leaves_no_file(folder, tmp_path, monkeypatch):
    def full(content, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert load(folder, cache_dir=str(tmp_path / "cache")).sizes["test"] == 4
    assert list((tmp_path / "cache").iterdir()) == []


def test_scan_is_ordered_by_class_then_name(folder):
    (folder / "train" / "cat" / "10.png").write_bytes((folder / "train" / "cat" / "0.png").read_bytes())
    scan = scan_folder(folder)
    assert [file.path for file in scan.train[:3]] == ["train/cat/0.png", "train/cat/1.png", "train/cat/10.png"]
    assert [file.label for file in scan.test] == [0, 0, 1, 1]


@pytest.mark.outside_data("LOWRANK_EXP_CIFAR10")
@pytest.mark.slow
def test_cifar10_as_jpeg(tmp_path):
    root = os.environ["LOWRANK_EXP_CIFAR10"]
    fresh = load(root, cache_dir=str(tmp_path), num_classes=10, validation=0.1)
    assert fresh.sizes == {"train": 45_000, "val": 5_000, "test": 10_000}
    assert torch.bincount(fresh._source.train_labels).tolist() == [5000] * 10
    # The published mean of CIFAR-10's training pixels; JPEG compression moves it by less than 0.002.
    mean = fresh._source.train_images.double().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]).double(), rtol=0, atol=0.002)
    assert load(root, cache_dir=str(tmp_path), validation=0.1).digest == fresh.digest
