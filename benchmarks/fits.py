"""Fits to data in sequence (`asymmetric`) beside fits of every layer by itself (`symmetric`).

    python benchmarks/fits.py --json fits.json
    python benchmarks/fits.py --networks resnet20 --decompositions spatial_svd channel_svd --whole 1

Networks with random weights are fitted (whitened) to random images of 32 x 32 at half of their MACs; only times are to
be learnt from that. ResNet-20 sees 1,000 images, ResNet-18 2,000. Rounds are interleaved, and medians taken.

`symmetric`: ours is the fit in sequence, the peer the symmetric fit. `whole`: the peer is the fit in sequence with both
networks run whole for every layer, in as many rounds as `--whole` says (it takes long); `error_ours` is the largest
relative difference of the factors.
"""

import argparse
import json
import logging
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from lowrank_exp import allocate, profile
from lowrank_exp.decomposition import decomposition_named
from lowrank_exp.machine.environment import describe_environment
from lowrank_exp.models import cifar_resnet, resnet
from lowrank_exp.reconstruct import fit_to_data
from lowrank_exp.reconstruct.sequence import Whole

NETWORKS = {"resnet20": (lambda: cifar_resnet(depth=20), 1000), "resnet18": (lambda: resnet(depth=18), 2000)}
Chains = dict[str, nn.Module]


def smooth_images(count: int) -> Tensor:
    """Random images whose neighbouring pixels are alike."""
    drawn = torch.randn(count, 3, 34, 34, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(drawn, 3, stride=1)


def ways(network: nn.Module, decomposition: str, images: Tensor) -> dict[str, Callable[[], Chains]]:
    """How the chains are fitted, by the name of the way."""
    plan = allocate(profile(network, images[:1], decomposition), policy="uniform", macs=0.5)
    planned = {name: layer for name, layer in plan.layers.items() if layer.rank is not None}
    wanted = {n: (decomposition_named(one.decomposition, **one.options), one.rank) for n, one in planned.items()}

    def fit(asymmetric: bool) -> Chains:
        return fit_to_data(network, wanted, images.split(100), "whitened", asymmetric)

    def fit_whole() -> Chains:
        whole = lambda model, calls, data, memory: Whole(model, calls, data)  # noqa: E731
        with patch("lowrank_exp.reconstruct.fit.in_sequence", whole):
            return fit(True)

    return {"asymmetric": lambda: fit(True), "symmetric": lambda: fit(False), "whole": fit_whole}


def largest_difference(chains: Chains, others: Chains) -> float:
    """Of weights, relative to the largest one of their tensor; below 1e-6 it is none."""
    pairs = zip(
        *([p.detach() for chain in some.values() for p in chain.parameters()] for some in (chains, others)),
        strict=True,
    )
    found = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
    return found if found >= 1e-6 else 0.0


def records(name: str, decomposition: str, arguments: argparse.Namespace) -> list[dict]:
    """The cells of a network and a decomposition."""
    torch.manual_seed(0)
    build, count = NETWORKS[name]
    count = arguments.images or count
    how = ways(build().eval(), decomposition, smooth_images(count))
    seconds: dict[str, list[float]] = {way: [] for way in how}
    chains: dict[str, Chains] = {}
    for turn in range(max(arguments.rounds, arguments.whole)):
        for way, fit in how.items():
            if turn < (arguments.whole if way == "whole" else arguments.rounds):
                start = perf_counter()
                chains[way] = fit()
                seconds[way].append(perf_counter() - start)
    median = {way: statistics.median(some) for way, some in seconds.items() if some}
    return [
        {
            "case": f"{decomposition} whitened {name} {count} images, {peer}",
            "ours": median["asymmetric"],
            "peer": median[peer],
            "peer_name": peer,
            "ratio": median[peer] / median["asymmetric"],
            "error_ours": largest_difference(chains["asymmetric"], chains["whole"]) if peer == "whole" else None,
            "error_peer": None,
            "threads": torch.get_num_threads(),
            "rounds": len(seconds[peer]),
        }
        for peer in ("symmetric", "whole")
        if peer in median
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--decompositions", nargs="+", default=["spatial_svd"])
    parser.add_argument("--images", type=int, help="instead of 1,000 and 2,000")
    parser.add_argument("--rounds", type=int, default=3, help="of the two ways that are ours, interleaved")
    parser.add_argument("--whole", type=int, default=0, help="rounds of the peer that runs both networks whole")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lowrank_exp").setLevel(logging.ERROR)
    found, conditions = [], describe_environment("cpu")
    for name in arguments.networks:
        for decomposition in arguments.decompositions:
            for cell in records(name, decomposition, arguments):
                found.append(cell | {about: conditions[about] for about in ("commit", "machine", "date")})
                tqdm.write(f"{cell['case']:60} {cell['ours']:8.1f} s {cell['peer']:8.1f} s {cell['ratio']:6.2f} x")
                if arguments.json:
                    arguments.json.write_text(json.dumps(found, indent=1))
