"""Image folders tell a job how many classes there are; the job is that of the number."""

import pytest
from omegaconf import OmegaConf
from PIL import Image

from lowrank_exp.files.results import Result
from lowrank_exp.job.class_count import count_classes_
from support.smoke import SMOKE

FOLDER = ("data=image_folder", "data.validation=0.2", "data.mean=[0.5]", "data.std=[0.5]", "method=evaluate")


def grey(folder):
    for path in folder.glob("*/*/*.png"):
        Image.open(path).convert("L").save(path)
    return f"data.root={folder}"


def test_a_job_takes_the_number_of_the_folders(command, folder, tmp_path, capsys):
    root = grey(folder)
    assert command(*SMOKE, *FOLDER, root) == 0
    (path,) = (tmp_path / "outputs/runs").glob("*/result.json")
    result = Result.read(path)
    assert (result.config["data"]["num_classes"], result.config["model"]["num_classes"]) == (2, 2)
    assert result.fingerprint == path.parent.name
    assert list(result.phases[0].class_accuracy) == ["cat", "dog"]
    assert result.phases[0].macs == 416_520 - 8 * 84
    capsys.readouterr()
    assert command(*SMOKE, *FOLDER, root, "data.num_classes=2") == 0
    assert "finished already" in capsys.readouterr().out
    assert command(*SMOKE, *FOLDER, root, "data.num_classes=3") == 1
    assert "data has 2 classes, data.num_classes is 3: set data.num_classes=2" in capsys.readouterr().err


def test_other_data_do_not_count_and_folders_that_are_not_there_are_told(command, tmp_path, capfd):
    assert command(*SMOKE, "data.num_classes=null") == 1
    assert "only image folders tell it themselves: set data.num_classes" in capfd.readouterr().err
    assert command(*SMOKE, *FOLDER, f"data.root={tmp_path / 'nowhere'}") == 1
    assert f"data.root={tmp_path / 'nowhere'} is not a folder" in capfd.readouterr().err


@pytest.mark.parametrize("target", ["ImageFolder", "ImageNet"])
def test_the_networks_number_follows(target, folder):
    if target == "ImageNet":
        (folder / "test").rename(folder / "val")
    data = {"_target_": f"lowrank_exp.data.{target}", "root": str(folder), "num_classes": None}
    cfg = OmegaConf.create({"data": data, "model": {"num_classes": "${data.num_classes}"}})
    count_classes_(cfg)
    assert (cfg.data.num_classes, cfg.model.num_classes) == (2, 2)
    (folder / "train" / "cow").mkdir()
    count_classes_(cfg)
    assert cfg.model.num_classes == 2  # what is given stays
    cfg.data.num_classes = None
    with pytest.raises(ValueError, match=r"differ: only in train \['cow'\]"):
        count_classes_(cfg)
