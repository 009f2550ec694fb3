"""How fast ranks are chosen, beside plain implementations of the same.

    python benchmarks/ranks.py --json ranks.json
    python benchmarks/ranks.py --only evbmf --networks resnet18

Both sides in one process, warm, medians of repeats, in turn; the whole call of `allocate` on our side. `--enc` is a
folder with the files that ENC's authors measured of VGG-16 (`profiles_from_enc`). Peers: plain NumPy and SciPy
transcriptions of the papers; the reference form of EVBMF, with its full SVD (one repeat: it takes minutes); for scores
the bare loop of forward passes over networks that are factorized already, a floor; for the knapsack HiGHS too
(`scipy.optimize.milp`), stopped after 20 seconds, one repeat. Errors: what the quality of the ranks lacks of the best
of both sides, relatively; of scores the largest difference. EVBMF ranks must be equal.
"""

import argparse
import copy
import functools
import itertools
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.optimize import Bounds, LinearConstraint, milp, minimize_scalar
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from lowrank_exp import allocate, factorize_, profile
from lowrank_exp.models import cifar_resnet, vgg
from lowrank_exp.rank import LayerProfile, Plan, evbmf_rank, network_quality, profiles_from_enc
from lowrank_exp.rank.knapsack.multiple_choice import Solution
from lowrank_exp.rank.policies import knapsack
from lowrank_exp.training import NetworkScore

ENC = Path(__file__).parents[1] / "tests" / "support" / "enc_vgg16"
NOISE = 0.5  # norm of the noise beside that of the planted kernel
IMAGES, BATCH, RANK_SETS = 1000, 250, 20
HIGHS_SECONDS = 20.0  # after which it is stopped, proof or not
DECOMPOSITIONS = {"spatial_svd": "spatial_svd", "joined": ["spatial_svd", "channel_svd", "tucker2"]}
Profiles = Mapping[str, LayerProfile]


def timed(call: Callable) -> tuple[float, object]:
    """Seconds, and what the call returned."""
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def medians(ours: Callable, peer: Callable, repeats: int) -> tuple[float, float]:
    """Median seconds of both sides, called in turn after one warm-up each."""
    pairs = [(timed(ours)[0], timed(peer)[0]) for _ in range(repeats + 1)][1:]
    return tuple(statistics.median(of) for of in zip(*pairs, strict=True))


def record(
    case: str, seconds: tuple[float, float], peer_name: str, errors: tuple[float, float] | None = None, note: str = ""
) -> dict:
    """One line of the table; errors below 1e-6 count as 0."""
    ours, peer = seconds
    error_ours, error_peer = (None, None) if errors is None else (0.0 if e < 1e-6 else e for e in errors)
    print(f"{case:52} {ours * 1e3:9.1f} ms {peer * 1e3:11.1f} ms {peer / ours:8.2f} x  {note}", flush=True)
    figures = {"ours": ours, "peer": peer, "peer_name": peer_name, "ratio": peer / ours}
    figures |= {"error_ours": error_ours, "error_peer": error_peer, "threads": torch.get_num_threads()}
    return {"case": case} | figures


def lacking(ours: float, peer: float) -> tuple[float, float]:
    """What two qualities lack of the higher one, relatively."""
    best = max(ours, peer)
    return (best - ours) / abs(best), (best - peer) / abs(best)


# ENC


def plain_enc_map(layers: Profiles, C_t: float, metric: str) -> list[int]:
    """ENC-Map rank by rank, with half of the first layer's r_max: the recipe of the authors' two programs."""
    C_orig, measured = sum(layer.macs for layer in layers.values()), metric == "measured"
    first, *others = layers.values()
    half = math.floor(first.r_max / 2 + 0.5)
    C_t -= first.rank_macs[0] * (half if measured else first.r_max / 2) / C_orig
    curves = []
    for layer in others:
        sampled_N, S_R = np.array(layer.sampled_ranks), np.cumsum(layer.singular_values[0])
        y_N = layer.sampled_accuracy if measured else (S_R[sampled_N - 1] - S_R[0]) / (S_R[-1] - S_R[0])
        y_N, r_N = np.append(0, y_N), np.append(0, sampled_N / layer.r_max)
        before_N = np.append(-1, np.maximum.accumulate(y_N)[:-1])
        rising_N = (y_N > before_N) & (before_N < 1)
        curves.append(PchipInterpolator(y_N[rising_N], r_N[rising_N]))

    def ranks(alpha: float) -> list[int]:
        wished = [float(curve(alpha)) * layer.r_max for curve, layer in zip(curves, others, strict=True)]
        return [math.floor(r + 0.5) if measured else round(r) for r in wished]

    def cost(R: list[int]) -> float:
        return sum(int(layer.rank_macs[0]) * r for layer, r in zip(others, R, strict=True)) / C_orig

    alpha_N = np.append(0, np.arange(10, 101) / 100)
    C_N, place_N = np.unique([0, *(cost(ranks(alpha)) for alpha in alpha_N[1:])], return_index=True)
    inverse, delta = PchipInterpolator(C_N, alpha_N[place_N]), 0.0
    for _ in range(501):
        R = ranks(min(1.0, float(inverse(C_t + delta))))
        delta += 0.001 if cost(R) <= C_t else -0.001
        if not measured and abs(cost(R) - C_t) < 0.001:
            break
    return [half, *(max(min(r, layer.r_max), round(layer.r_max / 10)) for r, layer in zip(R, others, strict=True))]


def plain_enc_model(layers: Profiles, C_t: float, density: float) -> list[int]:
    """The highest A_c of ENC-Model's lattice: every sum of offsets of every group beside all others, in one array."""
    c_L = np.array([layer.rank_macs[0] for layer in layers.values()]) / sum(one.macs for one in layers.values())
    high_L, low_L = (np.array(plain_enc_map(layers, C_t + space, "measured")) for space in (0.1, -0.1))
    delta = c_L @ high_L - C_t
    x_max_L = np.minimum(high_L - low_L, np.floor(delta / c_L + 0.5)).astype(int)
    t0_L = np.array([max(1, round(layer.r_max / 100)) for layer in layers.values()])
    t_L = np.clip(np.round(t0_L * np.mean(1 / t0_L) / density), 1, np.maximum(x_max_L, 1)).astype(int)
    y_p, y_m = [], []
    for layer in layers.values():
        S_R = np.cumsum(layer.singular_values[0])
        y_p.append((S_R - S_R[0]) / (S_R[-1] - S_R[0]))
        sampled_N = np.append(0, layer.sampled_ranks) / layer.r_max
        curve = PchipInterpolator(sampled_N, np.append(0, layer.sampled_accuracy))
        y_m.append(curve(np.arange(1, layer.r_max + 1) / layer.r_max))

    members, costs, A_p, A_m = [], [], [], []
    for c, places in itertools.groupby(range(len(c_L)), c_L.__getitem__):
        group = list(places)
        x_KN = np.stack([x.ravel() for x in np.meshgrid(*(np.arange(0, x_max_L[l] + 1, t_L[l]) for l in group))])
        R_KN, sum_N = high_L[group][:, None] - x_KN, x_KN.sum(0)
        y_p_N, y_m_N = (np.prod([y[l][R - 1] for l, R in zip(group, R_KN, strict=True)], axis=0) for y in (y_p, y_m))
        order_N = np.lexsort((-(y_m_N + c * R_KN.sum(0) * y_p_N), sum_N))
        best_N = order_N[np.append(True, np.diff(sum_N[order_N]) > 0)]
        best_N = best_N[sum_N[best_N] % t_L[group].min() == 0]
        members.append(R_KN[:, best_N])
        costs.append(c * R_KN[:, best_N].sum(0))
        A_p.append(y_p_N[best_N])
        A_m.append(y_m_N[best_N])
    C_N = functools.reduce(lambda a, b: np.add.outer(a, b).ravel(), costs)
    A_p_N, A_m_N = (functools.reduce(lambda a, b: np.multiply.outer(a, b).ravel(), of) for of in (A_p, A_m))
    A_c_N = np.where(abs(C_N - C_t) < 0.005 * delta, A_m_N + C_N * A_p_N, -np.inf)
    chosen = np.unravel_index(int(A_c_N.argmax()), [len(cost) for cost in costs])
    return np.concatenate([R_KN[:, at] for R_KN, at in zip(members, chosen, strict=True)]).tolist()


def enc_cases(folder: Path, repeats: int) -> Iterator[dict]:
    """ENC-Map and ENC-Model of VGG-16, the first layer at half of its r_max as in the paper."""
    layers = profiles_from_enc(folder)

    def compared(case: str, ours: Callable, peer: Callable, metric: str, note: str) -> dict:
        found = ours().ranks, dict(zip(layers, peer(), strict=True))
        errors = lacking(*(getattr(network_quality(layers, ranks), metric) for ranks in found))
        assert found[0] == found[1], found
        return record(case, medians(ours, peer, repeats), "plain NumPy and SciPy", errors, note)

    for metric, A in (("energy", "A_p"), ("measured", "A_m")):
        ours = functools.partial(allocate, layers, "enc_map", macs=0.252, metric=metric, first="half")
        peer = functools.partial(plain_enc_map, layers, 0.252, metric)
        yield compared(f"enc_map vgg16 {metric} macs=0.252", ours, peer, A, "bar 50 ms; published 5 s")
    for macs, density in ((0.251, 0.096), (0.252, 0.125)):
        ours = functools.partial(allocate, layers, "enc_model", macs=macs, density=density, first="half")
        peer = functools.partial(plain_enc_model, layers, macs, density)
        case = f"enc_model vgg16 macs={macs} density={density}"
        yield compared(case, ours, peer, "A_c", "bar 2 s; published 3 minutes")


# Knapsack


def plain_knapsack(layers: Profiles, macs: float) -> float:
    """The least total error, by a table over the budget in units of the costs' common divisor, and its options."""
    costs, errors = [], []
    for layer in layers.values():
        cheaper_R = layer.rank_macs < layer.macs if layer.dense_option else np.ones(layer.rungs, dtype=bool)
        dense = [layer.macs] * layer.dense_option
        costs.append(np.append(layer.rank_macs[cheaper_R], dense).astype(np.int64))
        errors.append(np.append(layer.error[cheaper_R], np.zeros(len(dense))))
    unit = int(np.gcd.reduce(np.concatenate(costs)))
    table, trail = np.zeros(math.floor(macs * sum(layer.macs for layer in layers.values())) // unit + 1), []
    for cost_O, error_O in zip(costs, errors, strict=True):
        best, chosen = np.full(len(table), np.inf), np.zeros(len(table), dtype=np.int16)
        for option, (cost, error) in enumerate(zip((cost_O // unit).tolist(), error_O.tolist(), strict=True)):
            if cost < len(table):
                tried = table[: len(table) - cost] + error
                better = tried < best[cost:]
                best[cost:][better], chosen[cost:][better] = tried[better], option
        table = best
        trail.append(chosen)
    place, total = int(table.argmin()), 0.0
    for chosen, cost_O, error_O in zip(trail[::-1], costs[::-1], errors[::-1], strict=True):
        option = chosen[place]
        total, place = total + error_O[option], place - int(cost_O[option]) // unit
    return total


def knapsack_cases(folder: Path, repeats: int) -> Iterator[dict]:
    """The exact knapsack by squared errors: VGG-16 as ENC measured it, ResNet-56 with random weights."""
    torch.manual_seed(0)
    resnet56 = profile(cifar_resnet(depth=56), torch.zeros(1, 3, 32, 32), "spatial_svd")
    convolutions = {name: layer for name, layer in resnet56.items() if layer.kind == "conv"}
    cases = (("vgg16", profiles_from_enc(folder), 0.25, "bar 100 ms"), ("resnet56", convolutions, 0.5, "bar 500 ms"))
    for name, layers, macs, note in cases:
        ours = functools.partial(allocate, layers, "knapsack", macs=macs)
        peer = functools.partial(plain_knapsack, layers, macs)
        total = sum(0.0 if r is None else float(layers[n].error[r - 1]) for n, r in ours().ranks.items())
        seconds = medians(ours, peer, repeats)
        yield record(
            f"knapsack {name} macs={macs}", seconds, "plain NumPy dynamic programme", lacking(-total, -peer()), note
        )


def solve_by_highs(costs: list, values: list, limits: list[int], *, limit_seconds: float) -> Solution | None:
    """As `solve`, by an integer programme with a variable for every option; stopped after `HIGHS_SECONDS`."""
    sizes = [len(values_O) for values_O in values]
    layer_N = np.repeat(np.arange(len(sizes)), sizes)
    one_each = csr_array((np.ones(len(layer_N)), (layer_N, np.arange(len(layer_N)))))
    programme = milp(
        -np.concatenate(values),
        constraints=[
            LinearConstraint((np.concatenate(costs) / np.array(limits)).T, -np.inf, 1),
            LinearConstraint(one_each, 1, 1),
        ],
        integrality=np.ones(len(layer_N)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0, "time_limit": HIGHS_SECONDS},
    )
    if programme.x is None:
        return None
    options = tuple(int(of_layer.argmax()) for of_layer in np.split(programme.x, np.cumsum(sizes)[:-1]))
    value = math.fsum(of_layer[o] for of_layer, o in zip(values, options, strict=True))
    return Solution(options, value, -programme.mip_dual_bound, programme.status == 0)


def total_error(layers: Profiles, plan: Plan) -> float:
    """The sum over layers of the relative squared error of the weight."""
    total = 0.0
    for name, planned in plan.layers.items():
        for one in layers[name].alternatives:
            if planned.rank is not None and (one.decomposition, one.options) == (
                planned.decomposition,
                planned.options,
            ):
                total += float(one.error[one.ranks.index(planned.rank)])
    return total


def highs_cases() -> Iterator[dict]:
    """The same policy with HiGHS in the place of the exact knapsack, at one and two budgets; random weights."""
    torch.manual_seed(0)
    networks = {"resnet56": cifar_resnet(depth=56), "vgg16": vgg(depth=16)}
    for (name, network), (by, decomposition) in itertools.product(networks.items(), DECOMPOSITIONS.items()):
        layers = profile(network, torch.zeros(1, 3, 32, 32), decomposition)
        for budget in ({"macs": 0.5}, {"macs": 0.25}, {"macs": 0.5, "weights": 0.5}):
            seconds, plan = timed(functools.partial(allocate, layers, "knapsack", **budget))
            with mock.patch.object(knapsack, "solve", solve_by_highs):
                peer_seconds, peer_plan = timed(functools.partial(allocate, layers, "knapsack", **budget))
            errors = lacking(-total_error(layers, plan), -total_error(layers, peer_plan))
            bounds = " ".join(f"{what}={bound}" for what, bound in budget.items())
            note = "the same plan" if plan.ranks == peer_plan.ranks else "another plan"
            yield record(f"knapsack {name} {by} {bounds}", (seconds, peer_seconds), "HiGHS", errors, note)


# EVBMF


def planted(shape: tuple[int, ...], seed: int) -> Tensor:
    """A kernel of a quarter of the full ranks, and noise, as large as weights are at the start of training."""
    O, I = shape[:2]
    generator = torch.Generator().manual_seed(seed)
    Q, R = math.ceil(O / 4), math.ceil(I / 4)
    U_OQ, V_IR = torch.randn(O, Q, generator=generator), torch.randn(I, R, generator=generator)
    signal = torch.einsum("oq,qrhw,ir->oihw", U_OQ, torch.randn(Q, R, *shape[2:], generator=generator), V_IR)
    noise = torch.randn(shape, generator=generator)
    return (signal / signal.norm() + NOISE * noise / noise.norm()) * math.sqrt(2 * I)


def reference_rank(matrix: Tensor) -> int:
    """The reference form: all of U and V, and a bounded search over the formulas as printed."""
    Y = matrix.double().numpy()
    Y = Y if Y.shape[0] <= Y.shape[1] else Y.T
    L, M = Y.shape
    alpha = L / M
    tau_bar = 2.5129 * np.sqrt(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)
    s = np.linalg.svd(Y)[1]

    def omega(sigma2: float) -> float:
        x = s**2 / (M * sigma2)
        kept, noise = x[x > x_bar], x[x <= x_bar]
        tau = (kept - (1 + alpha) + np.sqrt((kept - (1 + alpha)) ** 2 - 4 * alpha)) / 2
        signal = np.sum(kept - tau + np.log((tau + 1) / kept)) + alpha * np.sum(np.log(tau / alpha + 1))
        return np.sum(noise - np.log(noise)) + signal

    H_bar = math.ceil(L / (1 + alpha)) - 1
    bounds = max(s[H_bar] ** 2 / (M * x_bar), np.mean(s[H_bar:] ** 2) / M), np.sum(s**2) / (L * M)
    sigma2 = minimize_scalar(omega, bounds=bounds, method="bounded").x
    return int(np.sum(s > np.sqrt(M * sigma2 * x_bar)))


def evbmf_cases(networks: tuple[str, ...], repeats: int) -> Iterator[dict]:
    """EVBMF ranks of both unfoldings of all convolutions; layers of the same shape are measured once."""
    import torchvision

    for network in networks:
        with torch.device("meta"):
            model = getattr(torchvision.models, network)(weights=None)
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d):
                shapes.setdefault(tuple(layer.weight.shape), []).append(name)
        totals = np.zeros(2)
        for seed, (shape, names) in enumerate(shapes.items()):
            kernel = planted(shape, seed)
            for mode, matrix in (("in", kernel.transpose(0, 1).flatten(1)), ("out", kernel.flatten(1))):
                ours = functools.partial(evbmf_rank, matrix, "reference")
                runs = [timed(ours) for _ in range(repeats + 1)][1:]
                peer_seconds, peer_found = timed(functools.partial(reference_rank, matrix))
                assert runs[0][1] == peer_found > 0, (names[0], mode, runs[0][1], peer_found)
                seconds = statistics.median(taken for taken, _ in runs), peer_seconds
                totals += len(names) * np.array(seconds)
                case, note = f"evbmf {network} {names[0]} {mode}", f"rank {peer_found}, {len(names)} such layers"
                yield record(case, seconds, "full SVD and bounded search", note=note)
        case = f"evbmf {network} all unfoldings"
        yield record(case, tuple(totals.tolist()), "full SVD and bounded search", note="bar 50 x")


# Scores


def score_cases(repeats: int) -> Iterator[dict]:
    """Seconds per score of ResNet-20 at the rank sets of ENC-Inf, and with single layers cut, as greedy_eval asks."""
    torch.manual_seed(0)
    model = cifar_resnet(depth=20).eval()
    layers = profile(model, torch.zeros(1, 3, 32, 32), "spatial_svd")
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.randn(IMAGES, 3, 32, 32, generator=draw), torch.randint(0, 10, (IMAGES,), generator=draw)
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    asked: list[dict] = []

    def remember(ranks: Mapping) -> float:
        asked.append(dict(ranks))
        return 0.0

    allocate(layers, "enc_inf", macs=0.5, metric="A_p", candidates=RANK_SETS, score=remember)
    single = [{name: layers[name].r_max // 2} for name in list(layers)[1::2]]
    for case, rank_sets in (("enc_inf", asked), ("one layer", single)):
        networks = [factorize_(copy.deepcopy(model), ranks, "spatial_svd") for ranks in rank_sets]
        runs, errors = [], []
        for _ in range(repeats + 1):
            taken = np.zeros(2)
            taken[0], score = timed(functools.partial(NetworkScore, model, layers, batches))
            for ranks, network in zip(rank_sets, networks, strict=True):
                ours, found = timed(functools.partial(score, ranks))
                peer, wanted = timed(functools.partial(bare_accuracy, network, batches))
                taken += ours, peer
                errors.append(abs(found - wanted))
            runs.append(taken / len(rank_sets))
        seconds = tuple(np.median(runs[1:], axis=0).tolist())
        note = f"a score, of {len(rank_sets)}; bar 0.95 x"
        yield record(f"score resnet20 {case}", seconds, "bare forward passes", (max(errors), 0.0), note)


@torch.no_grad()
def bare_accuracy(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """The floor."""
    hits = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in batches)
    return hits / sum(len(labels) for _, labels in batches)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--only", nargs="+", default=["enc", "knapsack", "highs", "evbmf", "score"])
    parser.add_argument("--networks", nargs="+", default=["resnet18", "vgg16"], help="of EVBMF")
    parser.add_argument("--enc", type=Path, default=ENC, help="folder with the files of ENC's authors for VGG-16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    parts = {
        "enc": lambda: enc_cases(arguments.enc, arguments.repeats),
        "knapsack": lambda: knapsack_cases(arguments.enc, arguments.repeats),
        "highs": highs_cases,
        "evbmf": lambda: evbmf_cases(tuple(arguments.networks), arguments.repeats),
        "score": lambda: score_cases(arguments.repeats),
    }
    with threadpool_limits(arguments.threads):
        found = [r for name in arguments.only for r in parts[name]()]
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
