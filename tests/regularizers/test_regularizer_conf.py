"""Every file in conf/regularizer/ builds a regularizer that acts."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.decomposition import ChannelSVD, LinearSVD
from lowrank_exp.regularizers import Regularizer
from lowrank_exp.svd_form import SVDForm

# Terms and weights by file; rows of tables have the authors' own weights of sparsity.
TERMS = {
    "none": {},
    "svd_orthogonality": {"orthogonality": 1.0},
    "svd_hoyer": {"orthogonality": 1.0, "hoyer": 0.01},
    "svd_hoyer_square": {"orthogonality": 1.0, "hoyer_square": 0.001},
    "svd_l1": {"orthogonality": 1.0, "l1": 0.003},
    "trp": {"nuclear_norm": 3e-4},
    "frobenius_decay": {"frobenius_decay": 1e-4},
    "soft_orthogonality": {"soft_orthogonality": 0.01},
}


def regularizer(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(f"regularizer/{name}", overrides=[f"regularizer.{one}" for one in overrides])
    return instantiate(cfg.regularizer)


def test_every_file_is_here():
    assert {path.stem for path in (Path(CONF) / "regularizer").glob("*.yaml")} == set(TERMS)


@pytest.mark.parametrize("name", TERMS)
def test_file_builds_a_regularizer_that_acts(name):
    built = regularizer(name)
    assert isinstance(built, Regularizer)
    assert built.weights(0.0) == TERMS[name]
    assert built.weights(0.9) == TERMS[name]
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        SVDForm.from_dense(nn.Conv2d(4, 4, 3), ChannelSVD()),
        LinearSVD().factorize(nn.Linear(6, 5), 2),
    )
    values = built.apply_(network, 0, 10)
    assert list(values) == list(TERMS[name])
    assert all(value.isfinite() for value in values.values())
    touched = {n for n, parameter in network.named_parameters() if parameter.grad is not None}
    svd = {"1.U", "1.V"}
    expected = {
        "none": set(),
        "svd_orthogonality": svd,
        "trp": {"0.weight"},
        "frobenius_decay": {*svd, "1.s", "2.0.weight", "2.1.weight"},
        "soft_orthogonality": {"0.weight", "2.0.weight", "2.1.weight"},
    }
    assert touched == expected.get(name, {*svd, "1.s"})


def test_trp_projects_the_matrices_of_its_penalty():
    built = regularizer(
        "trp", "terms.nuclear_norm.penalty.decomposition.order=pointwise_first", "projection.energy=0.8"
    )
    assert built.projection.decomposition.options() == {"order": "pointwise_first"}
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert 1 <= built.project_(network, 0).item() <= 3
    kept = torch.linalg.matrix_rank(ChannelSVD("pointwise_first").matrices(network[0])).item()
    assert kept == built.project_(network, 1).item()


def test_a_weight_and_its_schedule_are_overrides():
    built = regularizer("svd_hoyer", "terms.hoyer.weight=0.4", "terms.hoyer.schedule.end=0.5")
    assert built.weights(0.25) == {"orthogonality": 1.0, "hoyer": 0.2}
