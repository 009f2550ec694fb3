"""What a result tells of exported files. No torch here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def exported_files(exports: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of exported files; none that would lie outside the job's folder.

    >>> exported_files([{"files": ["model.xml", "../model.bin"]}, {"error": "no operator"}])
    ['model.xml']
    """
    return [name for one in exports for name in one.get("files", []) if Path(name).name == name]


def tell_exports(folder: Path, exports: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line on every exported file: where it lies, and how it compares with the network."""
    return [_tell(folder, one) for one in exports if "error" not in one]


def _tell(folder: Path, one: Mapping[str, Any]) -> str:
    opset = "" if one["opset"] is None else f" opset {one['opset']}"
    equal = one["equal_predictions"]
    alike = "all predictions equal" if equal == 1 else f"{equal:.2%} of the predictions equal"
    zeroed = f", {one['subnormals']:,} subnormal weights set to zero" if one["subnormals"] else ""
    return (
        f"{folder / one['files'][0]} ({one['format']}{opset}, {one['bytes'] / 1000:,.1f} kB): on {one['images']:,} "
        f"{one['of']} images outputs differ by {one['difference']:.1e} of the largest, {alike}{zeroed}"
    )
