"""A plan as a table in plain text: a row per layer, totals, and why layers were left alone."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from lowrank_exp.files.layer_words import LOST
from lowrank_exp.text.columns import names_by_reason, table_lines, wrapped_words

# Where the width does not take all columns, the first first.
FIRST_LEFT_OUT = ("of weights", "of bytes", "weight err %", "weights", "bytes", "ms", "decomposition", "of MACs")
UNITS = ("MACs", "weights", "bytes")


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
    known = [unit for unit in UNITS if _sum(plan, f"{unit.lower()}_before")]
    remain = ", ".join(f"{plan.remaining(unit.lower()):.2%} of the {unit}" for unit in known)
    return f"{plan.policy}: {decomposed} of {len(plan.layers)} layers decomposed{f', {remain} remain' if known else ''}"


def plan_table(plan: Planned, width: int) -> str:
    """The table in lines of at most `width` characters; names are broken after their dots, where they must be.

    Times and what layers lost are there where they are known, bytes where they shrink otherwise than weights.
    """
    counted = ["macs", "weights", *(["bytes"] if _has_own_bytes(plan) else [])]
    lost = [name for name in LOST if any(getattr(layer, name) is not None for layer in plan.layers.values())]
    timed = any(layer.latency_after is not None for layer in plan.layers.values())

    def cells(of: Callable[[str], Any]) -> dict[str, str]:
        shown = {}
        for what in counted:
            unit = {"macs": "MACs"}.get(what, what)
            shown |= {unit: f"{of(f'{what}_after'):,}", f"of {unit}": _share(of(f"{what}_after"), of(f"{what}_before"))}
        return shown | ({"ms": _milliseconds(of("latency_after"))} if timed else {})

    rows = []
    for name, layer in plan.layers.items():
        rank = "dense" if layer.rank is None else str(layer.rank)
        row = {"layer": name, "decomposition": layer.decomposition or "-", "rank": rank}
        row |= cells(lambda what, layer=layer: getattr(layer, what))
        rows.append(row | {LOST[one]: _percent(getattr(layer, one)) for one in lost})
    total = {"layer": "all", "decomposition": "", "rank": ""} | cells(lambda what: _sum(plan, what))
    total |= dict.fromkeys((LOST[one] for one in lost), "")
    table, _ = table_lines(rows, width, total=total, left=("decomposition",), spare=FIRST_LEFT_OUT)
    return "\n".join([*wrapped_words(plan_in_words(plan), width), "", *table, *names_by_reason(_reasons(plan), width)])


def _reasons(plan: Planned) -> dict[str, str]:
    """Why layers are dense; and of the decomposed ones why they have their ranks, where they differ in that."""
    alone = {
        name: f"dense, {layer.reason}" if layer.reason else "dense"
        for name, layer in plan.layers.items()
        if layer.rank is None
    }
    chosen = {name: layer.reason for name, layer in plan.layers.items() if layer.rank is not None}
    return alone | (chosen if len(set(chosen.values())) > 1 else {})


def _sum(plan: Planned, what: str) -> int:
    return sum(getattr(layer, what) or 0 for layer in plan.layers.values())


def _has_own_bytes(plan: Planned) -> bool:
    """Whether bytes shrink otherwise than weights, as those of codebooks do."""
    shares = [_share(_sum(plan, f"{what}_after"), _sum(plan, f"{what}_before")) for what in ("weights", "bytes")]
    return _sum(plan, "bytes_before") > 0 and shares[0] != shares[1]


def _share(after: int, before: int) -> str:
    return f"{after / before:.1%}" if before else "-"


def _milliseconds(nanoseconds: int | None) -> str:
    return "-" if nanoseconds is None else f"{nanoseconds / 1e6:.3f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}".removesuffix("%")
