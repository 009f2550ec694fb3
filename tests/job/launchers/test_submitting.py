"""What becomes of jobs that were sent: results, errors, and those of which nothing is heard any more."""

import logging
import pickle
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import InstantiationException

from lowrank_exp.job.launchers import sweep_job
from lowrank_exp.job.launchers.submitting import Sent, Submitting, told
from lowrank_exp.job.launchers.sweep_job import JobNotEndedError, SweepJob, sendable
from lowrank_exp.job.signals import Interrupted


class Fake(Submitting):
    """Sends nothing: its jobs are handles whose files a test writes."""

    patience = 1.0
    lag = 0.0

    def __init__(self, handles, gone):
        self.handles, self.gone = handles, gone

    def send(self, waiting, running):
        sent = [Sent(work, name, self.handles[work.number]) for work, name in waiting]
        waiting.clear()
        return sent

    def look(self, sent):
        return self.gone

    def leave(self, sent):
        return f"{len(sent)} go on"


def handle(folder, name: str, outcome: tuple | None = None, printed: str = ""):
    paths = SimpleNamespace(result_pickle=folder / f"{name}.pkl", stderr=folder / f"{name}.err")
    if outcome is not None:
        paths.result_pickle.write_bytes(pickle.dumps(outcome))
    paths.stderr.write_text(printed)
    return SimpleNamespace(job_id=name, paths=paths)


def test_every_job_has_an_end_and_a_lost_one_ends_no_other(tmp_path, caplog):
    well = JobReturn(status=JobStatus.COMPLETED, _return_value=0.5)
    refused = JobReturn(status=JobStatus.FAILED, _return_value=ValueError("rank.macs=0.01 cannot be reached"))
    handles = [
        handle(tmp_path, "a", ("success", well)),
        handle(tmp_path, "b", ("success", refused)),
        handle(tmp_path, "c", ("error", "Traceback ...\nModuleNotFoundError: no module\n")),
        handle(tmp_path, "d", printed="one\ntwo\nKilled\n"),
    ]
    works = [(SimpleNamespace(number=number), name) for number, name in enumerate("abcd")]
    with caplog.at_level(logging.INFO):
        ended = Fake(handles, {"d": "OUT_OF_MEMORY"}).wait(works)
    assert [told(ended[number]) for number in range(3)] == [
        "ended well",
        "rank.macs=0.01 cannot be reached",
        f"ModuleNotFoundError: no module (all of it in {tmp_path / 'c.err'})",
    ]
    assert ended[0].return_value == 0.5
    assert isinstance(ended[3]._return_value, JobNotEndedError)
    assert "it is gone (OUT_OF_MEMORY) and has left no result; the same command runs it again" in told(ended[3])
    assert told(ended[3]).endswith("\n    one\n    two\n    Killed")
    assert "#0 a: ended well" in caplog.messages


def test_a_job_that_is_queued_again_is_not_lost(tmp_path):
    sent = Sent(SimpleNamespace(number=0), "", handle(tmp_path, "a"))
    launcher = Fake([], {"a": "NODE_FAIL"})
    launcher.note_gone([sent])
    since, word = sent.gone
    launcher.note_gone([sent])
    assert (sent.gone, word) == ((since, "NODE_FAIL"), "NODE_FAIL")
    launcher.gone = {}
    launcher.note_gone([sent])
    assert sent.gone is None
    assert launcher.read_end(sent) is None


def test_a_command_that_is_ended_says_what_becomes_of_its_jobs(tmp_path, monkeypatch, caplog):
    launcher = Fake([handle(tmp_path, "a")], {})
    monkeypatch.setattr(launcher, "read_end", lambda sent: (_ for _ in ()).throw(Interrupted(signal.SIGTERM)))
    with caplog.at_level(logging.INFO), pytest.raises(Interrupted):
        launcher.wait([(SimpleNamespace(number=0), "a")])
    assert "1 go on" in caplog.messages


class OneWayError(Exception):
    """Can be pickled, and not be read again."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def test_errors_that_cannot_be_sent_are_told_in_words():
    kept = sendable(JobReturn(status=JobStatus.FAILED, _return_value=InstantiationException("no such class")))
    assert type(kept._return_value) is InstantiationException
    told_ = sendable(JobReturn(status=JobStatus.FAILED, _return_value=OneWayError(1, 2)))
    assert (type(told_._return_value), str(told_._return_value)) == (JobNotEndedError, "OneWayError: 1 and 2")


@pytest.mark.parametrize(
    ("number", "wanted", "queued"),
    [(signal.SIGUSR2, False, True), (signal.SIGTERM, True, True), (signal.SIGTERM, False, False)],
)
def test_who_is_asked_to_end_is_queued_again_unless_nobody_wants_the_job(monkeypatch, capsys, number, wanted, queued):
    asked = []
    before = signal.getsignal(signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, lambda number, frame: asked.append(number))
    monkeypatch.setattr(sweep_job, "end_with_the_parent", lambda: None)
    monkeypatch.setattr(SweepJob, "run", lambda self: (_ for _ in ()).throw(Interrupted(number)))
    try:
        with pytest.raises(SystemExit, match="the same command goes on from there"):
            SweepJob(0, [], None, None, None, 60.0, lambda: wanted, {})()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert asked == [signal.SIGUSR2] * queued
    assert f"interrupted by {number.name}" in capsys.readouterr().out


def test_programs_that_queue_a_job_again_are_not_ended_by_the_signals_that_all_its_processes_get(monkeypatch):
    ended = []

    def call_scontrol(*_):
        asked = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGUSR2)"
        ended.append(subprocess.run([sys.executable, "-c", asked]).returncode)
        return True

    before = signal.signal(signal.SIGUSR2, call_scontrol)
    monkeypatch.setattr(sweep_job, "end_with_the_parent", lambda: None)
    monkeypatch.setattr(SweepJob, "run", lambda self: (_ for _ in ()).throw(Interrupted(signal.SIGTERM)))
    try:
        with pytest.raises(SystemExit, match="interrupted by SIGTERM"):
            SweepJob(0, [], None, None, None, 60.0, still_wanted=call_scontrol, singletons={})()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert ended == [0, 0]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM, signal.SIGUSR2}


def test_a_job_that_has_used_its_minutes_up_too_often_has_ended(monkeypatch):
    from submitit.core.utils import UncompletedJobError

    def refuse(number, frame):
        raise UncompletedJobError("Job not requeued because: timed-out too many times.")

    before = signal.signal(signal.SIGUSR2, refuse)
    monkeypatch.setattr(sweep_job, "end_with_the_parent", lambda: None)
    monkeypatch.setattr(SweepJob, "run", lambda self: (_ for _ in ()).throw(Interrupted(signal.SIGUSR2)))
    try:
        end = SweepJob(0, [], None, None, None, 60.0, lambda: False, {})()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert told(end).endswith("goes on from there (Job not requeued because: timed-out too many times.)")
