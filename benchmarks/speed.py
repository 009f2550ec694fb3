"""Whether fewer MACs are faster: networks made smaller by MACs, by time and by peers, in every runtime.

    python benchmarks/speed.py --json speed.json --times times
    python benchmarks/speed.py --json speed.json --networks resnet18 --runtimes onnxruntime openvino --batch 1 --split

Every cell is a smaller network beside the dense one in the same runtime, passed through in turn in one process, in
short rounds (`speed_timing.py`); medians, and minima beside them. `dense`: beside the dense one in eager.
`spatial_svd 0.5`: the knapsack on MACs, what users do today; `joined` chooses among all decompositions. `tltorch` and
`torch-pruning` are peers at equal MACs (extra `bench`). `time 0.5`: the knapsack on times measured on that runtime at
that batch size, under half of the dense network's time; `at macs 0.5`: the same under the budget of time with which
half of the MACs are left.

Real over MACs is the speed-up times the share of the MACs: 1 if time falls as MACs do. Errors are those of the weights,
relative and squared, summed over layers; weights are random with falling spectra, see `speed_entries.py`. A finished
cell is written at once, and not measured again when FILE has it; `--split` says of each cell below 0.9 where the time
goes. Tables: `python benchmarks/speed_tables.py --speed FILE`.
"""

import argparse
import functools
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from speed_entries import NETWORKS, Entries, Profiles, Small, batch_sizes
from speed_tables import print_summary
from speed_timing import Pair, time_pair
from tqdm import tqdm

from lowrank_exp.machine.environment import describe_environment
from lowrank_exp.rank import Plan
from lowrank_exp.runtime import Prepared, Runtime, installed_runtimes, runtime_named

SHARES = (0.5, 0.25)  # of the MACs
TIMES = (0.5, 0.33)  # of the dense network's time
SWEEP = (0.85, 0.7, 0.5, 0.35, 0.25)  # of the MACs: plans by MACs to compare with at equal errors
FAIR = 0.9  # real over MACs: below it a cell is split
PASSES = 20  # whose kernels are timed for that
Build = Callable[[], Small]


def builders(entries: Entries, runtime: Runtime, batch_size: int, sweep: bool) -> dict[str, Build]:
    """How every smaller network of a runtime and a batch size is made, by its name."""

    @functools.cache
    def timed() -> Profiles:
        return entries.timed(runtime, batch_size)

    found: dict[str, Build] = {}
    for share in TIMES:
        found[f"time {share}"] = lambda share=share: entries.by_time(share, timed())
    for share in SHARES:
        found[f"at macs {share}"] = lambda share=share: entries.by_time_at_macs(share, timed())
    for share in SWEEP if sweep else SHARES:
        found[f"spatial_svd {share}"] = lambda share=share: entries.by_macs(share, entries.spatial)
    for share in SWEEP if sweep else ():
        found[f"joined {share}"] = lambda share=share: entries.by_macs(share, entries.every)
    for share in SHARES:
        found[f"tltorch {share}"] = functools.partial(entries.tucker_by_peer, share)
        found[f"torch-pruning {share}"] = functools.partial(entries.pruned_by_peer, share)
    return found


def record(case: Mapping[str, object], peer: str, times: Pair, small: Small | None = None) -> dict:
    """One cell: seconds of both sides, and what is to be known of the smaller network."""
    network, runtime, batch_size, entry = case.values()
    figures = dict(case) | {"case": f"{entry} {network} {runtime} batch {batch_size}"}
    figures |= {"ours": times.small_ms / 1e3, "peer": times.dense_ms / 1e3, "peer_name": peer, "ratio": times.ratio}
    figures |= {"error_ours": None, "error_peer": None, "threads": torch.get_num_threads()}
    figures |= {"ours_minimum": times.small_minimum_ms / 1e3, "peer_minimum": times.dense_minimum_ms / 1e3}
    figures |= {"ratio_of_minima": times.ratio_of_minima, "spread": times.spread}
    figures |= {"passes": times.passes, "busy_beside": times.busy_beside}
    if small is None:
        return figures
    figures |= {"macs": small.macs, "error_ours": small.error, "error_peer": 0.0 if small.error is not None else None}
    figures |= {"real_over_macs": figures["ratio"] * small.macs}
    figures |= {"real_over_macs_by_minima": figures["ratio_of_minima"] * small.macs}
    if small.plan is not None:
        figures["layers"] = {n: [one.decomposition, one.rank] for n, one in small.plan.layers.items()}
        if small.plan.predicted_ms is not None:
            figures |= {"predicted": small.plan.predicted_ms / 1e3, "predicted_share": small.plan.remaining("latency")}
    return figures


def show(cell: dict) -> None:
    """One line of the table."""
    if "failed" in cell:
        tqdm.write(f"{cell['case']:50} {cell['failed']:.120}")
        return
    line = f"{cell['case']:50} {cell['ours'] * 1e3:9.3f} ms ({cell['ours_minimum'] * 1e3:9.3f}) {cell['ratio']:6.2f} x"
    if "macs" in cell:
        line += f"  {cell['macs']:5.3f} of the MACs, real over MACs {cell['real_over_macs']:5.2f}"
    if cell.get("error_ours") is not None:
        line += f", error {cell['error_ours']:.4f}"
    if "predicted" in cell:
        line += f", predicted {cell['predicted'] * 1e3:.3f} ms"
    tqdm.write(line)


def cells(
    entries: Entries, runtime: Runtime, batch_size: int, done: set[str], arguments: argparse.Namespace
) -> Iterator[dict]:
    """The cells of a network, a runtime and a batch size that are not done yet."""
    example = entries.image.expand(batch_size, *entries.image.shape[1:]).contiguous()
    makers = {"dense": None, **builders(entries, runtime, batch_size, arguments.sweep)}
    dense: list[Prepared] = []
    for entry, build in makers.items():
        case = {"network": entries.name, "runtime": runtime.name, "batch_size": batch_size, "entry": entry}
        told = f"{entry} {entries.name} {runtime.name} batch {batch_size}"
        if told in done or not any(told.startswith(wanted) for wanted in arguments.entries):
            continue
        try:
            dense = dense or [runtime.prepare(entries.dense, example)]
            if build is None:
                eager = runtime_named("eager", threads=arguments.threads).prepare(entries.dense, example)
                yield record(case, "dense in eager", time_pair(eager, dense[0], arguments.seconds))
                continue
            small = build()
            prepared = runtime.prepare(small.network, example)
            times = time_pair(dense[0], prepared, arguments.seconds)
            cell = record(case, f"dense in {runtime.name}", times, small)
            if arguments.split and cell["real_over_macs"] < FAIR:
                cell["split"] = split(dense[0], prepared, small)
                show_split(cell)
            yield cell
        except Exception as error:  # a peer that cannot, a runtime that does not take it: the others are still measured
            yield dict(case) | {"case": told, "failed": f"{type(error).__name__}: {str(error).strip():.300}"}


def is_open(cell: Mapping, arguments: argparse.Namespace) -> bool:
    """Whether a cell that was measured is to be measured again: one of those asked for that failed, or is noisy."""
    asked = cell["network"] in arguments.networks and cell["runtime"] in arguments.runtimes
    asked = asked and cell["batch_size"] in (arguments.batch or batch_sizes(cell["network"]))
    asked = asked and cell["entry"].startswith(tuple(arguments.entries))
    return asked and ("failed" in cell or cell["spread"] > arguments.again)


def split(dense: Prepared, small: Prepared, made: Small) -> dict:
    """Where the time goes: milliseconds by kind of kernel, dense and small, and of layers above their share of MACs."""
    kernels = {}
    for side, prepared in (("dense", dense), ("small", small)):
        by_op: Counter = Counter()
        for kernel in prepared.kernel_times(PASSES) or ():
            by_op[kernel.op] += kernel.ms
        kernels[side] = dict(by_op.most_common())
    return {"kernels": kernels, "layers": {} if made.plan is None else layers_above(made.plan)}


def layers_above(plan: Plan) -> dict[str, float]:
    """Milliseconds that layers take, as profiled, above their share of the MACs; those that lose most first."""
    above = {}
    for name, one in plan.layers.items():
        if one.latency_after is not None and one.macs_before:
            fair = one.latency_before * one.macs_after / one.macs_before
            above[f"{name} {one.decomposition or 'dense'} {one.rank or ''}".strip()] = (one.latency_after - fair) / 1e6
    return dict(sorted(above.items(), key=lambda item: -item[1])[:8])


def show_split(cell: dict) -> None:
    """The kernels of both sides, and the layers that lose most."""
    kernels = cell["split"]["kernels"]
    for op in dict.fromkeys([*kernels["dense"], *kernels["small"]]):
        before, after = (kernels[side].get(op, 0.0) for side in ("dense", "small"))
        tqdm.write(f"    {op:30} {before:9.3f} ms dense, {after:9.3f} ms small")
    for name, ms in cell["split"]["layers"].items():
        tqdm.write(f"    {name:50} {ms:+9.3f} ms above its share of the MACs")


def write(path: Path, found: list[dict]) -> None:
    """All records so far, whole or not at all."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(found, indent=1))
    os.replace(temporary, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the records to this file, and go on with what it has")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--runtimes", nargs="+", default=installed_runtimes())
    parser.add_argument("--batch", nargs="+", type=int, help="batch sizes; 1 and 8, of CIFAR's networks 1 and 128")
    parser.add_argument("--entries", nargs="+", default=[""], help="only entries that start so, such as time spatial")
    parser.add_argument("--decomposition", nargs="+", help="what our plans choose from; five, as `fastest` does")
    parser.add_argument("--no-sweep", dest="sweep", action="store_false", help="no plans to compare at equal errors")
    parser.add_argument("--split", action="store_true", help="say where the time goes")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each side of a cell is timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", type=float, default=float("inf"), help="measure cells of a larger spread once more")
    parser.add_argument("--times", type=Path, help="folder where times and errors are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    found = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    found = [cell for cell in found if not is_open(cell, arguments)]
    conditions = describe_environment("cpu")
    for name in arguments.networks:
        entries = Entries(name, arguments.decomposition, arguments.times)
        for runtime_name in arguments.runtimes:
            runtime = runtime_named(runtime_name, threads=arguments.threads)
            for batch_size in arguments.batch or batch_sizes(name):
                for cell in cells(entries, runtime, batch_size, {one["case"] for one in found}, arguments):
                    about = {name: conditions[name] for name in ("commit", "machine", "date")}
                    found.append(cell | about | {"among": arguments.decomposition or "fastest"})
                    show(cell)
                    if arguments.json:
                        write(arguments.json, found)
    print_summary(found)
