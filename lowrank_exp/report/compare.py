"""Two configurations side by side: their figures, what differs in what was configured, and their layers."""

from collections.abc import Sequence

import pandas as pd

from lowrank_exp.files.results import LayerResult
from lowrank_exp.report.configuration import Configuration, leaves
from lowrank_exp.report.labels import show
from lowrank_exp.report.quantities import SHOWN
from lowrank_exp.report.render import cell
from lowrank_exp.text.plain_text import shortened

A, B, UNSET = "A", "B", "unset"
LONGEST = 60  # characters of a value


def find(rows: Sequence[Configuration], name: str) -> Configuration:
    """The configuration that has a name: its label, its row, the folder of one of its jobs, or how its hash or the
    fingerprint of one of its jobs begins.

    Raises:
        ValueError: none, or several; the message lists what there is.
    """
    ran = [row for row in rows if row.finished or row.failed]
    for is_named in (_has_label, _has_row, _has_folder, _begins):
        found = [row for row in ran if is_named(row, name)]
        if len(found) == 1:
            return found[0]
        if found:
            among = ", ".join(f"{row.label} ({row.hash[:6]})" for row in found)
            raise ValueError(f"--compare: {name!r} may be one of {len(found)}: {among}; give the beginning of a hash")
    known = ", ".join(row.label for row in ran)
    raise ValueError(f"--compare: nothing is called {name!r}; there are {shortened(known, 400)}")


def figures(frame: pd.DataFrame, places: tuple[int, int]) -> pd.DataFrame:
    """Every quantity that one of two rows of `table` has: of both, and the second minus the first, as text."""
    one, other = (frame.iloc[place] for place in places)
    lines = []
    for name, quantity in SHOWN.items():
        key = f"{name}_mean"
        if key not in frame or (pd.isna(one[key]) and pd.isna(other[key])):
            continue
        cells = [cell(row[key], row[f"{name}_std"], quantity, name) for row in (one, other)]
        by = (other[key] - one[key]) * quantity.factor
        lines.append((quantity.header, *cells, "" if pd.isna(by) else f"{by:+{quantity.form.lstrip('+')}}"))
    return pd.DataFrame(lines, columns=["figure", A, B, "B-A"])


def differing(one: Configuration, other: Configuration) -> pd.DataFrame:
    """The keys of which two configurations have other values; those that end in the words of another such key, and say
    the same, are left out."""
    flat = [{key: show(value) for key, value in leaves(row.config or {}).items()} for row in (one, other)]
    keys = [key for key in dict.fromkeys([*flat[0], *flat[1]]) if flat[0].get(key) != flat[1].get(key)]
    pairs = {key: tuple(leaf.get(key, UNSET) for leaf in flat) for key in keys}
    own = [key for key in keys if not any(key.endswith(f".{k}") and pairs[k] == pairs[key] for k in keys)]
    return pd.DataFrame(
        [(key, *(shortened(value, LONGEST) for value in pairs[key])) for key in own], columns=["key", A, B]
    )


def layers(one: Configuration, other: Configuration) -> pd.DataFrame:
    """The layers that became something else in the first finished seeds of two configurations, with what became of
    them; none where one of them has not finished."""
    both = [{layer.name: layer for layer in row.finished[0].layers} if row.finished else {} for row in (one, other)]
    lines = []
    if not all(both):
        both = [{}, {}]
    for name in dict.fromkeys([*both[0], *both[1]]):
        pair = [found.get(name) for found in both]
        told = [_became(layer) for layer in pair]
        if told[0] != told[1]:
            lines.append((name, *told))
    return pd.DataFrame(lines, columns=["layer", A, B])


def _became(layer: LayerResult | None) -> str:
    if layer is None:
        return "not in this network"
    left = "" if not layer.macs_before or layer.macs_after is None else f"{layer.macs_after / layer.macs_before:.1%}"
    rank = " x ".join(map(str, layer.rank)) if isinstance(layer.rank, list) else str(layer.rank)
    what = f"{layer.decomposition} rank {rank}" if layer.decomposition else layer.reason or "dense"
    return f"{what}, {left} of its MACs" if left else what


def _has_label(row: Configuration, name: str) -> bool:
    return name in (row.label, f"{row.experiment}/{row.label}")


def _has_row(row: Configuration, name: str) -> bool:
    return row.row is not None and name in (row.row, f"{row.experiment}/{row.row}") and not row.control


def _has_folder(row: Configuration, name: str) -> bool:
    folders = [job.folder for job in (*row.finished, *row.failed) if job.folder is not None]
    return any(folder.name == name.rstrip("/").rpartition("/")[2] for folder in folders)


def _begins(row: Configuration, name: str) -> bool:
    jobs = (*row.finished, *row.failed)
    return len(name) >= 4 and any(one.startswith(name) for one in (row.hash, *(job.fingerprint for job in jobs)))
