"""Whether a folder takes files, tried before anything depends on it. No torch here."""

from pathlib import Path

from lowrank_exp.files.whole import write_whole


def unwritable(folder: Path) -> str | None:
    """Why no file can be written in a folder, which is made where it is missing; None: one can."""
    try:
        with write_whole(folder / ".try") as temporary:
            temporary.write_bytes(b"\0" * 4096)
        (folder / ".try").unlink(missing_ok=True)  # another job may try the same folder
    except OSError as error:
        return error.strerror or str(error)
    return None
