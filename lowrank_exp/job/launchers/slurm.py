"""Jobs of a sweep as an array of SLURM's."""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lowrank_exp.job.launchers.shared import shared_phases
from lowrank_exp.job.launchers.submitting import Sent, Submitting, log
from lowrank_exp.job.launchers.sweep_job import SweepJob, python_that_waits_for_signals

OVER = ["BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"]
FORGOTTEN = "SLURM has forgotten it"
ASKED = 5  # times, of a controller that does not answer


class Slurm(Submitting):
    """One array for the sweep; with `after_shared` another one before it, of what several of its jobs need.

    How jobs end is asked of `squeue`: `sacct` needs an accounting that many clusters do not have.

    Args:
        partition, account: None is SLURM's own choice.
        gpus, cpus_per_task, memory: of every job; GB, None is SLURM's own choice.
        minutes: after which SLURM ends a job.
        notice: seconds before that, at which SLURM asks it to end.
        timeouts: how often a job goes on that has used up its minutes.
        width: jobs of an array at a time.
        after_shared: see above.
        sbatch: further options of `sbatch`, by name.
    """

    def __init__(
        self,
        partition: str | None,
        account: str | None,
        gpus: int,
        cpus_per_task: int,
        memory: float | None,
        minutes: int,
        notice: int,
        timeouts: int,
        width: int,
        after_shared: bool,
        sbatch: Mapping[str, Any] | None,
    ) -> None:
        self.minutes, self.notice, self.timeouts, self.after_shared = minutes, notice, timeouts, after_shared
        asked = {
            "slurm_partition": partition,
            "slurm_account": account,
            "gpus_per_node": gpus or None,
            "mem_gb": memory,
            "cpus_per_task": cpus_per_task,
            "timeout_min": minutes,
            "slurm_signal_delay_s": notice,
            "slurm_array_parallelism": width,
            # Since 22.05 the processes of a job do not learn how many processors it was given.
            "slurm_srun_args": [f"--cpus-per-task={cpus_per_task}"],
            # A signal before Python holds it back would end the shell or srun, and SLURM call the job failed.
            "slurm_setup": ["trap '' TERM USR2"],
            "slurm_additional_parameters": {"requeue": True, **(sbatch or {})},
        }
        self.parameters = {name: value for name, value in asked.items() if value is not None}

    @property
    def patience(self) -> float:
        return self.notice / 2

    def send(self, waiting: list[tuple[SweepJob, str]], running: int) -> list[Sent]:
        jobs, waiting[:] = list(waiting), []
        if not jobs or not self.after_shared:
            return self.submit(jobs)
        configs = [self.context.config_loader.load_sweep_config(self.config, list(work.overrides)) for work, _ in jobs]
        shared = shared_phases(configs)
        if not shared:
            log.info("no two jobs share a phase: launcher.after_shared changes nothing")
            return self.submit(jobs)
        first = []
        for members, phase in shared:
            work, _ = jobs[members[0]]
            overrides = [*work.overrides, f"stop_after={phase}"]
            first.append((self.work(-1 - len(first), overrides), f"up to {phase}, for {len(members)} jobs"))
        behind = {number for members, _ in shared for number in members}
        sent = self.submit(first)
        after = sorted({one.handle.job_id.partition("_")[0] for one in sent})
        alone = self.submit([job for number, job in enumerate(jobs) if number not in behind])
        # After any end of theirs: where a shared phase has failed, the jobs say themselves why.
        return sent + alone + self.submit([jobs[number] for number in sorted(behind)], f"afterany:{':'.join(after)}")

    def submit(self, jobs: Sequence[tuple[SweepJob, str]], dependency: str | None = None) -> list[Sent]:
        """One array, or one job."""
        from submitit import AutoExecutor

        if not jobs:
            return []
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise ValueError(
                "launcher=slurm: sbatch or srun is not here. Run the command where jobs are submitted to SLURM, or "
                "take launcher=local"
            )
        executor = AutoExecutor(
            self.folder,
            cluster="slurm",
            slurm_max_num_timeout=self.timeouts,
            slurm_python=python_that_waits_for_signals(),
        )
        executor.update_parameters(name=str(self.config.hydra.job.name), slurm_dependency=dependency, **self.parameters)
        with executor.batch():
            handles = [executor.submit(work) for work, _ in jobs]
        number = handles[0].job_id.partition("_")[0]
        log.info(f"SLURM's job {number}: {len(jobs)} jobs; what they print is in {self.folder.parent}/{number}*")
        return [Sent(work, name, handle) for (work, name), handle in zip(jobs, handles, strict=True)]

    def look(self, sent: Sequence[Sent]) -> Mapping[str, str]:
        ids = [one.handle.job_id for one in sent]
        if (states := states_of(sorted({name.partition("_")[0] for name in ids}))) is None:
            return {}
        words = {name: states.get(name, FORGOTTEN) for name in ids}
        return {name: word for name, word in words.items() if word in (FORGOTTEN, *OVER)}

    def leave(self, sent: Sequence[Sent]) -> str:
        numbers = sorted({one.handle.job_id.partition("_")[0] for one in sent})
        return (
            f"{len(sent)} jobs go on in SLURM; scancel {' '.join(numbers)} ends them. The same command waits for what "
            "they compute, or reads it"
        )

    @staticmethod
    def still_wanted() -> bool:
        """Whether this job is one that SLURM lets run: it is none that somebody has cancelled."""
        number = os.environ.get("SLURM_JOB_ID", "")
        for _ in range(ASKED if number else 0):
            if (states := states_of([number])) is not None:
                return "RUNNING" in states.values()
            time.sleep(1)
        return False


def states_of(numbers: Sequence[str]) -> dict[str, str] | None:
    """SLURM's states of jobs, and of the jobs of arrays, by id; None: it does not answer just now."""
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(numbers)}", "--format=%i %T"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return {} if "Invalid job id" in answer.stderr else None
    return dict(line.split() for line in answer.stdout.splitlines() if line.strip())
