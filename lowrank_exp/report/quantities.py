"""The numbers of one job: what was measured after its phases, compared with its dense network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lowrank_exp.results import PhaseResult, Result

NAN = math.nan


@dataclass(frozen=True)
class Quantity:
    """How a quantity is shown: column header, factor from files to tables, and format of the number."""

    header: str
    factor: float = 1.0
    form: str = ".3f"
    unit: str = ""


SHOWN = {
    "accuracy_dense": Quantity("dense %", 100, ".2f", "%"),
    "accuracy": Quantity("accuracy %", 100, ".2f", "%"),
    "accuracy_change": Quantity("change", 100, "+.2f", "points"),
    "top5": Quantity("top-5 %", 100, ".2f", "%"),
    "macs": Quantity("MACs M", 1e-6, ".2f", "million"),
    "macs_ratio": Quantity("MACs ratio", 1, ".3f"),
    "weights": Quantity("weights k", 1e-3, ".1f", "thousand"),
    "weights_ratio": Quantity("weights ratio", 1, ".3f"),
    "parameters": Quantity("parameters k", 1e-3, ".1f", "thousand"),
    "bytes": Quantity("file kB", 1e-3, ".1f", "kB"),
    "latency_ms": Quantity("latency ms", 1, ".3f", "ms"),
    "seconds": Quantity("seconds", 1, ".0f", "s"),
}

# Every quantity that a table of a paper may be compared with, in the units of files.
COSTS = ("macs", "weights", "parameters", "bytes", "latency_ms")
COMPARABLE = (
    *("accuracy", "accuracy_dense", "accuracy_change", "top5", "top5_dense", "top5_change"),
    *("error", "error_dense", "top5_error", "top5_error_dense", "val_accuracy", "seconds"),
    *(f"{cost}{ending}" for cost in COSTS for ending in ("", "_dense", "_ratio", "_reduction", "_speedup")),
)


def measured(result: Result, phase: str | None = None) -> dict[str, float]:
    """All quantities of one finished job; NaN where something was not measured.

    The dense network is the phase named `dense`, or the first one; the compressed network is the phase named
    `phase`, or the last one. `_change` is compressed minus dense, `_ratio` compressed / dense, `_reduction`
    1 - ratio, `_speedup` 1 / ratio; `seconds` is the sum over all phases. Besides, `accuracy.NAME` for every
    phase.

    >>> dense = PhaseResult("train", accuracy=0.75, macs=100)
    >>> small = PhaseResult("finetune", accuracy=0.5, macs=25)
    >>> job = Result("ok", "0" * 16, None, None, 0, "decompose", {}, [dense, small])
    >>> [measured(job)[name] for name in ("accuracy_change", "macs_ratio", "macs_speedup")]
    [-0.25, 0.25, 4.0]
    """
    after = {item.name: item for item in result.phases}
    nothing = PhaseResult("")
    first = after.get("dense", result.phases[0] if result.phases else nothing)
    phases = list(after.values()) if phase is None else [item for item in result.phases if item.name == phase]
    last = phases[-1] if phases else nothing
    values = {"val_accuracy": _number(last.val_accuracy)}
    for name in ("accuracy", "top5"):
        dense, now = _number(getattr(first, name)), _number(getattr(last, name))
        values |= {name: now, f"{name}_dense": dense, f"{name}_change": now - dense}
    values |= {"error": 1 - values["accuracy"], "error_dense": 1 - values["accuracy_dense"]}
    values |= {"top5_error": 1 - values["top5"], "top5_error_dense": 1 - values["top5_dense"]}
    for cost in COSTS:
        dense, now = _number(getattr(first, cost)), _number(getattr(last, cost))
        ratio = now / dense if dense else NAN
        values |= {cost: now, f"{cost}_dense": dense, f"{cost}_ratio": ratio}
        values |= {f"{cost}_reduction": 1 - ratio, f"{cost}_speedup": 1 / ratio if ratio else NAN}
    values["seconds"] = sum((_number(item.seconds) for item in result.phases), 0.0) if result.phases else NAN
    return values | {f"accuracy.{name}": _number(item.accuracy) for name, item in after.items()}


def derived(values: Mapping[str, float]) -> dict[str, float]:
    """What follows from the quantities that a paper prints: ratios from reductions, accuracy from its change.

    >>> derived({"macs_reduction": 0.75, "accuracy_dense": 0.75, "accuracy_change": -0.25})["macs_ratio"]
    0.25
    """
    known = dict(values)
    for name in ("", "_dense"):
        if f"error{name}" in known:
            known.setdefault(f"accuracy{name}", 1 - known[f"error{name}"])
    if {"accuracy_dense", "accuracy_change"} <= known.keys():
        known.setdefault("accuracy", known["accuracy_dense"] + known["accuracy_change"])
    for cost in COSTS:
        if known.get(f"{cost}_speedup"):
            known.setdefault(f"{cost}_ratio", 1 / known[f"{cost}_speedup"])
        if f"{cost}_reduction" in known:
            known.setdefault(f"{cost}_ratio", 1 - known[f"{cost}_reduction"])
        if cost in known and known.get(f"{cost}_dense"):
            known.setdefault(f"{cost}_ratio", known[cost] / known[f"{cost}_dense"])
    return known


def _number(value: float | None) -> float:
    return NAN if value is None else float(value)
