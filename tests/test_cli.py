"""What the command line answers before any job."""

import subprocess
import sys

import pytest

from lowrank_exp.cli import jobs_side_by_side, use_threads
from lowrank_exp.config_path import CONF
from lowrank_exp.help import help_text

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
        if path.parent != CONF and path.parent.name != "paper":
            assert path.stem in text
    assert "seed: 0 # of weights" in text


def test_threads_are_refused_unless_a_positive_integer():
    for wrong in (0, -1, True, "two"):
        with pytest.raises(ValueError, match=f"threads={wrong!r}"):
            use_threads(wrong, 1)


@pytest.mark.parametrize(("n_jobs", "mode", "expected"), [(2, "MULTIRUN", 2), (2, "RUN", 1), (None, "MULTIRUN", 1)])
def test_jobs_side_by_side(n_jobs, mode, expected):
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    launcher = {} if n_jobs is None else {"n_jobs": n_jobs}
    assert jobs_side_by_side(OmegaConf.create({"launcher": launcher, "mode": RunMode[mode]})) == expected
