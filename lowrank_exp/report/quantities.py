"""The numbers of one job: what was measured after its phases, compared with its dense network."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lowrank_exp.files.results import LayerResult, PhaseResult, Result

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
    "latency_ms_speedup": Quantity("speed-up", 1, ".2f", "times"),
    "seconds": Quantity("seconds", 1, ".0f", "s"),
}

# Every quantity that a table of a paper may be compared with, in the units of files.
COSTS = ("macs", "weights", "parameters", "bytes", "latency_ms")
ENDINGS = ("", "_dense", "_ratio", "_reduction", "_speedup")
COMPARABLE = (
    *("accuracy", "accuracy_dense", "accuracy_change", "top5", "top5_dense", "top5_change"),
    *("error", "error_dense", "top5_error", "top5_error_dense", "val_accuracy", "seconds"),
    *(f"{cost}{ending}" for cost in COSTS for ending in ENDINGS),
)
VALUES = "values"  # figures of a phase's own: values.NAME.PHASE
AFTER = ("accuracy", "top5", "seconds")  # also after every phase, as NAME.PHASE; seconds are those of the phase alone
OF_LAYERS = tuple(f"{cost}{ending}" for cost in ("macs", "weights") for ending in ENDINGS)


def comparable(quantity: object) -> bool:
    """Whether a table of a paper may be compared with a quantity of this name.

    >>> [comparable(name) for name in ("macs_ratio", "accuracy.factorize", "values.own.prune", "macs.factorize")]
    [True, True, True, False]
    """
    of_phase = isinstance(quantity, str) and re.fullmatch(rf"({'|'.join(AFTER)}|{VALUES}\.\w+)\.\w+", quantity)
    return quantity in COMPARABLE or bool(of_phase)


def over(quantity: str, layers: str | None) -> str:
    """The name of a quantity that counts the layers of one name or `re:` pattern only.

    >>> over("macs_ratio", "re:conv.*"), over("macs_ratio", None)
    ('macs_ratio over re:conv.*', 'macs_ratio')
    """
    return quantity if layers is None else f"{quantity} over {layers}"


def naming(layers: str) -> Callable[[str], object]:
    """Whether a layer's name is meant by a name, or by a `re:` pattern that must match the whole of it.

    Raises ValueError for anything else.

    >>> [name for name in ("conv1", "conv2", "fc") if naming("re:conv.*")(name)]
    ['conv1', 'conv2']
    """
    if not isinstance(layers, str):
        raise ValueError(f"layers is a layer's name or a pattern such as re:conv.*, got {layers!r}")
    if not layers.startswith("re:"):
        return layers.__eq__
    try:
        return re.compile(layers[3:]).fullmatch
    except re.error as error:
        raise ValueError(f"layers: {layers!r} is not a regular expression: {error}") from error


def measured_over(result: Result, layers: str, phase: str | None = None) -> dict[str, float]:
    """The MACs and weights of some layers of one finished job, and what follows from them, named by `over`.

    NaN where no layer is meant, where a layer was not measured, and for a `phase` that is not the last one: layers are
    recorded at the end only.

    >>> layers = [LayerResult("conv", macs_before=100, macs_after=25), LayerResult("fc", macs_before=7, macs_after=7)]
    >>> job = Result("ok", "0" * 16, None, None, 0, "decompose", {}, [PhaseResult("factorize")], layers)
    >>> measured_over(job, "re:conv.*")["macs_ratio over re:conv.*"]
    0.25
    """
    means, ended = naming(layers), phase is None or bool(result.phases and result.phases[-1].name == phase)
    counted = [layer for layer in result.layers if means(layer.name) and ended]
    values = {}
    for cost in ("macs", "weights"):
        values |= _compared(cost, _sum(counted, f"{cost}_before"), _sum(counted, f"{cost}_after"))
    return {over(name, layers): value for name, value in values.items()}


def dense_and_compressed(result: Result, phase: str | None = None) -> tuple[PhaseResult, PhaseResult]:
    """The dense network as the job has recorded it, and the network after the phase named `phase` or the last one.

    A phase without name and numbers where there is none: results of earlier versions have no dense network.
    """
    nothing = PhaseResult("")
    after = {item.name: item for item in result.phases}
    last = result.phases[-1] if result.phases else nothing
    return result.dense or nothing, last if phase is None else after.get(phase, nothing)


def measured(result: Result, phase: str | None = None) -> dict[str, float]:
    """All quantities of one finished job; NaN where something was not measured.

    Which networks the dense and the compressed one are: see `dense_and_compressed`. `_change` is compressed minus
    dense, `_ratio` compressed / dense, `_reduction` 1 - ratio, `_speedup` 1 / ratio; `seconds` is the sum over all
    phases. Besides, `accuracy.NAME`, `top5.NAME` and `seconds.NAME` for every phase, and `values.FIGURE.NAME` for the
    figures of its own.

    >>> dense = PhaseResult("train", accuracy=0.75, macs=100)
    >>> small = PhaseResult("finetune", accuracy=0.5, macs=25)
    >>> job = Result("ok", "0" * 16, None, None, 0, "decompose", {}, [dense, small], dense=dense)
    >>> [measured(job)[name] for name in ("accuracy_change", "macs_ratio", "macs_speedup")]
    [-0.25, 0.25, 4.0]
    """
    after = {item.name: item for item in result.phases}
    first, last = dense_and_compressed(result, phase)
    values = {"val_accuracy": _number(last.val_accuracy)}
    for name in ("accuracy", "top5"):
        dense, now = _number(getattr(first, name)), _number(getattr(last, name))
        values |= {name: now, f"{name}_dense": dense, f"{name}_change": now - dense}
    values |= {"error": 1 - values["accuracy"], "error_dense": 1 - values["accuracy_dense"]}
    values |= {"top5_error": 1 - values["top5"], "top5_error_dense": 1 - values["top5_dense"]}
    for cost in COSTS:
        values |= _compared(cost, _number(getattr(first, cost)), _number(getattr(last, cost)))
    values["seconds"] = sum((_number(item.seconds) for item in result.phases), 0.0) if result.phases else NAN
    values |= {f"{what}.{name}": _number(getattr(item, what)) for what in AFTER for name, item in after.items()}
    return values | {
        f"{VALUES}.{figure}.{name}": _number(value)
        for name, item in after.items()
        for figure, value in item.values.items()
    }


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


def _compared(cost: str, dense: float, now: float) -> dict[str, float]:
    """A cost now and in the dense network, and what follows from the two, by name."""
    ratio = now / dense if dense else NAN
    speedup = 1 / ratio if ratio else NAN
    return dict(zip((f"{cost}{end}" for end in ENDINGS), (now, dense, ratio, 1 - ratio, speedup), strict=True))


def _sum(layers: list[LayerResult], field: str) -> float:
    return sum((_number(getattr(layer, field)) for layer in layers), 0.0) if layers else NAN


def _number(value: float | None) -> float:
    return NAN if value is None else float(value)
