"""Which network of a job is the dense one, and figures that phases have of their own."""

import math

import pytest

from lowrank_exp.files.results import PhaseResult, Result
from lowrank_exp.report.quantities import dense_and_compressed, measured

PHASES = [PhaseResult(name, accuracy) for name, accuracy in (("to_svd", 0.1), ("train", 0.8), ("truncate", 0.7))]


def job(config, phases=PHASES):
    return Result("ok", "0" * 16, None, None, 0, "svd_training", config, phases)


@pytest.mark.parametrize(
    ("config", "dense"),
    [
        ({}, "to_svd"),
        ({"method": "svd_training"}, "to_svd"),
        ({"method": {"order": ["to_svd"]}}, "to_svd"),
        ({"method": {"dense": "train"}}, "train"),
        ({"method": {"dense": "warmup"}}, "to_svd"),
    ],
)
def test_the_method_names_the_dense_phase(config, dense):
    assert [phase.name for phase in dense_and_compressed(job(config))] == [dense, "truncate"]


def test_a_phase_named_dense_is_the_dense_one():
    phases = [*PHASES[:1], PhaseResult("dense", 0.9), *PHASES[1:]]
    assert dense_and_compressed(job({}, phases))[0].name == "dense"
    assert measured(job({"method": {"dense": "train"}}, phases))["accuracy_change"] == pytest.approx(-0.1)


def test_figures_of_a_phase_stand_under_its_name():
    phases = [*PHASES[:2], PhaseResult("truncate", 0.7, values={"kept": 0.25, "lost": None})]
    values = measured(job({}, phases))
    assert values["values.kept.truncate"] == 0.25
    assert math.isnan(values["values.lost.truncate"])
    assert [name for name in values if name.startswith("values.")] == ["values.kept.truncate", "values.lost.truncate"]
