"""Milliseconds of the networks that the rows of a table left, in every runtime, beside the dense network.

    python benchmarks/row_times.py outputs/main_comparison --batch 1 --threads 1 --json row_times.json

The first seed of every row; the networks are passed through in turn. Median milliseconds of a batch, in parentheses the
speed-up against the dense network.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from lowrank_exp import load
from lowrank_exp.files.results import Result
from lowrank_exp.machine.environment import describe_environment
from lowrank_exp.models import cifar_resnet
from lowrank_exp.runtime import installed_runtimes, runtime_named, time_interleaved


def networks_of(folder: Path) -> dict[str, nn.Module]:
    """By row, with its control; the first seed's."""
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.glob("*/result.json")):
        result = Result.read(path)
        if result.status != "ok":
            continue
        name = " ".join(filter(None, [result.row, result.control.get("name")]))
        found[name] = min(found.get(name, (result.seed, path)), (result.seed, path))
    return {name: load(path.parent / "model.pt") for name, (_, path) in sorted(found.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the jobs of the table lie")
    parser.add_argument("--depth", type=int, default=20, help="of the dense CIFAR ResNet beside them")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a network in a runtime")
    parser.add_argument("--runtimes", nargs="+", default=installed_runtimes())
    parser.add_argument("--json", type=Path, help="write the records to this file")
    arguments = parser.parse_args()

    networks = {"dense": cifar_resnet(depth=arguments.depth), **networks_of(arguments.folder)}
    image = torch.zeros(arguments.batch, 3, 32, 32)
    records = {}
    for name in tqdm(arguments.runtimes):
        runtime = runtime_named(name, threads=arguments.threads)
        prepared = {row: runtime.prepare(network.eval(), image) for row, network in networks.items()}
        records[name] = {row: asdict(of) for row, of in time_interleaved(prepared, seconds=arguments.seconds).items()}
    print(f"| network | {' | '.join(records)} |\n|---|{'---|' * len(records)}")
    for name in networks:
        medians = [(one[name]["median_ms"], one["dense"]["median_ms"]) for one in records.values()]
        cells = (f"{own:.3f} ({dense / own:.2f})" for own, dense in medians)
        print(f"| {name} | {' | '.join(cells)} |")
    if arguments.json:
        settings = {name: str(value) for name, value in vars(arguments).items()}
        found = {"times": records, "settings": settings, "environment": describe_environment("cpu")}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
