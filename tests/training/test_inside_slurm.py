"""A fit where SLURM is: in a job of it, or on a machine that has its commands."""

import signal

import torch
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.training import Recipe, fit_


def test_a_fit_is_one_process_and_leaves_requeueing_to_the_job(monkeypatch, tmp_path):
    (tmp_path / "srun").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    numbers = signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    images = TensorDataset(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    inside = []

    def look(metrics):
        inside.append([signal.getsignal(number) for number in numbers])

    for job in ({}, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "sweep"}):
        for name, value in job.items():
            monkeypatch.setenv(name, value)
        recipe = Recipe(epochs=1, optimizer=torch.optim.SGD)
        fit_(torch.nn.Linear(3, 2), DataLoader(images), None, recipe, seed=0, device="cpu", on_epoch=look)
    assert inside == [before, before]
