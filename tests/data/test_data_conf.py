"""Every file of conf/data makes a data set, and names every setting that its class has."""

import inspect
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import OmegaConf

import lowrank_exp.data as room
from lowrank_exp.data import ImageData
from lowrank_exp.data.appearance import Appearance
from support.cells import cells

FILES = sorted((Path(__file__).parents[2] / "conf" / "data").glob("*.yaml"))
# The phases give these to the loaders themselves.
NOT_SETTINGS = {"batch_size", "seed", "common", "appearance", "self"}


def composed(path, **changes):
    root = {"paths": {"cache": "cache"}, "progress": False}
    return OmegaConf.merge(root, {"data": OmegaConf.load(path)}, {"data": changes})


def test_there_is_a_file_for_every_data_set():
    targets = {OmegaConf.load(path)["_target_"] for path in FILES}
    concrete = {name for name in room.__all__ if inspect.isclass(kind := getattr(room, name))
                and issubclass(kind, ImageData) and not inspect.isabstract(kind)}  # fmt: skip
    assert targets == {f"lowrank_exp.data.{name}" for name in concrete}


@cells("path", FILES, ids=lambda path: path.stem)
def test_file_makes_its_data_set_and_names_every_setting(path):
    config = composed(path)
    data = instantiate(config.data)
    settings = {name for kind in type(data).__mro__ if issubclass(kind, ImageData)
                for name in inspect.signature(kind.__init__).parameters}  # fmt: skip
    settings |= {field.name for field in fields(Appearance)}
    assert set(OmegaConf.load(path).keys()) - {"_target_"} == settings - NOT_SETTINGS
    assert data.cache_dir == "cache"
    assert data.progress is False
    assert (data.validation, data.split_seed) == (0.1, 0)


def test_settings_from_a_file_reach_the_batches(folder):
    path = next(path for path in FILES if path.stem == "image_folder")
    config = composed(path, root=str(folder), num_classes=2, validation=0.2, image_size=[9, 8], cache_dir=None)
    data = instantiate(config.data)
    data.setup()
    assert data.input_shape == (3, 9, 8)
    assert data.sizes == {"train": 8, "val": 2, "test": 4}
    images, _ = next(iter(data.test_loader(4)))
    white = (1 - 0.485) / 0.229
    black = (0 - 0.485) / 0.229
    assert black - 1e-6 <= images[:, 0].min() < 0 < images[:, 0].max() <= white + 1e-6


def test_every_line_with_a_setting_is_explained():
    for path in FILES:
        lines = path.read_text().splitlines()
        for before, line in pairwise(lines):
            key = line.split(":")[0]
            if key not in ("_target_", "mean", "std") and not line.startswith(("#", " ")):
                assert "#" in line, f"{path.name}: {line}"
            if key == "mean":
                assert before.startswith("#"), path.name
