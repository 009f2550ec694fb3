"""The table and the figure of `experiment=oneshot`: accuracy by decomposition, fit, metric and budget.

    python benchmarks/one_shot_tables.py outputs/oneshot outputs/oneshot_half --figure oneshot_front.png

Test accuracy in percent right after the factors were made, and after batch norm was estimated again; the first seed's.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lowrank_exp.files.results import Result

BUDGETS = (0.5, 0.33, 0.25)
FITS, METRICS = ("weights", "whitened", "in_sequence"), ("error", "response")
COLORS = {"spatial_svd": "#0072B2", "tucker2": "#009E73", "cp_merged": "#D55E00", "joined": "#CC79A7"}
LINES = {"weights": ":", "whitened": "--", "in_sequence": "-"}


@dataclass(frozen=True)
class Cell:
    """One job: accuracies (fractions) of the dense network, after the fit, after batch norm; seconds of the fit."""

    dense: float
    fitted: float
    recalibrated: float
    seconds: float


def read(folders: Iterable[Path]) -> dict[tuple[str, str, str, float], Cell]:
    """By decomposition, fit, metric and budget."""
    found = {}
    for path in sorted(path for folder in folders for path in folder.glob("*/result.json")):
        result = Result.read(path)
        phases = {phase.name: phase for phase in result.phases}
        if result.status != "ok" or not {"evaluate", "factorize", "recalibrate"} <= phases.keys():
            continue
        kind, metric = (result.row or "").rsplit("_", 1)
        fit = next(fit for fit in FITS if kind.endswith(fit))
        share = phases["factorize"].macs / phases["evaluate"].macs
        budget = min(BUDGETS, key=lambda one, share=share: abs(one - share))
        accuracies = [phases[name].accuracy for name in ("evaluate", "factorize", "recalibrate")]
        cell = Cell(*accuracies, phases["factorize"].seconds)
        found.setdefault((kind.removesuffix(f"_{fit}"), fit, metric, budget), cell)
    return found


def print_table(found: dict[tuple[str, str, str, float], Cell]) -> None:
    """As Markdown."""
    columns = [*map(str, BUDGETS), *(f"{budget}, batch norm again" for budget in BUDGETS), "seconds of the fit"]
    print("| decomposition | factors fitted to | ranks by | " + " | ".join(columns) + " |")
    print("|" + "---|" * (3 + len(columns)))
    for kind in dict.fromkeys(kind for kind, *_ in found):
        for fit in FITS:
            for metric in METRICS:
                cells = [found.get((kind, fit, metric, budget)) for budget in BUDGETS]
                if any(cells):
                    figures = [f"{100 * cell.fitted:.2f}" if cell else "-" for cell in cells]
                    figures += [f"{100 * cell.recalibrated:.2f}" if cell else "-" for cell in cells]
                    last = [cell.seconds for cell in cells if cell]
                    words = (kind, fit.replace("_", " "), metric, *figures, f"{min(last):.0f} to {max(last):.0f}")
                    print("| " + " | ".join(words) + " |")


def draw(found: dict[tuple[str, str, str, float], Cell], path: Path) -> None:
    """Accuracy against the share of the MACs: a line for every decomposition and fit, ranks by errors of responses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=160, layout="constrained")
    axes = figure.subplots()
    axes.axhline(100 * next(iter(found.values())).dense, color="black", linewidth=0.8)
    axes.annotate("dense", (0.25, 100 * next(iter(found.values())).dense), fontsize=8, va="bottom")
    for kind, color in COLORS.items():
        for fit, line in LINES.items():
            points = [(b, 100 * cell.fitted) for b in BUDGETS if (cell := found.get((kind, fit, "response", b)))]
            if points:
                label = f"{kind}, {fit.replace('_', ' ')}"
                axes.plot(*zip(*points, strict=True), line, color=color, marker="o", markersize=4, label=label)
    axes.set_xlabel("share of the MACs that remains", fontsize=9)
    axes.set_ylabel("test accuracy, %, without labels or training", fontsize=9)
    axes.set_title("ResNet-20, ranks by errors of responses", fontsize=10)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="where the table's jobs lie")
    parser.add_argument("--figure", type=Path, help="draw the fronts to this file (png, svg)")
    arguments = parser.parse_args()
    cells = read(arguments.folders)
    print_table(cells)
    if arguments.figure:
        draw(cells, arguments.figure)
