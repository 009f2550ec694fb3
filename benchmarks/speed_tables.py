"""Tables of what `speed.py` and `speed_accuracy.py` have measured, as Markdown.

python benchmarks/speed_tables.py speed.json
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, pairwise
from pathlib import Path

Cell = dict
ORDER = ("dense", "spatial_svd 0.5", "tltorch 0.5", "torch-pruning 0.5", "at macs 0.5", "time 0.5")
ORDER += ("spatial_svd 0.25", "tltorch 0.25", "torch-pruning 0.25", "at macs 0.25", "time 0.33")
OURS = ("time", "at macs")
LOSS = 0.005  # of the accuracy
PEERS_BY_MACS = ("spatial_svd", "joined")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def place(cell: Cell) -> tuple[str, str, int]:
    """What cells of one table share."""
    return cell["network"], cell["runtime"], cell["batch_size"]


def by_place(cells: Iterable[Cell]) -> dict[tuple[str, str, int], list[Cell]]:
    """Cells in their tables, in the order in which they were measured."""
    found: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        found.setdefault(place(cell), []).append(cell)
    return found


def is_ours(cell: Cell) -> bool:
    """Whether a cell is a plan by time."""
    return cell["entry"].startswith(OURS)


def network_tables(cells: Sequence[Cell]) -> str:
    """One table for every network and batch size: entries by runtimes."""
    parts = []
    for (name, batch_size), group in groupby(
        sorted(cells, key=lambda cell: (cell["network"], cell["batch_size"])),
        key=lambda cell: (cell["network"], cell["batch_size"]),
    ):
        rows = []
        for cell in sorted(
            (c for c in group if c["entry"] in ORDER), key=lambda c: (c["runtime"], ORDER.index(c["entry"]))
        ):
            start = [cell["runtime"], cell["entry"]]
            if "failed" in cell:
                rows.append([*start, *["-"] * 5, cell["failed"][:100].replace("|", "/"), ""])
                continue
            small = "macs" in cell
            rows.append(
                [
                    *start,
                    f"{cell['ours'] * 1e3:.2f}",
                    f"{cell['ours_minimum'] * 1e3:.2f}",
                    f"{cell['ratio']:.2f}" if small else f"{cell['ratio']:.2f} of eager's",
                    f"{cell['macs']:.3f}" if small else "",
                    f"{cell['real_over_macs']:.2f}" if small else "",
                    "" if cell["error_ours"] is None else f"{cell['error_ours']:.3f}",
                    told_prediction(cell),
                ]
            )
        head = ["runtime", "network", "median ms", "minimum ms", "speed-up", "MACs", "real over MACs", "error"]
        parts.append(f"### {name}, batch {batch_size}\n\n{table([*head, 'predicted ms'], rows)}")
    return "\n\n".join(parts)


def told_prediction(cell: Cell) -> str:
    """What was predicted, and how far the measured time is off."""
    if "predicted" not in cell:
        return ""
    return f"{cell['predicted'] * 1e3:.2f} ({off_in_ms(cell):+.1%}; as a share of dense {off_in_share(cell):+.1%})"


def off_in_ms(cell: Cell) -> float:
    """How much longer a pass took than was predicted, relatively, on the machine as it was then."""
    return cell["ours"] / cell["predicted"] - 1


def off_in_share(cell: Cell) -> float:
    """The same of the share of the dense network's time, both sides measured in turn: a drift of the machine is out."""
    return 1 / (cell["ratio"] * cell["predicted_share"]) - 1


def at_equal_error(cell: Cell, others: Sequence[Cell]) -> float | None:
    """How much longer the fastest plan by MACs takes that loses as much as this plan; None: there is none to compare.

    Plans by MACs are interpolated: the share of the dense network's time, linearly in the error.
    """
    shares = []
    for kind in PEERS_BY_MACS:
        points = [(c["error_ours"], 1 / c["ratio"]) for c in others if c["entry"].split()[0] == kind and "macs" in c]
        points = sorted([(0.0, 1.0), *points])
        for (e, t), (e_next, t_next) in pairwise(points):
            if e <= cell["error_ours"] <= e_next and e_next > e:
                shares.append(t + (t_next - t) * (cell["error_ours"] - e) / (e_next - e))
    return min(shares) * cell["ratio"] if shares else None


def equal_error_ratios(cells: Sequence[Cell]) -> list[tuple[Cell, float]]:
    """Of every plan by time, the ratio of times at equal errors."""
    found = []
    for group in by_place(cells).values():
        for cell in group:
            if is_ours(cell) and (ratio := at_equal_error(cell, group)) is not None:
                found.append((cell, ratio))
    return found


def summary(cells: Sequence[Cell]) -> list[str]:
    """What is claimed of all cells, in a few lines."""
    cells = [cell for cell in cells if "failed" not in cell]
    lines = [*dense_lines(cells)]
    predicted = [cell for cell in cells if "predicted" in cell]
    for what, off in (("milliseconds", off_in_ms), ("share of the dense time", off_in_share)):
        lines += spread_line(f"predicted against measured, {what}", predicted, lambda cell, off=off: abs(off(cell)))
    ratios = equal_error_ratios(cells)
    if ratios:
        mean = math.exp(statistics.fmean(math.log(ratio) for _, ratio in ratios))
        cell, worst = min(ratios, key=lambda pair: pair[1])
        lines.append(
            f"at equal error, time of the best plan by MACs over ours: {mean:.2f} x in the geometric mean of "
            f"{len(ratios)} cells, lowest {worst:.2f} x ({cell['case']})"
        )
    for entry in ("spatial_svd 0.5", "at macs 0.5", "spatial_svd 0.25", "at macs 0.25"):
        for runtime in sorted({cell["runtime"] for cell in cells}):
            group = [cell for cell in cells if (cell["entry"], cell["runtime"]) == (entry, runtime)]
            if group:
                real = [cell["real_over_macs"] for cell in group]
                lines.append(
                    f"real over MACs, {entry}, {runtime}: median {statistics.median(real):.2f}, lowest "
                    f"{min(real):.2f} ({min(group, key=lambda c: c['real_over_macs'])['case']})"
                )
    slower = [cell["case"] for cell in cells if is_ours(cell) and cell["ratio"] < 1]
    lines.append(f"plans by time that are slower than dense: {', '.join(slower) or 'none'}")
    return lines


def spread_line(what: str, cells: Sequence[Cell], off: Callable[[Cell], float]) -> list[str]:
    """Median and worst of a relative error."""
    if not cells:
        return []
    worst = max(cells, key=off)
    median = statistics.median(map(off, cells))
    return [f"{what}: median {median:.1%}, worst {off(worst):.1%} ({worst['case']}), {len(cells)} plans"]


def dense_lines(cells: Sequence[Cell]) -> list[str]:
    """The dense network in eager and in its best runtime, and the fastest of ours there."""
    lines = []
    for name, batch_size in dict.fromkeys((cell["network"], cell["batch_size"]) for cell in cells):
        here = [cell for cell in cells if (cell["network"], cell["batch_size"]) == (name, batch_size)]
        dense = [cell for cell in here if cell["entry"] == "dense"]
        if not dense:
            continue
        best = max(dense, key=lambda cell: cell["ratio"])
        line = f"dense {name}, batch {batch_size}: {best['runtime']} is fastest, {best['ratio']:.2f} x of eager"
        if small := [cell for cell in here if place(cell) == place(best) and cell["entry"] == "time 0.33"]:
            line += f"; time 0.33 there {small[0]['ratio'] * best['ratio']:.2f} x of dense in eager"
        lines.append(line)
    return lines


def accuracy_tables(records: Sequence[Cell]) -> str:
    """One table for every network and batch size: accuracy and time by method and budget."""
    parts = []
    for depth, size in sorted({(one["depth"], one["batch_size"]) for one in records}):
        here = [one for one in records if (one["depth"], one["batch_size"]) == (depth, size)]
        rows = [
            [
                one["method"],
                one["budget"],
                f"{one['macs']:.3f}",
                f"{one['small_ms']:.3f}",
                f"{one['small_minimum_ms']:.3f}",
                f"{one['ratio']:.2f}",
                f"{one['predicted_ms']:.3f}" if "predicted_ms" in one else "",
                f"{100 * one['validation']:.2f}",
                f"{100 * one['test']:.2f}",
            ]
            for one in sorted(here, key=lambda one: (one["method"], -one["budget"]))
        ]
        head = ["method", "budget", "MACs", "median ms", "minimum ms", "speed-up", "predicted ms", "validation", "test"]
        parts.append(f"### ResNet-{depth}, batch {size}\n\n{table(head, rows)}\n\n{within_loss(here)}")
    return "\n\n".join(parts)


def within_loss(records: Sequence[Cell]) -> str:
    """Of each method the fastest that loses at most `LOSS` of validation accuracy, and what it loses in testing."""
    dense = next(one for one in records if one["method"] == "dense")
    lines = []
    for method in dict.fromkeys(one["method"] for one in records if one is not dense):
        near = [o for o in records if o["method"] == method and o["validation"] >= dense["validation"] - LOSS]
        if not near:
            lines.append(f"- {method}: no budget loses at most {100 * LOSS} points of validation accuracy")
            continue
        best = max(near, key=lambda one: one["ratio"])
        lost = 100 * (dense["test"] - best["test"])
        lines.append(
            f"- {method}: {best['ratio']:.2f} x (of minima {best['ratio_of_minima']:.2f} x) at a loss of at most "
            f"{100 * LOSS} points of validation accuracy (budget {best['budget']}; test accuracy {-lost:+.2f} points)"
        )
    return "\n".join(lines)


def print_summary(cells: Sequence[Cell]) -> None:
    """The lines of the summary."""
    print()
    print("\n".join(summary(cells)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=Path, help="records of speed.py")
    parser.add_argument("--accuracy", type=Path, help="records of speed_accuracy.py")
    arguments = parser.parse_args()
    if arguments.speed:
        measured = json.loads(arguments.speed.read_text())
        print("\n".join(f"- {line}" for line in summary(measured)))
        print(f"\n{network_tables(measured)}\n")
    if arguments.accuracy:
        print(accuracy_tables(json.loads(arguments.accuracy.read_text())))
