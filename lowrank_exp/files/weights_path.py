"""Whether there is a file of weights at all, which is said before torch is imported."""

from pathlib import Path


def check_there(path: Path) -> None:
    """Raise FileNotFoundError where there is no such file, ValueError where it is a folder."""
    if not path.exists():
        raise FileNotFoundError(
            f"no weights at {path} (that is {path.absolute()}): set model.weights=... to a file that "
            "exists, or to null to start untrained"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a checkpoint: set model.weights=... to a file")
