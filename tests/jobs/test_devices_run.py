"""Jobs that train on several devices, and the sweeps that may not."""

import pytest

from lowrank_exp.files.results import Result
from support.smoke import SMOKE


def test_a_sweep_with_several_devices_is_refused(command, tmp_path, capfd):
    assert command("-m", *SMOKE, "devices=2", "seed=0,1") == 1
    said = capfd.readouterr().err
    assert "devices=2 in a sweep: its jobs may run side by side" in said
    assert "Spread jobs over devices instead" in said
    assert not list((tmp_path / "outputs").glob("store/*"))


def test_devices_are_a_number(command, capfd):
    assert command(*SMOKE, "devices=0") == 1
    assert "devices=0 is refused: allowed is a whole number of at least 1" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method=rewind", "training.devices=2"], "devices is 2, and snapshots of the weights are kept in one process"),
        (["method=rewind", "devices=2"], "devices is 2, and snapshots of the weights are kept in one process only"),
        (["+method.phases.train.snapshots=[0]", "devices=2"], "set devices=1, or snapshots=[]"),
        (["finetune.distill={teacher: train}", "devices=2"], "a teacher is asked in one process only: set devices=1"),
        (["method=taylor", "finetune.devices=2"], "devices is 2, and filters shall be pruned during the fit"),
        (["devices=true"], "devices=true is refused: allowed is a whole number"),
    ],
)
def test_what_one_process_alone_can_do_is_refused_before_any_training(command, capfd, tmp_path, options, message):
    assert command(*SMOKE, *options) == 1
    assert message in " ".join(capfd.readouterr().err.split())
    assert not list((tmp_path / "outputs").glob("store/*"))


@pytest.mark.slow
def test_a_job_on_two_devices_ends_like_one(command, tmp_path):
    """Seeds follow from the phases' keys, which hold the devices: other numbers of the same kind."""
    jobs = []
    for devices in (1, 2):
        assert command(*SMOKE, f"devices={devices}", outputs=tmp_path / str(devices)) == 0
        (path,) = (tmp_path / str(devices)).glob("runs/*/result.json")
        jobs.append(Result.read(path))
    one, two = jobs
    assert one.fingerprint != two.fingerprint
    assert [phase.name for phase in two.phases] == [phase.name for phase in one.phases]
    for ours, theirs in zip(two.phases, one.phases, strict=True):
        assert ours.key != theirs.key
        assert (ours.macs, ours.weights) == (theirs.macs, theirs.weights)
        assert ours.loss == pytest.approx(theirs.loss, rel=0.3)
