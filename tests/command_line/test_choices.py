"""Choices that make no sense together are refused before any training."""

import pytest
from omegaconf import OmegaConf

from lowrank_exp.command_line.choices import check_effect, check_row
from lowrank_exp.command_line.config_path import CONF
from support.smoke import SMOKE


def chosen(**choices):
    """Hydra's own node, as far as it tells what was chosen and where options lie."""
    sources = [{"path": str(CONF), "schema": "file"}]
    return OmegaConf.create({"runtime": {"choices": choices, "config_sources": sources}})


@pytest.mark.parametrize(
    ("row", "experiment", "expected"),
    [
        ("resnet20_fits/cp_weights", None, "Write experiment=resnet20_fits"),
        ("resnet20_fits/cp_weights", "pufferfish", "with experiment=pufferfish"),
        ("mine", None, "Write experiment=<table>"),
    ],
)
def test_a_row_without_its_experiment_is_refused(row, experiment, expected):
    with pytest.raises(ValueError, match=expected):
        check_row(chosen(row=row, experiment=experiment))


def test_rows_with_their_experiment_and_rows_of_ones_own_are_let_through():
    check_row(chosen(row="resnet20_fits/cp_weights", experiment="resnet20_fits"))
    check_row(chosen(row="mine/first", experiment="resnet20_fits"))
    check_row(chosen(row=None, experiment=None))


def test_overrides_without_effect_are_refused():
    with pytest.raises(ValueError, match=r"weights=\{\} changes nothing: .* ~pruning.criterion.weights.l2"):
        check_effect(["pruning.criterion.weights={}"], {"pruning": {"criterion": {"weights": {"l2": 1.0}}}})
    phases = {"method": {"phases": {"evaluate": {"_target_": "a.b"}, "recalibrate": {"max_images": 3}}}}
    with pytest.raises(ValueError, match=r"no phase recalibrate\. Its phases are: evaluate"):
        check_effect(["+method.phases.recalibrate.max_images=3"], phases)
    check_effect(["method.phases.evaluate=null", "scale=smoke"], phases)
    check_effect(["rank.rules={}", "seed=1", "tags=[]"], {"rank": {"rules": {}}, "seed": 1, "tags": ["a"]})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["row=resnet20_fits/cp_weights"], "row=resnet20_fits/cp_weights with no experiment"),
        (["pruning/criterion=weighted_sum", "pruning.criterion.weights={}"], "keeps taylor, l2"),
        (["method=trp", "regularizer=none"], "regularizer has neither terms nor a projection"),
        (["+hydra.foo=1"], "hydra.foo is read by nobody"),
        (["+hydra.run.dirr=x"], "hydra.run.dirr is read by nobody. Did you mean hydra.run.dir?"),
        (["model=vgg16", "model.width=100"], "the network that lowrank_exp.models.vgg makes has about"),
        (["data.crop_padding=100"], "data.crop_padding=100 is larger than the images, 32x32"),
        (["-m", "seed=0,1", "training.epochs=-1"], "#1 seed=1: training.epochs=-1 is refused"),
    ],
)
def test_command_is_refused_before_any_training(command, tmp_path, capfd, options, expected):
    flags = [option for option in options if option == "-m"]
    assert command(*flags, *SMOKE, *(option for option in options if option != "-m")) == 1
    said = capfd.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert not list((tmp_path / "outputs").glob("store/*/last.ckpt"))
