"""Layers replaced by others that do their work: which may be, found by a trial, and how."""

from lowrank_exp.replacing.hooks import give_hooks_
from lowrank_exp.replacing.trial import trial
from lowrank_exp.replacing.unsafe import note_, unsafe
from lowrank_exp.replacing.untried import untried

__all__ = ["give_hooks_", "note_", "trial", "unsafe", "untried"]
