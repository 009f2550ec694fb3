"""A result in tables for a terminal: its phases, its layers, and what runtimes make of both networks. No torch here."""

from collections.abc import Mapping, Sequence
from typing import Any

from lowrank_exp.files.layer_words import LOST, LOST_EXPLAINED
from lowrank_exp.files.results import PhaseResult, Result
from lowrank_exp.text.columns import names_by_reason, table_lines, wrapped_words

BUDGETS = {"macs": "macs", "weights": "weights", "bytes": "bytes", "latency": "latency_ms", "latency_ms": "latency_ms"}
COUNTS = {"macs": "MACs", "weights": "weights", "bytes": "bytes"}  # as budgets, layers and what remains are told
REASON = "reason"
FROM_STORE = "from the store"  # of a phase that another run has computed
# What finds no room, the first first.
SPARE_OF_PHASES = ("parameters", "val %", "weights", "seconds", "kB")
SPARE_OF_LAYERS = (
    *(REASON, LOST["weight_error"], "MACs before", "weights before", "bytes before", "decomposition"),
    *(LOST["accuracy_alone"], "MACs after", LOST["response_error"]),
)


def budgets_of(config: Mapping[str, Any]) -> list[str]:
    """What a job's budgets are of: `macs`, `weights`, `bytes`, `latency_ms`.

    >>> budgets_of({"rank": {"macs": None, "bytes": 0.5}, "pruning": {"macs": 0.4}})
    ['macs', 'bytes']
    """
    groups = [of for name in ("rank", "pruning") if isinstance(of := config.get(name), Mapping)]
    found = {BUDGETS[key] for of in groups for key in BUDGETS if of.get(key) is not None}
    return [cost for cost in dict.fromkeys(BUDGETS.values()) if cost in found]


def phase_table(result: Result, width: int) -> list[str]:
    """The phases, the dense network first; how much faster they are, where both were timed alike."""
    named = {phase.name for phase in result.phases}
    dense = result.dense
    phases = [*([dense] if dense is not None and dense.name not in named else []), *result.phases]
    speedups = [_speed_up(dense, phase) for phase in phases]
    rows = []
    for phase, faster in zip(phases, speedups, strict=True):
        row = {
            "phase": phase.name,
            "test %": format_number(phase.accuracy, 100, "{:.2f}"),
            "val %": format_number(phase.val_accuracy, 100, "{:.2f}"),
            "MACs": format_number(phase.macs, 1, "{:,}"),
            "weights": format_number(phase.weights, 1, "{:,}"),
            "parameters": format_number(phase.parameters, 1, "{:,}"),
            "kB": format_number(phase.bytes, 0.001, "{:,.1f}"),
            "ms": format_number(phase.latency_ms, 1, "{:.3f}"),
            "speed-up": format_number(faster, 1, "{:.2f} x"),
            "seconds": FROM_STORE if phase.stored else format_number(phase.seconds, 1, "{:.1f}"),
        }
        if any(one is not None for one in speedups[1:]):
            rows.append(row)
        else:
            rows.append({name: cell for name, cell in row.items() if name != "speed-up"})
    lines, left_out = table_lines(rows, width, spare=SPARE_OF_PHASES)
    return [*lines, *_tell_left_out(left_out, width)]


def layer_table(result: Result, width: int) -> list[str]:
    """The layers, counted as the budgets count them; reasons below where they find no room beside."""
    lost = [name for name in LOST if any(getattr(layer, name) is not None for layer in result.layers)]
    budgets = budgets_of(result.config)
    counted = [cost for cost in COUNTS if cost in budgets and _is_known(result, cost)] or ["macs"]
    rows = []
    for layer in result.layers:
        rank = "dense" if layer.rank is None else str(layer.rank)
        row = {"layer": layer.name, "decomposition": layer.decomposition or "-", "rank": rank}
        for cost in counted:
            for when in ("before", "after"):
                row[f"{COUNTS[cost]} {when}"] = format_number(getattr(layer, f"{cost}_{when}"), 1, "{:,}")
        row |= {LOST[name]: format_number(getattr(layer, name), 100, "{:.2f}") for name in lost}
        rows.append(row | {REASON: layer.reason})
    lines, left_out = table_lines(rows, width, left=("decomposition",), words=(REASON,), spare=SPARE_OF_LAYERS)
    if REASON in left_out:
        reasons = {layer.name: layer.reason for layer in result.layers if layer.reason}
        lines += ["", *names_by_reason(reasons, width)]
        left_out.remove(REASON)
    return [*lines, *_tell_left_out(left_out, width), *(wrapped_words(LOST_EXPLAINED, width) if lost else [])]


def speed_table(speeds: Sequence[tuple[str, float, float]], width: int) -> list[str]:
    """What the dense and the small network take in every runtime, the fastest small one first."""
    rows = [
        {"runtime": name, "dense ms": f"{dense:.4g}", "small ms": f"{small:.4g}", "as fast": f"{dense / small:.2f} x"}
        for name, dense, small in sorted(speeds, key=lambda row: row[2])
    ]
    return table_lines(rows, width).lines


def format_number(value: float | None, factor: float, form: str) -> str:
    """A number in a table's cell; `-` where it was not measured."""
    return "-" if value is None else form.format(value * factor if factor != 1 else value)


def _speed_up(dense: PhaseResult | None, phase: PhaseResult) -> float | None:
    """How many times as fast as the dense network a phase has left it; None: they were not timed alike."""
    if dense is None or not dense.latency_ms or not phase.latency_ms or dense.runtime != phase.runtime:
        return None
    sizes = [one.latency[0].get("batch_size") if one.latency else None for one in (dense, phase)]
    return dense.latency_ms / phase.latency_ms if sizes[0] == sizes[1] else None


def _is_known(result: Result, cost: str) -> bool:
    return any(getattr(layer, f"{cost}_after") is not None for layer in result.layers)


def _tell_left_out(columns: Sequence[str], width: int) -> list[str]:
    return wrapped_words(f"no room here, but in result.json: {', '.join(columns)}", width) if columns else []
