"""What is asked of SLURM and what it answers, without SLURM: its commands are scripts here."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lowrank_exp.job.launchers import slurm
from lowrank_exp.job.launchers.slurm import Slurm, states_of
from lowrank_exp.job.launchers.submitting import Sent
from support.composed import composed


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Puts a shell script in the place of a command of SLURM's; each call's arguments come into `<name>.args`."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def put(name: str, script: str) -> Path:
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "$@" >> {path}.args\n{script}\n')
        path.chmod(0o755)
        return path.with_suffix(".args")

    return put


def sent(*ids: str) -> list[Sent]:
    return [Sent(None, "", SimpleNamespace(job_id=name)) for name in ids]


def test_states_of_arrays_are_read_and_the_forgotten_are_gone(commands):
    asked = commands("squeue", "echo '7_0 RUNNING\n7_1 TIMEOUT\n9 PENDING'")
    assert states_of(["7", "9"]) == {"7_0": "RUNNING", "7_1": "TIMEOUT", "9": "PENDING"}
    assert "--jobs=7,9" in asked.read_text().split()
    launcher = instantiate(composed("launcher=slurm").launcher)
    assert launcher.look(sent("7_0", "7_1", "7_2", "9")) == {"7_1": "TIMEOUT", "7_2": slurm.FORGOTTEN}


def test_a_controller_that_does_not_answer_ends_no_job(commands):
    launcher = instantiate(composed("launcher=slurm").launcher)
    commands("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert (states_of(["7"]), launcher.look(sent("7_0"))) == (None, {})
    commands("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert (states_of(["7"]), launcher.look(sent("7_0"))) == ({}, {"7_0": slurm.FORGOTTEN})


@pytest.mark.parametrize(
    ("state", "wanted"), [("RUNNING", True), ("COMPLETING", False), ("CANCELLED", False), ("PENDING", False)]
)
def test_a_job_that_somebody_has_cancelled_is_not_wanted(commands, monkeypatch, state, wanted):
    commands("squeue", f"echo '7_0 {state}'")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert Slurm.still_wanted() is wanted
    monkeypatch.delenv("SLURM_JOB_ID")
    assert Slurm.still_wanted() is False


def test_slurm_is_asked_again_where_it_does_not_answer(commands, monkeypatch, tmp_path):
    asked = commands("squeue", f"[ $(wc -l < {tmp_path}/squeue.args) -eq 1 ] && exit 1; echo '7 RUNNING'")
    waits = []
    monkeypatch.setattr(slurm.time, "sleep", waits.append)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert Slurm.still_wanted() is True
    assert len(asked.read_text().splitlines()) == 2
    commands("squeue", "exit 1")
    assert Slurm.still_wanted() is False
    assert waits == [1] * (1 + slurm.ASKED)


def test_keys_become_options_of_sbatch(commands, tmp_path):
    commands("srun", "")
    commands("sbatch", "echo Submitted batch job 7")
    options = ["partition=long", "account=me", "gpus=2", "cpus_per_task=3", "memory=8", "minutes=90", "notice=60"]
    more = ["timeouts=5", "width=4", "sbatch={qos: low}"]
    launcher = instantiate(composed("launcher=slurm", *(f"launcher.{one}" for one in options + more)).launcher)
    launcher.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "out")}, "job": {"name": "mine"}}})
    jobs = launcher.submit([(print, "a"), (print, "b")], "afterany:5")
    assert [one.handle.job_id for one in jobs] == ["7_0", "7_1"]
    (script,) = (tmp_path / "out/launched").rglob("*submission.sh")
    lines = script.read_text().splitlines()
    flags = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    expected = {"partition": "long", "account": "me", "gpus-per-node": "2", "cpus-per-task": "3", "mem": "8GB"}
    expected |= {"time": "90", "signal": "USR2@60", "qos": "low", "array": "0-1%2", "dependency": "afterany:5"}
    assert {name: flags[name] for name in expected} == expected
    assert "requeue" in flags
    (start,) = (line for line in lines if line.startswith("srun"))
    assert "--cpus-per-task=3" in start
    assert lines.index("trap '' TERM USR2") < lines.index(start)  # what starts a job outlives its signals
    assert launcher.patience == 30
    pickled = jobs[0].handle.submission()
    assert (pickled._timeout_min, pickled._timeout_countdown) == (90, 5)


def test_where_slurm_or_submitit_is_not_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    launcher = instantiate(composed("launcher=slurm").launcher)
    with pytest.raises(ValueError, match=r"sbatch or srun is not here.* take launcher=local"):
        launcher.submit([(print, "a")])
    monkeypatch.setattr("lowrank_exp.job.launchers.submitting.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs submitit, which is not installed: pip install 'lowrank_exp\[slurm\]'"):
        launcher.launch([["seed=0"]], 0)
