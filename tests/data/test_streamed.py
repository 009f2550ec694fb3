"""Streamed images give the bits of the same images in memory, whoever decodes them and whenever."""

import logging
import os
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from lowrank_exp.data import ImageFolder
from lowrank_exp.data import streamed as module
from lowrank_exp.training import evaluate
from support.fits import fit_by_options_

SETTINGS = {
    "whole": {"crop_padding": 1, "image_size": [10, 9]},
    "crops": {"resize_short": 12, "train_view": "random_crop", "test_view": "ten_crop", "image_size": 9, "cutout": 3},
    "resized crops": {"resize_short": 12, "train_view": "random_resized_crop", "test_view": "center_crop",
                      "image_size": 9, "channel_order": "bgr"},
}  # fmt: skip


@pytest.fixture
def photos(tmp_path):
    """24 training and 6 test JPEGs of many sizes in two classes."""
    rng = np.random.default_rng(3)
    root = tmp_path / "photos"
    for part, count in (("train", 12), ("test", 3)):
        for name in ("cat", "dög"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (*rng.integers(10, 30, 2), 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:02}.jpg")
    return root


def ready(root, in_memory="never", **settings):
    arguments = {"cache_dir": None, "validation": 0.25, "flip": True, "workers": 0} | settings
    data = ImageFolder(str(root), in_memory=in_memory, **arguments)
    data.setup()
    return data


def everything(data):
    """Two epochs of every loader; the training loader's are of one loader, as in a fit."""
    batches = []
    train = data.train_loader(5, seed=3)
    for loader, epochs in (
        (train, (0, 1)),
        (data.train_loader(5, seed=3, augment=False), (0,)),
        (data.val_loader(4), (0,)),
        (data.val_sample(3, 0, 2), (0,)),
        (data.test_loader(4), (0,)),
    ):
        for epoch in epochs:
            loader.sampler.set_epoch(epoch)
            batches += list(loader)
    return batches


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for (images, labels), (other_images, other_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_streamed_equals_in_memory_for_any_number_of_workers(photos, tmp_path, settings):
    held = ready(photos, "always", **settings)
    expected = everything(held)
    for workers in (0, 1, 2):
        data = ready(photos, workers=workers, cache_dir=str(tmp_path / "cache") if workers else None, **settings)
        assert_equal(everything(data), expected)
        assert (data.sizes, data.classes, data.input_shape) == (held.sizes, held.classes, held.input_shape)
    (cache,) = (tmp_path / "cache").iterdir()
    assert cache.suffix == ".rows"


def test_resizing_after_the_cache(photos, tmp_path):
    settings = {"resize_short": 12, "cache_dir": str(tmp_path / "cache")}
    for shape in ((3, 12, 12), (3, 8, 7), None):
        held, data = (ready(photos, where, **settings) for where in ("always", "never"))
        for one in (held, data):
            one.adapt(shape)
        assert_equal(everything(data), everything(held))
    assert len(list((tmp_path / "cache").glob("*.rows"))) == 1


def test_grey_images(photos):
    for path in photos.glob("*/*/*"):
        Image.open(path).convert("L").save(path)
    settings = {"resize_short": 8, "mean": (0.5,), "std": (0.5,)}
    held, data = (ready(photos, where, **settings) for where in ("always", "never"))
    assert data.input_shape == (1, 8, 8)
    assert_equal(everything(data), everything(held))
    colour = ready(photos, channels=3, **settings)
    held.adapt((3, 8, 8))
    assert_equal(everything(colour), everything(held))
    odd = photos / "test" / "cat" / "01.jpg"
    Image.new("RGB", (9, 9), (9, 99, 199)).save(odd)
    with pytest.raises(ValueError, match=rf"{odd} is in colour and .*cat/00.jpg is grey: set data.channels=3"):
        everything(ready(photos, **settings))


@pytest.fixture
def decoded(monkeypatch):
    """Paths in the order in which they are decoded, in this process."""
    paths = []
    read = module.read_image

    def counted(path, stored):
        paths.append(path)
        return read(path, stored)

    monkeypatch.setattr(module, "read_image", counted)
    return paths


def test_every_image_is_decoded_once_while_the_cache_holds(photos, tmp_path, decoded):
    settings = {**SETTINGS["crops"], "cache_dir": str(tmp_path / "cache")}
    expected = everything(ready(photos, **settings))
    assert len(decoded) == len(set(decoded)) == 30
    assert_equal(everything(ready(photos, **settings)), expected)
    assert len(decoded) == 30
    path = photos / "train" / "cat" / "03.jpg"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert_equal(everything(ready(photos, **settings)), expected)
    assert len(decoded) == 60


def test_going_on_after_a_kill_decodes_what_is_missing(photos, tmp_path, decoded):
    settings = {**SETTINGS["crops"], "cache_dir": str(tmp_path / "cache")}
    expected = everything(ready(photos, **settings))
    (cache,) = (tmp_path / "cache").iterdir()
    row = 3 * 12 * 12 + 4
    content = bytearray(cache.read_bytes())
    content[10 * row + 100 : 11 * row] = bytes(row - 100)  # the eleventh row was half written
    cache.write_bytes(content[: 25 * row + 7])  # and all after the 25th never
    decoded.clear()
    assert_equal(everything(ready(photos, **settings)), expected)
    assert sorted(path.relative_to(photos).as_posix() for path in decoded) == [
        "test/cat/01.jpg", "test/cat/02.jpg", "test/dög/00.jpg", "test/dög/01.jpg", "test/dög/02.jpg",
        "train/cat/10.jpg"]  # fmt: skip
    assert cache.stat().st_size == 30 * row


def test_a_cache_that_takes_nothing_is_a_warning(photos, tmp_path, caplog):
    (tmp_path / "cache").touch()
    with caplog.at_level(logging.WARNING):
        batches = everything(ready(photos, cache_dir=str(tmp_path / "cache"), **SETTINGS["crops"]))
    assert caplog.text.count("could not be cached") == 1
    assert_equal(batches, everything(ready(photos, "always", **SETTINGS["crops"])))


def test_cache_limit(photos, tmp_path):
    row = 3 * 12 * 12 + 4
    everything(ready(photos, cache_dir=str(tmp_path / "cache"), cache_limit=11 * row + 1, **SETTINGS["crops"]))
    (cache,) = (tmp_path / "cache").iterdir()
    assert cache.stat().st_size == 11 * row


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named(photos, workers):
    path = photos / "test" / "dög" / "01.jpg"
    path.write_bytes(path.read_bytes()[:200])
    data = ready(photos, workers=workers, **SETTINGS["crops"])
    with pytest.raises(ValueError, match=rf"^{path} cannot be decoded \(.*: replace or remove it$") as caught:
        list(data.test_loader(2))
    assert "Traceback" not in str(caught.value)
    assert len(list(data.val_loader(2))) == 3


def test_a_broken_off_pass_leaves_the_next_one_whole(photos):
    data = ready(photos, workers=1, **SETTINGS["crops"])
    loader = data.train_loader(3, seed=1)
    next(iter(loader))
    loader.sampler.set_epoch(1)
    held = ready(photos, "always", **SETTINGS["crops"]).train_loader(3, seed=1)
    held.sampler.set_epoch(1)
    assert_equal(list(loader), list(held))


def test_batches_can_be_sent_to_a_process_that_shares_nothing(photos, tmp_path):
    data = ready(photos, cache_dir=str(tmp_path / "cache"), **SETTINGS["crops"])
    loader = data.test_loader(4)
    sent = pickle.loads(pickle.dumps(loader.dataset))
    assert_equal([sent[item] for item in loader.sampler], list(loader))


def test_loaders_leave_the_global_random_state_alone(photos):
    data = ready(photos, workers=1, **SETTINGS["crops"])
    before = torch.get_rng_state(), str(np.random.get_state())
    list(data.train_loader(8, seed=1))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())


def test_auto_streams_what_exceeds_the_limit(photos):
    whole = 30 * 3 * 12 * 12
    for limit, streamed in ((whole, False), (whole - 1, True)):
        data = ready(photos, "auto", memory_limit=limit, **SETTINGS["crops"])
        assert isinstance(data._source, module.StreamedSource) == streamed
    data = ImageFolder(str(photos), cache_dir=None, resize_short=12, memory_limit=whole, workers=0, validation=0.25)
    data.adapt((3, 13, 12))  # what they are resized to has to fit as well
    data.setup()
    assert isinstance(data._source, module.StreamedSource)
    with pytest.raises(ValueError, match=r"30 images of 3x12x12 .*data.in_memory=never"):
        ready(photos, "always", memory_limit=whole - 1, **SETTINGS["crops"])


def test_digest_of_streamed_images(photos):
    settings = SETTINGS["crops"]
    digest = ready(photos, **settings).digest
    assert len(digest) == 32
    for same in ({"workers": 1}, {"prefetch": 5}, {"cache_limit": 7}, {"cache_dir": "elsewhere"}):
        assert ready(photos, **{**settings, **same}).digest == digest
    others = {ready(photos, **{**settings, **change}).digest for change in (
        {"resize_short": 13}, {"train_view": "random_resized_crop"}, {"test_view": "center_crop"}, {"image_size": 8},
        {"flip": False}, {"channel_order": "bgr"}, {"mean": (0.4,)}, {"split_seed": 1})}  # fmt: skip
    others.add(ready(photos, "always", **settings).digest)
    path = photos / "test" / "cat" / "01.jpg"
    os.utime(path, ns=(0, 0))
    assert ready(photos, **settings).digest == digest
    path.write_bytes(path.read_bytes() + b"\0")
    others.add(ready(photos, **settings).digest)
    path.rename(path.with_name("09.jpg"))
    others.add(ready(photos, **settings).digest)
    assert len(others | {digest}) == 12


class StoppedError(Exception):
    pass


def trained(data, checkpoint=None, stop_after=None):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
                                  torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))  # fmt: skip

    def on_epoch(metrics):
        if metrics["epoch"] == stop_after:
            raise StoppedError

    fit_by_options_(
        network, data.train_loader(5, seed=3), data.val_loader(4), epochs=3, optimizer=partial(torch.optim.SGD, lr=0.1),
        schedule=None, seed=0, checkpoint=checkpoint, device="cpu", on_epoch=on_epoch, progress=False,
    )  # fmt: skip
    return network


def test_a_killed_fit_goes_on_and_ends_as_one_in_memory(photos, tmp_path):
    held, data = (ready(photos, where, workers=1, **SETTINGS["crops"]) for where in ("always", "never"))
    expected = trained(held)
    with pytest.raises(StoppedError):
        trained(data, tmp_path / "last.ckpt", stop_after=1)
    resumed = trained(data, tmp_path / "last.ckpt")
    for name, value in expected.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    scores = [evaluate(expected, one.test_loader(4), "cpu") for one in (held, data)]
    assert scores[0] == scores[1]
    assert scores[0].count == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_memory": True}, r"data.in_memory=True is not known: auto, always, never"),
        ({"workers": -1}, r"data.workers=-1: a whole number of at least 0 or null is needed"),
        ({"workers": 1.5}, r"data.workers=1.5"),
        ({"prefetch": 0}, r"data.prefetch=0: a whole number of at least 1 is needed"),
        ({"prefetch": None}, r"data.prefetch=None"),
        ({"cache_limit": -1}, r"data.cache_limit=-1: a whole number of at least 0 or null"),
    ],
)
def test_arguments_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder("images", **change)
