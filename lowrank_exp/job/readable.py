"""Whether files can be read whose digests an earlier version did not keep."""

from pathlib import Path

from lowrank_exp import artifact
from lowrank_exp.files import confusion
from lowrank_exp.files.whole import check_sums
from lowrank_exp.rank import Plan


def find_unreadable(folder: Path, network: str) -> str | None:
    """What is wrong with the files of a folder; None: they can be read.

    Args:
        folder: of a phase or of a job.
        network: the name of the network's file, which must be there; the plan and the confusion counts may lack.
    """
    readers = {network: _read_network, "plan.yaml": Plan.read, "confusion.csv": confusion.read}
    for name, read in readers.items():
        try:
            if name == network or (folder / name).is_file():
                read(folder / name)
        except Exception as error:  # what a damaged file makes its reader raise
            return f"{name} cannot be read ({type(error).__name__}: {str(error)[:200]})"
    return None


def _read_network(path: Path) -> None:
    check_sums(path)
    artifact.read(path)
