"""Launchers of sweeps whose jobs are processes that a cluster starts, ends and starts again: SLURM, or this machine."""

from lowrank_exp.job.launchers.local import Local as Local
from lowrank_exp.job.launchers.slurm import Slurm as Slurm
