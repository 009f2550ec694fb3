"""Keys that have another name now: on the command line former names do what they did, in files they are told."""

import pytest
from hydra import compose, initialize_config_dir

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.flags import checked

OLD = [("sfp", "P", "share"), ("repr", "p", "share"), ("agp", "s_f", "share"), ("oneshot", "rate", "share")]
OLD += [("agp", "s_i", "share_at_first")]


def _composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.mark.parametrize(("schedule", "old", "new"), OLD)
def test_a_former_name_sets_what_the_key_of_today_sets(schedule, old, new):
    before = _composed("method=prune", f"pruning={schedule}")
    after = _composed(*checked(["method=prune", f"pruning={schedule}", f"pruning.{old}=0.2"]))
    assert before.pruning[new] != 0.2
    assert after.pruning[new] == 0.2
    assert after == _composed("method=prune", f"pruning={schedule}", f"pruning.{new}=0.2")


def test_a_former_name_in_a_file_is_told_with_the_one_of_today(command, capsys, tmp_path):
    folder = tmp_path / "conf" / "pruning"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("defaults: [agp, _self_]\ns_f: 0.2\n")
    assert command("--config-dir", str(tmp_path / "conf"), "method=prune", "pruning=mine", "dry_run=true") == 1
    assert "pruning.s_f is called pruning.share now: type that" in capsys.readouterr().err
