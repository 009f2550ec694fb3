"""Files that are damaged, empty, of another kind or in the wrong place: each works as it should or is named."""

import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowrank_exp.data import MNIST, ImageFolder

HEIGHT, WIDTH = 16, 15


@pytest.fixture(params=["RGB", "L"])
def mode(request):
    return request.param


@pytest.fixture
def jpegs(tmp_path, mode):
    """`train` with 3 and `test` with 2 JPEG images in each of the classes cat and dog, all in colour or all grey."""
    rng = np.random.default_rng(3)
    root = tmp_path / "images"
    for part, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / part / name / f"{number}.jpg")
    return root


def source(root, **arguments):
    data = ImageFolder(str(root), **{"cache_dir": None, "validation": 0, **arguments})
    data.setup()
    return data._source


def rgb(path):
    """(3, H, W) of one file, by Pillow."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB")).transpose(2, 0, 1))


# The first file decides between grey and colour, before the others are looked at: both places are tried.
places = pytest.mark.parametrize("place", ["train/cat/0.jpg", "train/dog/1.jpg", "test/dog/1.jpg"])


@places
def test_a_postscript_program_called_png_is_named_and_not_run(jpegs, place, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho 10.0\ntouch {tmp_path}/was_run\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (jpegs / place).unlink()
    path = (jpegs / place).with_suffix(".png")
    path.write_bytes(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 {WIDTH} {HEIGHT}\n(hello) print\n".encode())
    with pytest.raises(
        ValueError, match=r"\.png cannot be decoded \(UnidentifiedImageError: .*\): replace or remove it"
    ):
        source(jpegs)
    assert not (tmp_path / "was_run").exists()


def test_every_kind_of_file_that_the_list_allows_is_read(jpegs):
    kinds = {"bmp": "BMP", "ppm": "PPM", "webp": "WEBP", "tif": "TIFF", "png": "PNG"}
    for suffix, kind in kinds.items():
        with Image.open(jpegs / "train/cat/0.jpg") as image:
            image.save(jpegs / f"train/cat/{suffix}.{suffix}", kind, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(jpegs / "train/cat/1.jpg") as image:
        image.save(jpegs / "train/cat/2.jpg", "PNG")  # as one file of ImageNet
    images = source(jpegs).train_images
    assert len(images) == 6 + len(kinds)


@places
@pytest.mark.parametrize("kept", [0, 1, 30, 0.5, -2], ids=["nothing", "a byte", "a header", "half", "all but the end"])
def test_a_truncated_jpeg_is_named(jpegs, place, kept):
    path = jpegs / place
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=rf"/{place} cannot be decoded \(.*\): replace or remove it"):
        source(jpegs)


@places
@pytest.mark.parametrize("content", [b"no image", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_a_text_or_a_bare_signature_is_named(jpegs, place, content):
    (jpegs / place).write_bytes(content)
    with pytest.raises(ValueError, match=rf"/{place} cannot be decoded"):
        source(jpegs)


@places
def test_a_png_among_jpegs_works(jpegs, place, mode):
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    (jpegs / place).unlink()
    path = (jpegs / place).with_suffix(".png")
    pixels.convert(mode).save(path)
    assert_equals_pillow(source(jpegs), jpegs, 1 if mode == "L" else 3)
    # and so does a PNG that is called a JPEG
    path.rename(jpegs / place)
    assert_equals_pillow(source(jpegs), jpegs, 1 if mode == "L" else 3)


@places
@pytest.mark.parametrize("other", ["L", "RGB", "CMYK"])
def test_grey_colour_and_cmyk_may_be_mixed(jpegs, place, mode, other):
    with Image.open(jpegs / place) as image:
        changed = image.convert("RGB").convert(other)
    changed.save(jpegs / place, quality=95)
    assert_equals_pillow(source(jpegs), jpegs, 1 if mode == other == "L" else 3)


def assert_equals_pillow(images, root, channels):
    for part, pixels in (("train", images.train_images), ("test", images.test_images)):
        expected = torch.stack([rgb(path) for path in sorted((root / part).glob("*/*"))])
        assert pixels.shape[1] == channels
        assert torch.equal(pixels.expand(-1, 3, -1, -1), expected)


@pytest.mark.parametrize("mode", ["RGB"], indirect=True)
def test_cmyk_is_the_colour_that_was_written(jpegs):
    """Red, green, blue and black in printers' inks, so that Pillow is not the only judge of its own conversion."""
    inks = {"0": (0, 255, 255, 0), "1": (255, 0, 255, 0), "2": (255, 255, 0, 0)}
    for name, ink in inks.items():
        Image.new("CMYK", (WIDTH, HEIGHT), ink).save(jpegs / "train" / "cat" / f"{name}.jpg", quality=100)
    Image.new("CMYK", (WIDTH, HEIGHT), (0, 0, 0, 255)).save(jpegs / "test" / "cat" / "0.jpg", quality=100)
    images = source(jpegs)
    for pixels, expected in zip(
        [*images.train_images[:3], images.test_images[0]],
        [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)],
        strict=True,
    ):
        torch.testing.assert_close(pixels.int()[:, 4, 4], torch.tensor(expected, dtype=torch.int32), rtol=0, atol=2)


@places
def test_sixteen_bits_of_grey_are_refused(jpegs, place):
    """Pillow would cut them off at 255."""
    (jpegs / place).unlink()
    path = (jpegs / place).with_suffix(".png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 40_000, dtype=np.uint16)).save(path)
    with pytest.raises(ValueError, match=rf"{path} has more than 8 bits per channel .*convert it to an 8-bit image"):
        source(jpegs)


@pytest.mark.parametrize("mode", ["RGB"], indirect=True)
def test_of_sixteen_bits_of_colour_the_upper_eight_are_kept(jpegs):
    """Pillow has no mode of 16 bits in colour, and its PNG reader halves them."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + struct.pack(">3H", 40_000, 1_000, 65_535) * WIDTH
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * HEIGHT)) + chunk(b"IEND", b"")
    (jpegs / "train" / "cat" / "0.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert source(jpegs).train_images[0, :, 7, 7].tolist() == [40_000 // 256, 1_000 // 256, 255]


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_class_folder_is_named(jpegs, part):
    for path in (jpegs / part / "dog").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=rf"class folder .*/{part}/dog holds no image: add images or remove the class"):
        source(jpegs)
    (jpegs / part / "dog").rmdir()
    with pytest.raises(ValueError, match=r"differ: only in t\w+ \[.*'dog'.*both must have the same classes"):
        source(jpegs)


def test_a_link_to_nowhere_and_a_folder_are_named(jpegs):
    stray = jpegs / "train" / "dog" / "stray.jpg"
    stray.symlink_to(jpegs / "nowhere.jpg")
    with pytest.raises(ValueError, match=r"train/dog/stray.jpg is a link to nowhere or no plain file"):
        source(jpegs)
    stray.unlink()
    stray.mkdir()
    with pytest.raises(ValueError, match=r"train/dog/stray.jpg is not an image file"):
        source(jpegs)


def test_a_link_to_an_image_works(jpegs):
    path = jpegs / "train" / "dog" / "1.jpg"
    before = source(jpegs).digest
    path.rename(jpegs / "elsewhere")
    path.symlink_to(jpegs / "elsewhere")
    assert source(jpegs).digest == before


@pytest.mark.parametrize("change", ["digest", "label", "pixels", "name", "key"])
def test_a_cache_that_was_tampered_with_is_made_anew(jpegs, tmp_path, caplog, change):
    cache = tmp_path / "cache"
    right = source(jpegs, cache_dir=str(cache)).digest
    (path,) = cache.iterdir()
    stored = torch.load(path, weights_only=True)
    if change == "digest":
        stored["digest"] = "0" * 64
    elif change == "label":
        stored["train_labels"][0] = 2  # out of range
    elif change == "pixels":
        stored["test_images"][0, 0, 0, 0] ^= 1
    elif change == "name":
        stored["classes"][0] = "lion"
    else:
        del stored["test_labels"]
    torch.save(stored, path)
    with caplog.at_level(logging.WARNING):
        assert source(jpegs, cache_dir=str(cache)).digest == right
    assert f"{path} is damaged and is made anew (" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert source(jpegs, cache_dir=str(cache)).digest == right
    assert caplog.text == ""


@pytest.fixture
def mnist(tmp_path):
    """The folder of an MNIST of 20 training and 10 test images, in its own format."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 20), ("t10k", 10)):
        images = np.full((count, 28, 28), 7, dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 0x803, *images.shape) + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, count) + labels.tobytes())
    MNIST(root=str(tmp_path), validation=0, cache_dir=None).setup()
    return raw


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("kept", [0, 6, -3])
@pytest.mark.parametrize("download", [False, True])
def test_truncated_files_of_mnist(mnist, name, kept, download):
    """They have no checksum: torchvision takes them for whole and trips over them."""
    path: Path = mnist / name
    path.write_bytes(path.read_bytes()[:kept])
    part = "train" if name.startswith("train") else "test"
    told = "could not be fetched to, or read from, {}" if download else "in {} is incomplete or damaged"
    with pytest.raises(ValueError, match=r"remove what is damaged there") as error:
        MNIST(root=str(mnist.parents[1]), validation=0, cache_dir=None, download=download).setup()
    assert f"MNIST ({part}) {told.format(mnist)} (" in str(error.value)


def test_a_label_of_mnist_out_of_range(mnist):
    path = mnist / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + bytes([200]))
    with pytest.raises(ValueError, match=r"MNIST in .*/raw is incomplete .*train labels must lie in 0..9 .*got 200"):
        MNIST(root=str(mnist.parents[1]), validation=0, cache_dir=None).setup()


def test_fewer_labels_than_images(mnist):
    path = mnist / "t10k-labels-idx1-ubyte"
    path.write_bytes(struct.pack(">ii", 0x801, 9) + bytes(9))
    with pytest.raises(ValueError, match=r"MNIST in .*/raw is incomplete .*test labels must be int64 of shape \(10,\)"):
        MNIST(root=str(mnist.parents[1]), validation=0, cache_dir=None).setup()
