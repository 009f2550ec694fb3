"""What every layer lost by its decomposition: the layers that cost most come first."""

from collections.abc import Sequence

import pandas as pd

from lowrank_exp.files.results import LayerResult
from lowrank_exp.report.configuration import Configuration

SHOWN = 10  # layers in a printed table; `layers.csv` has all
LOST = ("accuracy_lost", "response_error", "weight_error")  # by which layers are ranked: the first that was measured
COLUMNS = ("decomposition", "rank", "macs_left", *LOST)
EXPLAINED = (
    "By layer: relative squared errors of its weight, and of its responses on training images, in percent; accuracy "
    "lost with that layer alone decomposed, in points on validation images (losses.alone=true); MACs left of its own."
)


def layer_table(row: Configuration) -> pd.DataFrame:
    """A line per decomposed layer: means over the seeds, those that cost most first.

    Columns `layer`, `decomposition`, `rank` (each that its seeds have), `macs_left`, and what was lost: `accuracy_lost`
    against the dense network's validation accuracy, `response_error` and `weight_error`, as fractions. Empty where a
    seed lacks the number. No line where nothing was recorded.
    """
    found: dict[str, list[dict]] = {}
    for job in row.finished:
        dense = None if job.dense is None else job.dense.val_accuracy
        for layer in job.layers:
            if layer.weight_error is not None or layer.response_error is not None:
                found.setdefault(layer.name, []).append(_record(layer, dense))
    lines = [{"layer": name, **_mean(pd.DataFrame(seeds), len(row.finished))} for name, seeds in found.items()]
    frame = pd.DataFrame(lines, columns=["layer", *COLUMNS])
    by = next((name for name in LOST if frame[name].notna().all()), LOST[-1])
    return frame.sort_values(by, ascending=False, kind="stable", ignore_index=True)


def shown(frame: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The lines of `layer_table` to print, as text, and what they are."""
    what = "layers by what they lost"
    if len(frame) > SHOWN:
        what = f"the {SHOWN} of {len(frame)} layers that lost most"
    text = pd.DataFrame({"layer": frame["layer"], "decomposition": frame["decomposition"], "rank": frame["rank"]})
    heads = {"macs_left": "MACs left %", "weight_error": "weight error %", "response_error": "response error %"}
    for name, head in (heads | {"accuracy_lost": "accuracy lost"}).items():
        if frame[name].notna().any():
            text[head] = [f"{100 * value:.2f}" if pd.notna(value) else "" for value in frame[name]]
    return what, text.head(SHOWN)


def all_layers(rows: Sequence[Configuration]) -> pd.DataFrame:
    """`layer_table` of all configurations below each other, behind the columns experiment, configuration, n."""
    frames = []
    for row in rows:
        frame = layer_table(row)
        for place, (name, value) in enumerate(
            {"experiment": row.experiment, "configuration": row.label, "n": len(row.finished)}.items()
        ):
            frame.insert(place, name, value)
        frames.append(frame)
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frames[0]


def layer_notes(rows: Sequence[Configuration]) -> list[str]:
    """The configurations without a table of layers."""
    return [
        f"{row.label}: what its layers lost is not known: nothing was decomposed, or by an earlier version"
        for row in rows
        if row.finished and layer_table(row).empty
    ]


def _record(layer: LayerResult, dense: float | None) -> dict:
    alone = layer.accuracy_alone
    left = None if not layer.macs_before or layer.macs_after is None else layer.macs_after / layer.macs_before
    return {
        "decomposition": layer.decomposition,
        "rank": str(layer.rank),
        "macs_left": left,
        "accuracy_lost": None if alone is None or dense is None else dense - alone,
        "response_error": layer.response_error,
        "weight_error": layer.weight_error,
    }


def _mean(seeds: pd.DataFrame, jobs: int) -> dict:
    words = {name: " ".join(dict.fromkeys(map(str, seeds[name]))) for name in ("decomposition", "rank")}
    numbers = seeds[["macs_left", *LOST]].astype(float)
    means = numbers.mean().where(numbers.notna().all() & (len(seeds) == jobs))
    return {**words, **means.to_dict()}
