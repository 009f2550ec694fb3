"""Jobs of a sweep as on a cluster, each in a process of its own, on this machine."""

from collections.abc import Mapping, Sequence

from lowrank_exp.job.launchers.submitting import Sent, Submitting
from lowrank_exp.job.launchers.sweep_job import SweepJob, python_that_waits_for_signals


class Local(Submitting):
    """submitit's local executor, so many jobs at a time.

    Args:
        n_jobs: at a time.
        gpus: that every job sees, the first ones of this machine.
        minutes: after which a job is ended.
        notice: seconds before that, at which it is asked to end.
        timeouts: how often a job goes on that has used up its minutes.
    """

    lag = 2.0  # files of this machine are seen at once, but for a process that writes its result as it is looked at

    def __init__(self, n_jobs: int, gpus: int, minutes: int, notice: int, timeouts: int) -> None:
        self.n_jobs, self.gpus, self.minutes, self.notice, self.timeouts = n_jobs, gpus, minutes, notice, timeouts

    @property
    def patience(self) -> float:
        return self.notice / 2

    def send(self, waiting: list[tuple[SweepJob, str]], running: int) -> list[Sent]:
        from submitit import LocalExecutor

        executor = LocalExecutor(self.folder, self.timeouts, python=python_that_waits_for_signals())
        executor.update_parameters(timeout_min=self.minutes, signal_delay_s=self.notice, gpus_per_node=self.gpus)
        take = [waiting.pop(0) for _ in range(min(len(waiting), self.n_jobs - running))]
        return [Sent(work, name, executor.submit(work)) for work, name in take]

    def look(self, sent: Sequence[Sent]) -> Mapping[str, str]:
        states = {one.handle.job_id: one.handle.state for one in sent}
        return {job: state.lower() for job, state in states.items() if state != "RUNNING"}

    def leave(self, sent: Sequence[Sent]) -> str:
        for one in sent:
            one.handle._process.terminate()  # which submitit hands on to the job
        return f"{len(sent)} jobs are ended with the command"
