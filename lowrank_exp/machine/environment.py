"""Where numbers were made: versions, device, threads, commit, machine; and the content of networks that decide them."""

import datetime
import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowrank_exp.machine.allocator import freed_memory_is_kept
from lowrank_exp.machine.cores import machine

PACKAGES = ("lowrank_exp", "torch", "torchvision", "pytorch_lightning", "hydra-core", "numpy", "scikit-learn")


def describe_environment(device: str) -> dict[str, Any]:
    """Versions, device, threads, commit, machine and date of a result."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": current_commit(),
        "freed_memory_kept": freed_memory_is_kept(),
    } | describe_conditions(device)


def describe_conditions(device: str) -> dict[str, Any]:
    """What the last bits of numbers depend on beside what was asked for: versions, machine, device, threads."""
    versions = {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES}
    return {"versions": versions} | latency_conditions(device)


def latency_conditions(device: str) -> dict[str, Any]:
    """What a time depends on beside the network: machine, device, threads."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") and torch.cuda.is_available() else device
    return {
        "machine": machine(),
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@functools.cache
def current_commit() -> str | None:
    """The commit of a checkout that the package runs from, with `+` where files differ from it; None in a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        git = functools.partial(subprocess.run, cwd=root, capture_output=True, text=True, check=True, timeout=10)
        head = git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+" if changed else head


def tensors_digest(network: nn.Module) -> str:
    """SHA-256 of the names, shapes, types and numbers of a network's parameters and buffers."""
    content = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()
