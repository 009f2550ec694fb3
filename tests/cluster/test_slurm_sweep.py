"""Sweeps on a real SLURM: what they compute, and what they survive, equals a sweep without it."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lowrank_exp.files.results import Result

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

HERE = Path(__file__).parent
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
QUIET = ("logger=none", "progress=false", "latency.seconds=0", "threads=1", "losses.images=0")
SIX = (f"--config-dir={HERE / 'conf'}", "experiment=six", *QUIET)
PAUSE = 0.2  # seconds a step: a job takes a minute and a half, and no processor for most of them
SLOW = ("method=train", "training.epochs=20", "training.schedule._target_=slow.slowly", "seed=0,1,2,3", *QUIET)
LIMITS = ("launcher.minutes=30", "launcher.notice=60", "launcher.timeouts=9")


@pytest.fixture
def sweep(cluster) -> Iterator[Callable[..., subprocess.Popen]]:
    """A sweep on the cluster in a process of its own, which ends with the test and with the process of the test."""
    started = []

    def start(outputs: Path, *arguments: str, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "lowrank_exp.cli", "-m", *arguments, f"paths.outputs={outputs}"]
        place = {"env": {**os.environ, "PYTHONPATH": str(HERE), **cluster.environment, **environment}}
        place["preexec_fn"] = lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **place))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def figures(outputs: Path) -> dict[str, list]:
    """All that must be equal between two runs, by the job's fingerprint; the weights bit for bit."""
    found = {}
    for path in sorted(outputs.glob("*/*/result.json")):
        if (result := Result.read(path)).status != "ok":
            continue
        phases = [(p.name, p.key, p.accuracy, p.val_accuracy, p.loss, p.macs, p.weights) for p in result.phases]
        state = torch.load(path.with_name("model.pt"), weights_only=True)["state_dict"]
        found[path.parent.name] = [phases, {name: tensor.tolist() for name, tensor in state.items()}]
    return found


def test_an_array_over_both_nodes_equals_a_local_sweep_and_a_failing_row_ends_no_other(
    cluster, sweep, command, tmp_path, monkeypatch
):
    outputs, alone = tmp_path / "outputs", tmp_path / "alone"
    launcher = ("launcher=slurm", "launcher.after_shared=true", "launcher.minutes=10")
    process = sweep(outputs, *SIX, *launcher)
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 1, said
    assert "4 of 6 jobs ended well" in said
    lines = re.findall(r"#(-?\d) (.*): (ended well|test [\d.]+ %|this schedule is broken)", said)
    assert {(number, "broken" in name, end != "this schedule is broken") for number, name, end in lines} == {
        ("-1", False, True),  # the dense networks, of either seed
        ("-2", False, True),
        *((str(number), number > 3, number < 4) for number in range(6)),
    }
    failed = [Result.read(path) for path in outputs.glob("*/*/result.json")]
    failed = [result for result in failed if result.status == "failed"]
    assert sorted((result.row, result.seed) for result in failed) == [("broken", 0), ("broken", 1)]
    assert all("Traceback" in result.error and "this schedule is broken" in result.error for result in failed)
    (shared, two), (rows, six) = re.findall(r"SLURM's job (\d+): (\d) jobs", said)
    assert (two, six, int(rows) > int(shared)) == ("2", "6", True)
    nodes = cluster.call("squeue", "--array", "--noheader", "--states=all", f"--jobs={rows}", "--format=%N").split()
    assert sorted(set(nodes)) == ["n1", "n2"]
    assert len(nodes) == 6
    assert len(list((outputs / "store").glob("train-*/outcome.json"))) == 2

    monkeypatch.syspath_prepend(HERE)
    assert command("-m", *SIX, "hydra.sweeper.params.row='six/small,six/large'", outputs=alone) == 0
    assert len(figures(alone)) == 4
    assert figures(outputs) == figures(alone)


class Watched:
    """A sweep of four slow jobs, and what befalls them."""

    def __init__(self, cluster, sweep: Callable[..., subprocess.Popen], outputs: Path) -> None:
        self.cluster, self.outputs = cluster, outputs
        self.process = sweep(outputs, *SLOW, "launcher=slurm", *LIMITS, PAUSE=str(PAUSE))
        self.until(lambda: len(self.checkpoints()) == 4)

    def checkpoints(self, after: float = 0.0) -> list[Path]:
        """Those that have been written after a time."""
        found = self.outputs.glob("store/train-*/last.ckpt")
        return [path for path in found if path.exists() and path.stat().st_mtime > after]

    def states(self) -> dict[str, str]:
        """State and node of the jobs that have not ended, by id."""
        lines = self.cluster.call("squeue", "--array", "--noheader", "--name=lowrank-exp", "--format=%i %T %N")
        return {job: " ".join(state) for job, *state in map(str.split, lines.splitlines())}

    def until(self, holds: Callable[[], object]) -> None:
        """Wait; jobs that are queued again need not wait as long as SLURM would have them."""
        deadline = time.monotonic() + 400
        while True:
            over = self.process.poll() is not None
            if holds():
                return
            assert not over, self.process.communicate()
            assert time.monotonic() < deadline, self.states()
            for job in (job for job, state in self.states().items() if state == "PENDING"):
                self.cluster.call("scontrol", "update", f"jobid={job}", "starttime=now", "timelimit=30", missing=True)
            time.sleep(0.5)

    def log(self, job: str) -> str:
        """All that a job has printed in all of its lives."""
        paths = sorted((self.outputs / "launched" / job).glob("*log*"))
        return "".join(path.read_text(errors="replace") for path in paths)

    def lives(self, job: str) -> int:
        return self.log(job).count("Starting with JobEnvironment")


@pytest.mark.timeout(1500)  # it waits for SLURM, on a machine that is busy with other tests
def test_jobs_signalled_out_of_time_requeued_lost_with_their_node_or_preempted_end_with_the_same_bits(
    cluster, sweep, command, tmp_path, monkeypatch
):
    watched = Watched(cluster, sweep, tmp_path / "outputs")
    states = watched.states()
    on = {node: [job for job, state in states.items() if state == f"RUNNING {node}"] for node in ("n1", "n2")}
    assert [len(jobs) for jobs in on.values()] == [2, 2]
    (signalled, late), (requeued, lost) = on.values()
    cluster.call("scancel", "--signal=USR2", signalled)
    minutes = int(cluster.call("squeue", "--noheader", f"--jobs={late}", "--format=%M").rpartition(":")[0])
    cluster.call("scontrol", "update", f"jobid={late}", f"timelimit={minutes + 2}")
    cluster.call("scontrol", "requeue", requeued)
    watched.until(lambda: not watched.states()[requeued].startswith("RUNNING"))
    cluster.power("kill", "n2")
    ended = "interrupted by SIGUSR2 in train, epoch"
    watched.until(lambda: watched.lives(signalled) > 1 and all(ended in watched.log(job) for job in (signalled, late)))
    assert all("interrupted by SIGUSR2" not in watched.log(job) for job in (requeued, lost))

    began = time.time()
    watched.until(lambda: watched.checkpoints(after=began))
    options = ("--parsable", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 1")
    urgent = cluster.call("sbatch", *options).strip()  # takes the processors of all that runs on n1
    # ... whose jobs queue themselves again.
    preempted = re.compile(r"interrupted by SIGTERM(.*\n){1,4}.*Caught signal SIGUSR2")
    watched.until(lambda: any(preempted.search(watched.log(job)) for job in states))
    watched.until(
        lambda: cluster.call("squeue", "--noheader", "--states=all", f"--jobs={urgent}", "--format=%T") == "COMPLETED\n"
    )

    watched.until(lambda: watched.process.poll() is not None)
    said, _ = watched.process.communicate()
    cluster.power("start", "n2")
    assert watched.process.returncode == 0, said
    assert "4 of 4 jobs ended well" in said
    assert all(watched.lives(job) > 1 for job in states)
    monkeypatch.syspath_prepend(HERE)
    assert command("-m", *SLOW, outputs=tmp_path / "alone") == 0
    assert len(figures(tmp_path / "alone")) == 4
    assert figures(watched.outputs) == figures(tmp_path / "alone")
