"""How long a user waits before anything happens.

    python benchmarks/start.py --json start.json

Cases: `lowrank-exp --help` and `--cfg job` as whole processes, against a bare `import hydra`; and a sweep's second job,
whose dense network is stored: from the call of the job, all imported, to the start of its factorize phase, against one
second, with the default logger (wandb, offline) and with none.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lowrank_exp.cli import main
from lowrank_exp.phases.factorize import Factorize

COMMANDS = {"--help": ["--help"], "--cfg job": ["--cfg", "job"]}
HYDRA = [sys.executable, "-c", "import hydra, omegaconf"]


def process_seconds(command: list[str], repeats: int) -> float:
    """Median wall seconds of a whole process, after one warm-up."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def seconds_to_factorize(logger: str, repeats: int) -> float:
    """Median seconds from the call of a job whose dense network is stored to the start of its factorize phase."""
    started: list[float] = []
    original = Factorize.run_

    def noting(self, network, setting):
        started.append(time.perf_counter())
        return original(self, network, setting)

    Factorize.run_ = noting
    seconds = []
    try:
        with tempfile.TemporaryDirectory() as outputs:
            for repeat in range(repeats + 2):  # the first trains, the second warms up
                budget = f"rank.macs={0.3 + 0.02 * repeat:.2f}"
                options = ["scale=smoke", "progress=false", f"logger={logger}", f"paths.outputs={outputs}", budget]
                sys.argv = ["lowrank-exp", *options]
                called = time.perf_counter()
                main()
                seconds.append(started[-1] - called)
    finally:
        Factorize.run_ = original
    return statistics.median(seconds[2:])


def record(case: str, ours: float, peer: float, peer_name: str) -> dict:
    """One line of the table."""
    ratio = {"ours": ours, "peer": peer, "peer_name": peer_name, "ratio": peer / ours}
    return {"case": case, **ratio, "error_ours": None, "error_peer": None, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    floor = process_seconds(HYDRA, arguments.repeats)
    records = [
        record(
            case,
            process_seconds([sys.executable, "-m", "lowrank_exp.cli", *extra], arguments.repeats),
            floor,
            "import hydra",
        )
        for case, extra in COMMANDS.items()
    ]
    for logger in ("none", "wandb"):
        seconds = seconds_to_factorize(logger, arguments.repeats)
        records.append(record(f"factorize starts, logger={logger}", seconds, 1.0, "one second"))
    for r in records:
        print(f"{r['case']:32} {r['ours']:7.3f} s   {r['peer_name']:13} {r['peer']:7.3f} s   ratio {r['ratio']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))
