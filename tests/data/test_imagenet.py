"""ImageNet: unpacked, in archives of the official form, and missing."""

import hashlib
import logging
import tarfile

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import ImageNet as Source
from torchvision.datasets import imagenet as source
from torchvision.transforms import functional as reference

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.data import ImageNet
from lowrank_exp.data.imagenet import ARCHIVES

WNIDS = {"n01440764": "tench, Tinca tinca", "n02012849": "crane", "n03126707": "crane"}
COUNT = 4


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12 + seed % 3, 11, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG")


def pack(archive, paths, mode="w"):
    with tarfile.open(archive, mode) as tar:
        for path in paths:
            tar.add(path, path.name)


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """The three archives for three classes, four training and two validation images of each, built as the official."""
    root, parts = tmp_path / "imagenet", tmp_path / "parts"
    root.mkdir()
    for label, wnid in enumerate(WNIDS):
        for number in range(COUNT):
            picture(parts / wnid / f"{wnid}_{number}.JPEG", 10 * label + number)
        pack(parts / f"{wnid}.tar", sorted((parts / wnid).iterdir()))
    pack(root / ARCHIVES["train"], sorted(parts.glob("*.tar")))
    order = [3, 1, 2, 2, 3, 1]  # the development kit counts classes from 1, in an order of its own
    for number in range(6):
        picture(parts / "val" / f"ILSVRC2012_val_{number + 1:08}.JPEG", 100 + number)
    pack(root / ARCHIVES["val"], sorted((parts / "val").iterdir()))
    kit = parts / "ILSVRC2012_devkit_t12"
    (kit / "data").mkdir(parents=True)
    (kit / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{index}\n" for index in order))
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = [(index, wnid, words, "", 0) for index, (wnid, words) in enumerate(WNIDS.items(), 1)]
    savemat(
        kit / "data" / "meta.mat", {"synsets": np.array([*synsets, (4, "n00001740", "entity", "", 3)], dtype=kinds)}
    )
    pack(root / ARCHIVES["devkit"], [kit], "w:gz")
    sums = {part: (name, hashlib.md5((root / name).read_bytes()).hexdigest()) for part, name in ARCHIVES.items()}
    monkeypatch.setattr(source, "ARCHIVE_META", sums)
    return root


def ready(root, **arguments):
    data = ImageNet(root, **{"cache_dir": None, "validation": 0.25, "resize_short": 10, **arguments})
    data.setup()
    return data


def test_names_of_the_archives_are_torchvisions():
    assert {part: name for part, (name, _) in source.ARCHIVE_META.items()} == ARCHIVES


@pytest.mark.parametrize("in_memory", ["always", "never"])
def test_archives_are_unpacked_as_torchvision_does(archives, in_memory):
    data = ready(archives, num_classes=3, in_memory=in_memory, workers=0)
    assert sorted(path.name for path in archives.iterdir() if path.is_dir()) == ["train", "val"]
    assert data.sizes == {"train": 9, "val": 3, "test": 6}
    assert data.classes == ("tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)")
    for split, labels in (("train", data._source.train_labels), ("val", data._source.test_labels)):
        theirs = Source(str(archives), split)
        assert [label for _, label in theirs.samples] == labels.tolist()
        assert theirs.wnids == list(WNIDS)
    tests = torch.cat([images for images, _ in data.test_loader(4)])
    pixels = [
        np.asarray(Image.open(path).resize((10, 10 * Image.open(path).height // 11), 2)) for path, _ in theirs.samples
    ]
    expected = np.stack([image[(len(image) - 10) // 2 :][:10] for image in pixels]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(tests * 0.5 + 0.5, expected / 255, atol=1e-6)


def test_the_files_of_configuration(archives):
    common = {"root": str(archives), "num_classes": 3, "validation": 0.25, "cache_dir": None, "progress": False}
    for name, order, channels in (("imagenet", [0, 1, 2], None), ("imagenet_caffe", [2, 1, 0], (104, 117, 123))):
        config = OmegaConf.load(CONF / "data" / f"{name}.yaml")
        assert (config.resize_short, config.train_view, config.test_view) == (256, "random_crop", "center_crop")
        data = instantiate(OmegaConf.merge(config, common))
        data.setup()
        side = config.image_size
        assert data.input_shape == (3, side, side)
        images = next(iter(data.test_loader(6)))[0]
        top = {224: 16, 227: 14}[side]
        pixels = data._source.test_images[:, :, top : top + side, top : top + side].float()[:, order]
        if channels is None:
            expected = reference.normalize(pixels / 255, config.mean, config.std)
        else:
            expected = pixels - torch.tensor(channels).view(3, 1, 1)
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)


def test_an_unpacked_folder_needs_no_archive(archives):
    first = ready(archives)
    for name in (*ARCHIVES.values(), "meta.bin"):
        (archives / name).unlink()
    again = ready(archives)
    assert again.classes == tuple(WNIDS)
    assert again.digest == first.digest  # names do not decide


def test_unpacking_that_was_killed_starts_anew(archives, monkeypatch):
    (archives / ".train.part" / "n01440764").mkdir(parents=True)
    (archives / ".train.part" / "n01440764" / "half.JPEG").write_bytes(b"half")
    assert ready(archives).sizes["train"] == 9
    assert not list(archives.glob(".*.part"))


def test_a_damaged_archive_is_named(archives):
    with (archives / ARCHIVES["train"]).open("ab") as file:
        file.write(b"more")
    with pytest.raises(
        ValueError, match=r"ILSVRC2012_img_train.tar is damaged or not the one of ImageNet.*fetch it again"
    ):
        ready(archives)
    assert not (archives / "train").exists()


def test_validation_images_without_the_kit(archives):
    (archives / ARCHIVES["devkit"]).unlink()
    with pytest.raises(
        ValueError, match=r"img_val.tar says nothing of the classes .*: put ILSVRC2012_devkit_t12.tar.gz"
    ):
        ready(archives)
    assert (archives / "train").is_dir()


def test_only_one_half_is_there(archives):
    (archives / ARCHIVES["train"]).unlink()
    with pytest.raises(ValueError, match=r"has no folder 'train': expected .*it holds .*ILSVRC2012_img_val.tar"):
        ready(archives)


def test_a_kit_that_cannot_be_read_costs_the_names_alone(archives, caplog):
    ready(archives)
    (archives / "meta.bin").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        assert ready(archives).classes == tuple(WNIDS)
    assert "classes are called by their wnids" in caplog.text


def test_missing_images_are_asked_for(tmp_path):
    with pytest.raises(
        ValueError, match=r"^ImageNet \(ILSVRC-2012\) is not in .*/images .*data.root=<folder>.*/val/"
    ) as said:
        ready(tmp_path / "images")
    assert all(name in str(said.value) for name in (*ARCHIVES.values(), "https://image-net.org/"))
    with pytest.raises(
        ValueError, match=r"data.root is not set: give the folder of ImageNet \(ILSVRC-2012\), data.root="
    ):
        ready(None)
