"""What is compared with the dense network that a job has recorded, and figures that phases have of their own."""

import math

from lowrank_exp.files.results import PhaseResult, Result
from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.quantities import measured
from lowrank_exp.report.table import notes, table

PHASES = [PhaseResult(name, accuracy, macs=40) for name, accuracy in (("prune", 0.5), ("finetune", 0.75))]


def job(config, phases=PHASES, dense=None):
    return Result("ok", "0" * 16, None, None, 0, "iterative", config, phases, dense=dense)


def test_figures_are_compared_with_the_dense_network_and_not_with_the_first_phase():
    values = measured(job({}, dense=PhaseResult("initial", 0.875, macs=80)))
    assert [values[name] for name in ("macs_dense", "macs_ratio", "accuracy_dense", "accuracy_change")] == [
        *(80, 0.5),
        *(0.875, -0.125),
    ]
    unmeasured = measured(job({}, dense=PhaseResult("initial", macs=80)))
    assert unmeasured["macs_ratio"] == 0.5
    former = measured(job({}))
    for values, names in ((unmeasured, ["accuracy"]), (former, ["accuracy", "macs"])):
        for name in names:
            assert math.isnan(values[f"{name}_dense"])
        assert math.isnan(values["accuracy_change"])
    assert math.isnan(former["macs_ratio"])


def test_what_no_row_can_be_compared_with_is_told_once():
    dense = PhaseResult("initial", macs=80, warnings=["it is drawn"])
    jobs = [job({"epochs": epochs, "seed": 0}, dense=dense) for epochs in (1, 2)] + [job({"epochs": 3, "seed": 0})]
    rows = configurations([Result(**{**vars(one), "fingerprint": f"{k:016}"}) for k, one in enumerate(jobs)])
    assert notes(rows) == [
        "the accuracy of the dense network was not measured, as it is drawn: epochs=1, epochs=2",
        "the dense network was not recorded (results of an earlier version), nothing is compared with it: epochs=3",
    ]
    frame = table(rows)
    assert frame["dense_after"].tolist() == ["initial", "initial", ""]
    assert frame["macs_ratio_mean"].round(3).tolist()[:2] == [0.5, 0.5]


def test_figures_of_a_phase_stand_under_its_name():
    phases = [*PHASES, PhaseResult("truncate", 0.7, values={"kept": 0.25, "lost": None})]
    values = measured(job({}, phases))
    assert values["values.kept.truncate"] == 0.25
    assert math.isnan(values["values.lost.truncate"])
    assert [name for name in values if name.startswith("values.")] == ["values.kept.truncate", "values.lost.truncate"]
