"""A plan as a table in plain text: a row per layer, totals, and why layers were left alone."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

GAP = "  "
COLUMNS = ("layer", "decomposition", "rank", "MACs", "of MACs", "weights", "of weights")
FIRST_LEFT_OUT = ("of weights", "weights", "decomposition", "of MACs")  # where the width does not take all columns
UNITS = ("MACs", "weights", "bytes")
LEAST_NAME = 16
COUNTED = tuple((what, when) for what in ("macs", "weights") for when in ("before", "after"))


class Planned(Protocol):
    """What is read of a `rank.Plan`, which is above this file."""

    @property
    def layers(self) -> Mapping[str, Any]: ...

    @property
    def policy(self) -> str: ...

    def remaining(self, what: str) -> float: ...


def plan_in_words(plan: Planned) -> str:
    """The policy, how many layers it decomposes, and what remains, in one line."""
    decomposed = sum(layer.rank is not None for layer in plan.layers.values())
    known = [unit for unit in UNITS if any(getattr(layer, f"{unit.lower()}_before") for layer in plan.layers.values())]
    remain = ", ".join(f"{plan.remaining(unit.lower()):.2%} of the {unit}" for unit in known)
    return f"{plan.policy}: {decomposed} of {len(plan.layers)} layers decomposed{f', {remain} remain' if known else ''}"


def plan_table(plan: Planned, width: int) -> str:
    """The table in lines of at most `width` characters; names are broken after their dots, where they must be."""
    rows = [dict(zip(COLUMNS, _cells(name, layer), strict=True)) for name, layer in plan.layers.items()]
    sums = [sum(getattr(layer, f"{what}_{when}") for layer in plan.layers.values()) for what, when in COUNTED]
    rows.append(dict(zip(COLUMNS, ("all", "", "", *_counts(*sums)), strict=True)))
    columns = list(COLUMNS)
    sizes = {column: max(len(column), *(len(row[column]) for row in rows)) for column in COLUMNS}
    for column in FIRST_LEFT_OUT:
        others = sum(sizes[one] + len(GAP) for one in columns[1:])
        if others + min(sizes["layer"], LEAST_NAME) > width:
            columns.remove(column)
    others = sum(sizes[one] + len(GAP) for one in columns[1:])
    sizes["layer"] = min(sizes["layer"], max(width - others, 8))
    rule = "-" * (sizes["layer"] + others)
    *layers, total = [_row(row, columns, sizes) for row in ({column: column for column in columns}, *rows)]
    head, *layers = layers
    lines = [*head, rule, *(line for row in layers for line in row), rule, *total]
    for reason, names in _left_alone(plan).items():
        lines += _wrapped(f"{reason}: {', '.join(names)}", width)
    return "\n".join([*_wrapped(plan_in_words(plan), width), "", *lines])


def _cells(name: str, layer: Any) -> tuple[str, ...]:
    rank = "dense" if layer.rank is None else str(layer.rank)
    counts = _counts(*(getattr(layer, f"{what}_{when}") for what, when in COUNTED))
    return name, layer.decomposition or "-", rank, *counts


def _counts(macs_before: int, macs_after: int, weights_before: int, weights_after: int) -> tuple[str, ...]:
    return (
        *(f"{macs_after:,}", _share(macs_after, macs_before)),
        *(f"{weights_after:,}", _share(weights_after, weights_before)),
    )


def _share(after: int, before: int) -> str:
    return f"{after / before:.1%}" if before else "-"


def _row(row: dict[str, str], columns: Sequence[str], sizes: dict[str, int]) -> list[str]:
    """The lines of one row: the cells stand beside the last part of its name."""
    *first, last = _pieces(row["layer"], sizes["layer"])
    others = (
        row[one].ljust(sizes[one]) if one == "decomposition" else row[one].rjust(sizes[one]) for one in columns[1:]
    )
    return [*first, GAP.join([last.ljust(sizes["layer"]), *others]).rstrip()]


def _pieces(name: str, width: int) -> list[str]:
    """A name in pieces of at most `width`, each ending with a dot; a longer word stays whole."""
    pieces = [""]
    *words, last = name.split(".")
    for word in (*(f"{word}." for word in words), last):
        if pieces[-1] and len(pieces[-1]) + len(word) > width:
            pieces.append("")
        pieces[-1] += word
    return pieces


def _left_alone(plan: Planned) -> dict[str, list[str]]:
    """The layers that stay dense, by the reason."""
    alone: dict[str, list[str]] = {}
    for name, layer in plan.layers.items():
        if layer.rank is None:
            alone.setdefault(f"dense, {layer.reason}" if layer.reason else "dense", []).append(name)
    return alone


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=GAP, break_long_words=False, break_on_hyphens=False)
