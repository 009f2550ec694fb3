"""How long a training step in SVD form takes, beside the dense step and beside SVD form written down plainly.

    python benchmarks/svd_training.py --json svd_training.json
    python benchmarks/svd_training.py --only resnet18 --batch 32 --repeats 5

A step is forward, backward and SGD with momentum, of a batch of 32 x 32 images in channels-last memory, with both
penalties on every layer in SVD form: orthogonality of U and V, Hoyer on s. The sides take turns, step by step, in one
process; medians. The plain form multiplies `U @ diag(s) @ V` out for every layer and leaves its gradients and those of
the penalties to autograd, as a published blog post does. Each case is split into convolution (with all that is
neither of the others), materialisation of the weights with its backward pass, penalties, and optimizer; memory is the
growth of the resident set at its peak, each side in a process of its own, against the dense one's.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lowrank_exp.decomposition import ChannelSVD, LinearSVD, SpatialSVD, SVDDecomposition
from lowrank_exp.models import cifar_resnet, resnet
from lowrank_exp.regularizers import Hoyer, Orthogonality
from lowrank_exp.svd_form import SVDForm, forms_of, to_svd_

NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet18": resnet, "resnet20": cifar_resnet}
RANKS = {"full": 1.0, "half": 0.5, "a quarter": 0.25}
WEIGHT = 0.1  # of either penalty
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Case(NamedTuple):
    """One line of the table."""

    network: str
    decomposition: str
    rank: str
    bf16: bool = False
    goal: float | None = None  # of the dense step

    @property
    def name(self) -> str:
        """How the records call it."""
        return f"svd_training {self.network} {self.decomposition} {self.rank}{' bf16' if self.bf16 else ''}"


CASES = [
    Case("resnet18", "channel_svd", "full", goal=1.15),
    Case("resnet18", "channel_svd", "half", goal=0.70),
    Case("resnet18", "channel_svd", "a quarter", goal=0.45),
    Case("resnet18", "spatial_svd", "full", goal=1.7),
    Case("resnet18", "spatial_svd", "half", goal=1.3),
    Case("resnet18", "spatial_svd", "a quarter", goal=0.77),
    Case("resnet18", "channel_svd", "full", bf16=True, goal=0.70),
    Case("resnet20", "channel_svd", "full", goal=1.2),
    Case("resnet20", "spatial_svd", "full", goal=1.2),
]


class PlainForm(nn.Module):
    """A layer as `U @ diag(s) @ V`, all of it left to autograd."""

    def __init__(self, layer: nn.Module, kind: SVDDecomposition, rank: int) -> None:
        super().__init__()
        svd = kind.svd(layer, rank)
        self.U, self.s, self.V = (nn.Parameter(factor[0].clone()) for factor in svd)
        self.layer, self.spatial = [layer], isinstance(kind, SpatialSVD)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer[0]
        weight = self.U @ torch.diag(self.s) @ self.V
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight.t(), self.bias)
        O, I, H, W = layer.weight.shape
        weight = weight.view(I, H, W, O).permute(3, 0, 1, 2) if self.spatial else weight.t().reshape(O, I, H, W)
        return F.conv2d(x, weight, self.bias, layer.stride, layer.padding)


class Side:
    """A network, its optimizer and its step."""

    def __init__(self, case: Case, form: str, images: Tensor, labels: Tensor, clock: Callable[[], float]) -> None:
        torch.manual_seed(0)
        self.network = NETWORKS[case.network]().to(memory_format=torch.channels_last)
        kind = {"channel_svd": ChannelSVD, "spatial_svd": SpatialSVD}[case.decomposition]()
        if form == "ours":
            to_svd_(self.network, kind, rank=RANKS[case.rank])
        elif form == "plain":
            for name, layer in list(self.network.named_modules()):
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    one = LinearSVD() if isinstance(layer, nn.Linear) else kind
                    rank = max(1, round(RANKS[case.rank] * one.full_rank(layer)))
                    self.network.set_submodule(name, PlainForm(layer, one, rank))
        self.form, self.bf16, self.images, self.labels, self.clock = form, case.bf16, images, labels, clock
        if form == "dense":
            self.bf16 = False  # the dense step in float32 is what every case is measured against
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
        self.steps: list[dict[str, float]] = []

    def step(self) -> None:
        """One step of the training, its time and that of its parts kept."""
        began = self.clock()
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = F.cross_entropy(self.network(self.images).float(), self.labels)
        if self.form == "plain":
            loss = loss + WEIGHT * penalties_of(self.network)
        loss.backward()
        propagated = self.clock()
        if self.form == "ours":
            for penalty in (Orthogonality(), Hoyer()):
                penalty.apply_(self.network, WEIGHT)
        penalized = self.clock()
        self.optimizer.step()
        ended = self.clock()
        self.steps.append({"whole": ended - began, "penalties": penalized - propagated, "optimizer": ended - penalized})

    def median(self, part: str) -> float:
        """Seconds."""
        return statistics.median(step[part] for step in self.steps)


def penalties_of(network: nn.Module) -> Tensor:
    """Both penalties, unweighted, for autograd."""
    total = torch.zeros(())
    for form in network.modules():
        if isinstance(form, PlainForm):
            eye, R = torch.eye(len(form.s)), len(form.s)
            both = (form.U.t() @ form.U - eye).square().sum() + (form.V @ form.V.t() - eye).square().sum()
            total = total + both / R**2 + form.s.abs().sum() / form.s.norm()
    return total


def materialisation(side: Side, repeats: int) -> float:
    """Seconds of multiplying the weights out and of the backward pass through that, of the layers that do so."""
    shapes: dict[SVDForm, tuple[int, ...]] = {}
    forms = forms_of(side.network).values()
    hooks = [f.register_forward_pre_hook(lambda form, x: shapes.update({form: tuple(x[0].shape)})) for f in forms]
    with torch.no_grad():
        side.network(side.images)
    for hook in hooks:
        hook.remove()
    multiplied = [form for form, shape in shapes.items() if not form._cheaper[shape]]
    slopes = [torch.ones_like(form._product()) for form in multiplied]
    taken = []
    for _ in range(repeats + 1):
        side.optimizer.zero_grad()
        began = side.clock()
        with torch.autocast("cpu", torch.bfloat16, enabled=side.bf16):
            products = [form._product() for form in multiplied]
        if products:
            torch.autograd.backward(products, slopes)
        taken.append(side.clock() - began)
    return statistics.median(taken[1:])


def data(batch: int) -> tuple[Tensor, Tensor]:
    """Images and labels of no meaning."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(10, (batch,), generator=generator)


def peak_memory(case: Case, form: str, batch: int, threads: int) -> int:
    """Growth of the resident set in bytes over three steps, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grown, (case, form, batch, threads))


def _grown(case: Case, form: str, batch: int, threads: int) -> int:
    torch.set_num_threads(threads)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    side = Side(case, form, *data(batch), time.perf_counter)
    for _ in range(3):
        side.step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def measured(case: Case, batch: int, repeats: int, clock: Callable[[], float], memory: bool) -> list[dict]:
    """The records of one case: beside the dense step, and beside the plain form."""
    sides = {form: Side(case, form, *data(batch), clock) for form in ("dense", "ours", "plain")}
    error = None
    if case.rank == "full" and not case.bf16:
        with torch.no_grad():
            ours, dense = (sides[form].network.eval()(sides[form].images) for form in ("ours", "dense"))
        error = float((ours - dense).norm() / dense.norm())
        error = 0.0 if error < 1e-6 else error
    for side in sides.values():
        side.network.train()
        side.step()  # warm
        side.steps.clear()
    for _ in range(repeats):
        for side in sides.values():
            side.step()
    dense, ours, plain = (side.median("whole") for side in sides.values())
    parts = {part: sides["ours"].median(part) for part in ("penalties", "optimizer")}
    parts["materialisation"] = materialisation(sides["ours"], repeats)
    parts["convolution"] = ours - sum(parts.values())
    threads = torch.get_num_threads()
    figures = {"ours": ours, "error_ours": error, "error_peer": None, "threads": threads, "batch": batch}
    records = [
        {"case": case.name, "peer": dense, "peer_name": "dense step", "ratio": dense / ours} | figures,
        {"case": f"{case.name}, plain form", "peer": plain, "peer_name": "plain form", "ratio": plain / ours} | figures,
    ]
    records[0] |= {"share": ours / dense, "goal": case.goal, "split": {n: t / dense for n, t in parts.items()}}
    told = ", ".join(f"{name} {share:.2f}" for name, share in records[0]["split"].items())
    print(f"{case.name:45} dense {dense * 1e3:7.0f} ms, ours {ours / dense:.2f} (goal {case.goal}), ", end="")
    print(f"plain form {plain / dense:.2f}; of the dense step: {told}", flush=True)
    if memory:
        grown = {form: peak_memory(case, form, batch, threads) for form in ("dense", "ours")}
        records[0]["memory"] = grown["ours"] / grown["dense"]
        print(f"{'':45} peak memory {records[0]['memory']:.2f} x dense", flush=True)
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose name has one of these words")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10, help="steps of every side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others use the machine too")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = [case for case in CASES if any(word in case.name for word in arguments.only)]
    found = [
        record
        for case in chosen
        for record in measured(
            case, arguments.batch, arguments.repeats, CLOCKS[arguments.clock], not arguments.no_memory
        )
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
