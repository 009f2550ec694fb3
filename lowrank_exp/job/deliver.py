"""What a finished job puts into its folder: network, plan, confusion counts, and the result that vouches for them."""

from dataclasses import replace
from pathlib import Path

from lowrank_exp.files import confusion
from lowrank_exp.files.results import RESULT, Result
from lowrank_exp.files.whole import copy_whole, digest_once
from lowrank_exp.job.finished import MODEL, PLAN
from lowrank_exp.job.outcomes import OutcomeStore
from lowrank_exp.rank import Plan


def deliver(folder: Path, result: Result, network: Path | None, plan: Plan | None, store: OutcomeStore) -> Result:
    """Write the files of a job, `result.json` last; returns the result with their digests."""
    written = []
    if network is not None:
        copy_whole(network, folder / MODEL)
        written.append(MODEL)
    if plan is not None:
        plan.write(folder / PLAN)
        written.append(PLAN)
    measured = {phase.name: phase for phase in (*result.phases, result.dense) if phase is not None and phase.key}
    for phase in measured.values():
        stored = store.confusion(phase.name, phase.key)
        if stored.is_file():  # a phase stored by an earlier version has none
            path = confusion.path_in(folder, phase.name)
            copy_whole(stored, path)
            written.append(path.relative_to(folder).as_posix())
    written += [name for one in result.exports for name in one["files"]]
    result = replace(result, files={name: digest_once(folder / name) for name in written})
    result.write(folder / RESULT)
    return result
