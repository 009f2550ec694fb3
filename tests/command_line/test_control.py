"""`control=` and `controls=true` as they are typed, and what they make of a row's configuration."""

from pathlib import Path

import pytest

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.control import with_all_controls, without_control
from lowrank_exp.command_line.used import job_config
from support.composed import composed

LABELS = {"experiment": None, "row": None}
ALL = "control=none,dense_by_width,dense_trained_on,from_scratch,shuffled_ranks"


def test_controls_is_a_sweep_over_the_row_and_every_control(tmp_path: Path) -> None:
    typed = ["seed=1", "controls=true", "--config-dir", "own"]
    assert with_all_controls(typed, [CONF]) == ["--multirun", "seed=1", ALL, "--config-dir", "own"]
    assert with_all_controls(["-m", "controls=True"], [CONF]) == ["-m", ALL]
    for off in (["controls=false"], ["controls=true", "--cfg", "job"], []):
        assert with_all_controls(off, [CONF]) == [one for one in off if "controls" not in one]
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "mine.yaml").write_text("# @package method\n")
    assert with_all_controls(["-m", "controls=true"], [tmp_path]) == ["-m", "control=none,mine"]
    with pytest.raises(ValueError, match="controls=true controls=false: leave one of them out"):
        with_all_controls(["controls=true", "controls=false"], [CONF])
    with pytest.raises(ValueError, match="controls=yes is refused: allowed is true or false"):
        with_all_controls(["controls=yes"], [CONF])
    with pytest.raises(ValueError, match="controls=true beside control=from_scratch: leave one of them out"):
        with_all_controls(["controls=true", "control=from_scratch"], [CONF])


METHODS = {
    "decompose": ("train", 0.01, 0.05),
    "svd_training": ("train", 0.01, 0.05),
    "pufferfish": ("warmup", 0.05, 0.05),
    "cuttlefish": ("until_settled", 0.05, 0.05),
    "sfp": ("initial", 0.05, 0.05),
    "evaluate": ("train", 0.01, 0.05),
}


def test_controls_follow_the_phases_of_any_method_by_its_recipes() -> None:
    for method, (dense, finetuned, trained) in METHODS.items():
        row = job_config(composed(f"method={method}"), LABELS)
        assert "control" not in row
        for control, lr in (("dense_trained_on", finetuned), ("from_scratch", trained), ("dense_by_width", trained)):
            cfg = composed(f"method={method}", f"control={control}", "seed=3")
            config = job_config(cfg, LABELS, control)
            assert config["method"]["order"] == [*row["method"]["order"], control]
            phase = config["method"]["phases"][control]
            assert (phase["train"]["optimizer"]["lr"], phase["train"].get("regularizer")) == (lr, None)
            assert (phase["seed"], phase.get("dense", dense)) == (3, dense)
            assert config["control"] == control
            assert job_config(without_control(cfg), LABELS) == job_config(
                composed(f"method={method}", "seed=3"), LABELS
            )


def test_shuffled_ranks_are_those_of_the_row_otherwise() -> None:
    cfg = composed("control=shuffled_ranks", "seed=3", "rank=energy")
    assert cfg.rank.shuffle == {"seed": 3}
    config, row = job_config(cfg, LABELS, "shuffled_ranks"), job_config(composed("seed=3", "rank=energy"), LABELS)
    assert config["method"]["phases"]["factorize"]["rank"].pop("shuffle") == {"seed": 3}
    assert config["method"] == row["method"]
    assert job_config(without_control(cfg), LABELS) == row
