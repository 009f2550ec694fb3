"""What the command line answers before any job."""

import multiprocessing
import os
import re
import subprocess
import sys

import pytest

from lowrank_exp.cli import use_threads
from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.flags import checked, put_working_folder_last
from lowrank_exp.command_line.help import help_text
from lowrank_exp.job.launching import jobs_side_by_side
from support.table_rows import TABLES

HEAVY = ("torch", "pytorch_lightning", "torchvision", "sklearn", "pandas", "wandb")


@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"], ["rank=energy", "--cfg", "job", "-p", "rank"]])
def test_help_and_configuration_import_nothing_heavy(flags, tmp_path):
    program = (
        f"import sys; sys.argv = ['lowrank-exp', *{flags!r}]\n"
        "from lowrank_exp.cli import main\nmain()\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert run.stdout.endswith("heavy: []\n")
    assert "macs: 0.5" in run.stdout or "rank: knapsack" in run.stdout


def test_help_names_every_group_and_option():
    text = help_text(CONF)
    for path in CONF.rglob("*.yaml"):
        if path.parent != CONF and path.parent.name != "recipe":
            assert path.stem in text
    for name, table in TABLES.items():
        (told,) = re.findall(rf"^  {name}(?: +|\n)((?:.*\n)(?: {{26}}.*\n)*)", text, re.M)
        assert all(row in told.replace(",", " ").split() for row in table.rows)
    assert "seed: 0 # of weights" in text
    assert "seconds: 0.2 # how long to repeat it; 0 leaves latency out [a number in [0, 3600]]" in text
    assert "[true or false]" in text


def test_threads_are_refused_unless_a_positive_integer():
    for wrong in (0, -1, True, "two"):
        with pytest.raises(ValueError, match=f"threads={wrong!r}"):
            use_threads(wrong, 1)


@pytest.mark.parametrize(("n_jobs", "mode", "expected"), [(2, "MULTIRUN", 2), (2, "RUN", 1), (None, "MULTIRUN", 1)])
def test_jobs_side_by_side(n_jobs, mode, expected):
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    of, other = OmegaConf.create({} if n_jobs is None else {"n_jobs": n_jobs}), OmegaConf.create({})
    for hydra, ours in ((of, other), (other, of)):
        assert jobs_side_by_side(OmegaConf.create({"launcher": hydra, "mode": RunMode[mode]}), ours) == expected


def test_every_key_of_the_root_has_what_is_allowed_behind_it():
    lines = help_text(CONF).partition("\n  seed: ")[2].splitlines()
    keys = [line for line in ["seed: " + lines[0], *lines[1:]] if ": " in line]
    assert len(keys) >= 13
    assert [line for line in keys if not line.endswith("]")] == []


SHADOWS = ("profile", "statistics", "calendar", "csv", "torch", "fractions")
NETWORK = """
import torch

class Mine(torch.nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))
"""


@pytest.mark.slow
def test_modules_of_the_working_folder_are_found_but_not_in_the_place_of_libraries(tmp_path):
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a script of the working folder was run')")
    (tmp_path / "network_here.py").write_text(NETWORK)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text("_target_: network_here.Mine\nnum_classes: 10\nweights: null\n")
    arguments = ["--config-dir", "conf", "model=mine", "method=evaluate", "latency.seconds=0", "logger=none"]
    command = [sys.executable, "-m", "lowrank_exp.cli", *arguments, "threads=1"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    assert len(list(tmp_path.glob("outputs/runs/*/model.pt"))) == 1


def _path(queue):
    queue.put(sys.path)


def test_processes_that_are_started_look_into_the_working_folder_last(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.chdir(tmp_path)
    put_working_folder_last()
    put_working_folder_last()
    assert sys.path.count(str(tmp_path)) == 1
    assert sys.path[-1] == str(tmp_path)
    assert "" not in sys.path

    (tmp_path / "statistics.py").write_text("raise SystemExit('a script of the working folder was run')")
    for program in (["-c", "import statistics"], ["-m", "statistics"]):
        assert subprocess.run([sys.executable, *program], env=os.environ, check=False).returncode == 0
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    process = spawn.Process(target=_path, args=(queue,))
    process.start()
    assert queue.get(timeout=60)[-1] == str(tmp_path)
    process.join()


def test_a_part_of_the_configuration_is_shown_by_its_name_alone():
    assert checked(["-p", "rank"]) == ["--cfg", "job", "-p", "rank"]
    assert checked(["--resolve", "model=resnet20"]) == ["--cfg", "job", "--resolve", "model=resnet20"]
    for unchanged in (["--cfg", "hydra", "-p", "hydra.run"], ["-m", "seed=0,1"], ["--info", "plugins"], []):
        assert checked(unchanged) == unchanged


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["-m", "-p", "rank"], "-p rank is for --cfg job"),
        (["--info", "all", "--resolve"], "--resolve is for --cfg job"),
        (["-cp", "/tmp"], "--config-dir FOLDER"),
        (["--experimental-rerun", "job.pickle"], "Give the same overrides again"),
        (["=3"], "=3 cannot be read: an override is key=value"),
        (["seed=1", "++=3"], r"\+\+=3 cannot be read"),
        (["@x=3"], "@x=3 cannot be read"),
        (["seed =3"], "seed =3 cannot be read: an override is key=value"),
    ],
)
def test_flags_without_effect_are_refused(flags, expected):
    with pytest.raises(ValueError, match=expected):
        checked(flags)


@pytest.mark.parametrize("part", ["nosuch", "rank.nosuch", "rank.weights"])
def test_a_part_that_the_configuration_does_not_have_is_told(command, capfd, part):
    assert command("-p", part) == 1
    assert f"error: -p {part}: the configuration has no such part, or it is null" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seed=range(3,0)"], "seed=range(3,0) gives no value"),
        (["seed=0,1,0"], "this job twice: seed=0"),
        (
            ["experiment=digits_budgets", "hydra.sweeper.params.seed='1,1'"],
            "this job twice: rank=uniform rank.macs=0.3 seed=1",
        ),
    ],
)
def test_a_sweep_without_jobs_or_with_one_twice_is_refused(command, tmp_path, capfd, overrides, expected):
    assert command("-m", *overrides) == 1
    assert expected in capfd.readouterr().err
    assert not (tmp_path / "outputs").exists()
