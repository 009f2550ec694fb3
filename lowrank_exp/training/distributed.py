"""A fit by several processes, one per device, that share out every batch: torch's DistributedDataParallel.

The main process starts the workers for the fit only, sends them what they need, hears of every epoch, takes over the
trained weights, and goes on alone. Each worker runs the fit as one process would, with Lightning's DDP strategy.

Why the workers are started here, and spawned:

1. Lightning's default launcher runs the command line again in every worker: each would go through the job's phases,
   and under a sweep through the sweep.
2. Its spawning launcher tells the main process nothing until the fit ends: loggers live there, and want every epoch.
3. Forked processes cannot use a GPU that the main process has used, nor threads of torch, which hang.

So a script that trains with more than one device needs `if __name__ == "__main__":`, and network, optimizer and
schedule must be such that `pickle` can send them. Images in memory are shared with the workers (through /dev/shm), not
copied.

Gradients, losses and hits are those of the whole batch, whatever the number of processes; batch norm is not: its
statistics in training are those of a process's own part, and the running ones are the first process's.
"""

import io
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.utils.data import DataLoader

from lowrank_exp.machine.allocator import freed_memory_is_kept, keep_freed_memory
from lowrank_exp.machine.cores import count_cores

IGNORED = -100  # the label that torch's cross-entropy leaves out
SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_END = 5.0  # for the other workers, after one has failed

Carry = Callable[..., Any]  # fit, network, training and validation loader, device, on_epoch


def places(where: torch.device, devices: int) -> list[str]:
    """The devices of a fit, from `where` on.

    Raises:
        ValueError: this machine has fewer devices of that kind.

    >>> places(torch.device("cpu"), 2)
    ['cpu', 'cpu']
    """
    most = max(2, count_cores())  # two can be tried anywhere
    if where.type == "cpu" and devices > most:
        raise ValueError(
            f"devices is {devices}, and on the {count_cores()} cores that this process may use at most {most} train"
        )
    if devices == 1 or where.type == "cpu":
        return [str(where)] * devices
    if where.type != "cuda":
        raise ValueError(f"devices is {devices}, but on {where} only one process trains: use CUDA GPUs or the CPU")
    last = torch.cuda.device_count() - 1
    if where.index + devices - 1 > last:
        raise ValueError(f"devices is {devices} from {where} on, but the last CUDA GPU of this machine is cuda:{last}")
    return [f"cuda:{where.index + rank}" for rank in range(devices)]


def check_shares(loader: DataLoader, name: str, devices: int) -> None:
    """Raise ValueError for a loader whose batches cannot be shared out."""
    if devices > 1 and not callable(getattr(getattr(loader, "sampler", None), "share_out", None)):
        raise ValueError(
            f"devices is {devices}, and {name} cannot share its batches out: give it a lowrank_exp.data.EpochBatches "
            "as sampler, as all loaders of lowrank_exp.data have it, or set devices=1"
        )


def lightning_options(devices: list[str], skips: bool = False) -> dict[str, Any]:
    """What a Trainer is told of the devices it runs on; `skips`: a backward pass may leave parameters out."""
    from pytorch_lightning.strategies import DDPStrategy

    kind = torch.device(devices[0]).type
    options = {
        "accelerator": {"cuda": "gpu"}.get(kind, kind),
        "devices": [torch.device(name).index for name in devices] if kind == "cuda" else len(devices),
    }
    return options | ({"strategy": DDPStrategy(find_unused_parameters=skips)} if len(devices) > 1 else {})


def total(tensor: Tensor, device: torch.device, processes: int) -> Tensor:
    """The sum over the processes of a fit, on the CPU."""
    if processes == 1:
        return tensor
    sums = tensor.to(device)
    dist.all_reduce(sums)
    return sums.cpu()


def gathered(value: Any, processes: int) -> list[Any]:
    """The value that each process of a fit has, in order."""
    if processes == 1:
        return [value]
    values = [None] * processes
    dist.all_gather_object(values, value)
    return values


def in_processes(
    carry_out: Carry,
    fit: Any,
    network: nn.Module,
    loaders: tuple[DataLoader, DataLoader | None],
    devices: list[str],
    on_epoch: Callable[[dict], None],
) -> dict[str, Tensor]:
    """Train in one worker per device; returns the trained network's state, on the CPU.

    Args:
        carry_out: runs the fit in a worker: called with fit, network, loaders (as `SharedLoader`), device and on_epoch.
        fit: what it needs beside network and images.
        network: is not changed.
        loaders: of training and validation images; whole batches, which are shared out here.
        devices: one per worker.
        on_epoch: called here with the metrics of every epoch as it ends; what it raises ends the fit.

    Raises:
        ValueError: something cannot be sent to the workers.
        RuntimeError: a worker was ended from outside.
        Whatever a worker raises.
    """
    sent = _sendable(carry_out, fit, network)
    heard = mp.get_context("spawn").SimpleQueue()
    threads = max(1, torch.get_num_threads() // len(devices))
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(len(devices)):  # a file for each, as what stands for a shared tensor can be used once
            (Path(folder) / f"loaders-{rank}").write_bytes(ForkingPickler.dumps(loaders))
        arguments = (devices, threads, freed_memory_is_kept(), folder, sent, heard)
        workers: Any = mp.start_processes(_work, arguments, nprocs=len(devices), join=False, start_method="spawn")
        try:
            ended = False
            while not ended:
                try:
                    ended = workers.join(SECONDS_BETWEEN_LOOKS, grace_period=SECONDS_TO_END)
                except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
                    _hear(heard, on_epoch)
                    raise RuntimeError(f"a worker of the fit ended: {error}") from error
                _hear(heard, on_epoch)
        finally:
            for process in workers.processes:
                process.kill()
                process.join()
        return torch.load(Path(folder) / "state.pt", weights_only=True)


class SharedLoader:
    """A worker's part of every batch: images, labels, and how many images the batch has in all workers.

    Images that are there only to fill a part up have the label `IGNORED`.
    """

    def __init__(self, loader: DataLoader, rank: int, ranks: int) -> None:
        loader.sampler.share_out(rank, ranks)
        self.loader = loader
        self.sampler = loader.sampler  # Lightning calls its set_epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        for (own, whole), (images, labels) in zip(self.sampler.shares, self.loader, strict=True):
            labels = labels.clone()
            labels[own:] = IGNORED
            yield images, labels, whole


def _sendable(carry_out: Carry, fit: Any, network: nn.Module) -> bytes:
    """Bytes, so that every worker has weights of its own: tensors that are sent as such lie in shared memory."""
    content = io.BytesIO()
    try:
        torch.save((carry_out, fit, network), content)
    except Exception as error:
        raise ValueError(
            f"with more than one device the fit is sent to worker processes, which failed: {error}. Network, optimizer "
            "and schedule must be made of classes and functions that stand at the top of a module; or set devices=1"
        ) from error
    return content.getvalue()


def _hear(heard: Any, on_epoch: Callable[[dict], None]) -> None:
    """Pass on what the workers have said."""
    while not heard.empty():
        said = heard.get()
        if isinstance(said, bytes):
            raise pickle.loads(said)
        on_epoch(said)


def _work(
    rank: int,
    devices: list[str],
    threads: int,
    kept: bool,
    folder: str,
    sent: bytes,
    heard: Any,
) -> None:
    """What a worker does."""
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()
    for name in ("SIGINT", "SIGHUP"):  # a terminal sends them to all processes; the main one ends the workers
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        where = torch.device(devices[rank])
        torch.set_num_threads(threads)
        if kept:
            keep_freed_memory()
        os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # where Lightning looks
        if where.type == "cuda":
            torch.cuda.set_device(where)
        dist.init_process_group(
            "nccl" if where.type == "cuda" else "gloo",
            init_method=f"file://{folder}/meeting",
            rank=rank,
            world_size=len(devices),
        )
        # Our own bytes of a moment ago, which hold code: the network's class, the optimizer's.
        carry_out, fit, network = torch.load(io.BytesIO(sent), map_location="cpu", weights_only=False)
        loaders = pickle.loads((Path(folder) / f"loaders-{rank}").read_bytes())
        shared = [None if loader is None else SharedLoader(loader, rank, len(devices)) for loader in loaders]
        carry_out(fit, network, *shared, where, heard.put if rank == 0 else None)
        if rank == 0:
            torch.save(network.state_dict(), Path(folder) / "state.pt")
        dist.destroy_process_group()
    except Exception as error:
        heard.put(_portable(error))
        raise


def _end_with_the_main_process() -> None:
    """However that one ends. torch sends workers an interrupt then, which those started in the background ignore."""
    if (main := multiprocessing.parent_process()) is not None:
        main.join()
    os._exit(1)


def _portable(error: Exception) -> bytes:
    """An exception that can be sent, or one that tells of it."""
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return content
