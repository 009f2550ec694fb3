"""How fast layers are decomposed, beside the peers that users have.

    python benchmarks/decomposition.py --json decomposition.json
    python benchmarks/decomposition.py --only tucker2 --networks resnet18

Both sides in one process, one after the other, warm, each called for half a second: medians. Kernels have the shapes
of torchvision's networks and two kinds of numbers: Gaussian, and approximately of low rank (Gaussian factors of half
the channels, and noise of a tenth of their norm). The SVDs are those of half the full rank, which the peer has to cut
from a whole one; `whole_svd` has all components on both sides. Errors are relative Frobenius errors of the kernel at
that rank, or of the singular values. CP runs until it has the peer's final error. Peers: the extra `bench`.
"""

import argparse
import copy
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorly
import torch
import torchvision
from tensorly.decomposition import parafac, partial_tucker
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from lowrank_exp.decomposition import ChannelSVD, SpatialSVD, SVDDecomposition
from lowrank_exp.decomposition.fitting.cp_als import CPFit, cp_als
from lowrank_exp.decomposition.fitting.gram import gram_singular_values, gram_svd
from lowrank_exp.decomposition.fitting.hooi import hooi
from lowrank_exp.surgery import factorize_

NETWORKS = ("resnet18", "vgg16", "alexnet")
NOISE = 0.1  # of the norm of the low-rank kernel
SWEEPS = 100  # of parafac, its default
SLACK = 1.001  # our error may be so much higher than the peer's


def convolutions(network: str) -> dict[str, nn.Conv2d]:
    """The convolutions of a torchvision network, on the meta device."""
    with torch.device("meta"):
        model = getattr(torchvision.models, network)(weights=None)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}


def gaussian(shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers without any structure."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(shape: tuple[int, ...], seed: int) -> Tensor:
    """A kernel of half the channels' rank in both modes, and noise."""
    generator = torch.Generator().manual_seed(seed)
    O, I = shape[:2]
    Q, R = math.ceil(O / 2), math.ceil(I / 2)
    U_OQ, V_IR = torch.randn(O, Q, generator=generator), torch.randn(I, R, generator=generator)
    planted = torch.einsum("oq,qrhw,ir->oihw", U_OQ, torch.randn(Q, R, *shape[2:], generator=generator), V_IR)
    noise = torch.randn(shape, generator=generator)
    return planted / planted.norm() + NOISE * noise / noise.norm()


KERNELS = {"low rank": low_rank, "random": gaussian}


def median(call: Callable, seconds: float) -> float:
    """Median seconds of a call, made again and again for so many seconds after a warm-up."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).median


def medians(ours: Callable, peer: Callable, seconds: float) -> tuple[float, float]:
    """Median seconds of both sides, one after the other."""
    return median(ours, seconds), median(peer, seconds)


def record(case: str, seconds: tuple[float, float], errors: tuple[float, float], peer_name: str) -> dict:
    """One line of the table; errors below 1e-6 count as 0."""
    ours, peer = seconds
    error_ours, error_peer = (0.0 if error < 1e-6 else error for error in errors)
    figures = {"ours": ours, "peer": peer, "peer_name": peer_name, "ratio": peer / ours}
    figures |= {"error_ours": error_ours, "error_peer": error_peer, "threads": torch.get_num_threads()}
    print(
        f"{case:58} {ours * 1e3:9.1f} ms {peer * 1e3:9.1f} ms {peer / ours:7.2f} x  {error_ours:.6f} {error_peer:.6f}"
    )
    return {"case": case} | figures


def relative(approximation: Tensor, wanted: Tensor) -> float:
    """Frobenius error relative to the norm of what was wanted, in float64."""
    return float((approximation.double() - wanted.double()).norm() / wanted.double().norm())


def svd_cases(kind: SVDDecomposition, networks: tuple[str, ...], seconds: float) -> Iterator[dict]:
    """Whole SVDs, and singular values alone, of the matrices that the decomposition makes of every kernel."""
    for label, layer, kernel in kernels(networks):
        layer = copy.copy(layer)
        layer._parameters = {"weight": nn.Parameter(kernel), "bias": None}
        W_GMN = kind.matrices(layer).detach().contiguous()
        R = -(-min(W_GMN.shape[1:]) // 2)

        def peer(W_GMN: Tensor = W_GMN) -> tuple[Tensor, ...]:
            return tuple(torch.linalg.svd(W_GMN, full_matrices=False))

        for name, rank in ((kind.name, R), (f"whole_svd {kind.name}", None)):

            def ours(W_GMN: Tensor = W_GMN, rank: int | None = rank) -> tuple[Tensor, ...]:
                return gram_svd(W_GMN, rank)

            errors = [relative(U[..., :R] * S[:, None, :R] @ V[:, :R], W_GMN) for U, S, V in (ours(), peer())]
            yield record(f"{name} {label}", medians(ours, peer, seconds), tuple(errors), "torch.linalg.svd")

        def values(W_GMN: Tensor = W_GMN) -> Tensor:
            return gram_singular_values(W_GMN)

        def peer_values(W_GMN: Tensor = W_GMN) -> Tensor:
            return torch.linalg.svdvals(W_GMN)

        exact = torch.linalg.svdvals(W_GMN.double())
        errors = relative(values(), exact), relative(peer_values(), exact)
        taken = medians(values, peer_values, seconds)
        yield record(f"singular_values {kind.name} {label}", taken, errors, "torch.linalg.svdvals")


def kernels(networks: tuple[str, ...]) -> Iterator[tuple[str, nn.Conv2d, Tensor]]:
    """Every convolution with numbers of both kinds."""
    for network in networks:
        for seed, (name, layer) in enumerate(convolutions(network).items()):
            for numbers, made in KERNELS.items():
                yield f"{network} {name} {numbers}", layer, made(tuple(layer.weight.shape), seed)


def tucker_cases(networks: tuple[str, ...], seconds: float) -> Iterator[dict]:
    """Tucker-2 at half the channels, both by HOOI to convergence."""
    for label, layer, kernel in kernels(networks):
        O, I = kernel.shape[:2]
        if layer.kernel_size == (1, 1):
            continue
        # TensorLy takes no rank that the other one and the kernel's entries cannot fill.
        R = math.ceil(I / 2)
        Q = min(math.ceil(O / 2), R * layer.kernel_size[0] * layer.kernel_size[1])

        def ours(kernel: Tensor = kernel, rank: tuple[int, int] = (R, Q)) -> tuple[Tensor, ...]:
            return hooi(kernel.flatten(2)[None], rank)

        def peer(kernel: Tensor = kernel, rank: tuple[int, int] = (R, Q)) -> tuple:
            return partial_tucker(kernel, rank=rank[::-1], modes=[0, 1], init="svd")

        U, C, V = (factor[0] for factor in ours())
        (core, (left, right)), _ = peer()
        errors = [
            relative(torch.einsum("oq,qrhw,ir->oihw", *parts), kernel)
            for parts in ((U, C.unflatten(2, kernel.shape[2:]), V), (left, core, right))
        ]
        yield record(f"tucker2 {label}", medians(ours, peer, seconds), tuple(errors), "tensorly partial_tucker")


def cp_cases(seconds: float) -> Iterator[dict]:
    """CP of kernels of 256 and 512 channels, to the error that parafac of the four modes ends with."""
    for channels, rank in ((256, 64), (256, 256), (512, 64), (512, 256)):
        for numbers, made in KERNELS.items():
            kernel = made((channels, channels, 3, 3), 0)
            began = time.perf_counter()
            found = parafac(kernel, rank, n_iter_max=SWEEPS, init="random", tol=1e-8, random_state=0)
            peer_seconds = time.perf_counter() - began
            peer_error = relative(tensorly.cp_to_tensor(found), kernel)
            for name, tensor in (("separate", kernel), ("merged", kernel.flatten(2))):

                def ours(tensor: Tensor = tensor, rank: int = rank, target: float = SLACK * peer_error) -> CPFit:
                    return cp_als(tensor, rank, target_error=target, tolerance=0.0, max_iterations=1000)

                case, errors = (
                    f"cp {name} {channels} channels, rank {rank} {numbers}",
                    (ours().relative_error, peer_error),
                )
                taken = median(ours, seconds), peer_seconds
                yield record(case, taken, errors, f"tensorly parafac, random start, {SWEEPS} sweeps")


def whole_network(seconds: float) -> Iterator[dict]:
    """All 3 x 3 convolutions of resnet18 by Tucker-2: decomposed, built, put in place; input layer and 1 x 1 left."""
    from tltorch import FactorizedConv

    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    layers = {n: layer for n, layer in model.named_modules() if getattr(layer, "kernel_size", None) == (3, 3)}
    layers = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Conv2d)}

    def ours() -> nn.Module:
        ranks = {n: (layer.in_channels // 2, layer.out_channels // 2) for n, layer in layers.items()}
        return factorize_(copy.deepcopy(model), ranks, "tucker2")

    def peer() -> nn.Module:
        copied = copy.deepcopy(model)
        for name, layer in layers.items():
            rank = (layer.out_channels // 2, layer.in_channels // 2, *layer.kernel_size)
            new = FactorizedConv.from_conv(layer, rank=rank, factorization="tucker", implementation="factorized")
            copied.set_submodule(name, new)
        return copied

    from lowrank_exp.decomposition import recompose

    def error(network: nn.Module, dense: Callable[[nn.Module], Tensor]) -> float:
        wanted = torch.cat([layer.weight.detach().flatten() for layer in layers.values()])
        return relative(torch.cat([dense(network.get_submodule(n)).detach().flatten() for n in layers]), wanted)

    errors = error(ours(), lambda chain: recompose(chain).weight), error(peer(), lambda m: m.weight.to_tensor())
    yield record("tucker2 resnet18 whole network", medians(ours, peer, seconds), errors, "tensorly-torch from_conv")


def totals(records: list[dict]) -> None:
    """Ratios of sums over the cases of one kind."""
    groups: dict[str, list[dict]] = {}
    for r in records:
        kind = " ".join(r["case"].split()[: 2 if r["case"].startswith(("singular_values", "whole_svd", "cp")) else 1])
        numbers = next((numbers for numbers in KERNELS if r["case"].endswith(numbers)), "whole")
        groups.setdefault(f"{kind}, {numbers}", []).append(r)
    print()
    for name, group in groups.items():
        ours, peer = (sum(r[side] for r in group) for side in ("ours", "peer"))
        worst = min(r["ratio"] for r in group)
        error = max(r["error_ours"] / r["error_peer"] if r["error_peer"] else 1.0 for r in group)
        print(f"{name:45} {len(group):3} cases: total {peer / ours:7.2f} x, lowest {worst:6.2f} x, error {error:.5f} x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--only", nargs="+", default=["channel_svd", "spatial_svd", "tucker2", "cp", "network"])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each side of a case is timed")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tensorly.set_backend("pytorch")
    warnings.simplefilter("ignore")
    parts = {
        "channel_svd": lambda: svd_cases(ChannelSVD(), arguments.networks, arguments.seconds),
        "spatial_svd": lambda: svd_cases(SpatialSVD(), arguments.networks, arguments.seconds),
        "tucker2": lambda: tucker_cases(arguments.networks, arguments.seconds),
        "cp": lambda: cp_cases(arguments.seconds),
        "network": lambda: whole_network(arguments.seconds),
    }
    found = [r for name in arguments.only for r in parts[name]()]
    totals(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
