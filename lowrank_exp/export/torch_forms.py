"""The files of torch: programs of torch.export, and TorchScript."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from lowrank_exp.export.form import Format
from lowrank_exp.runtime.onnx_graph import quiet_exporter

TEXTS = "lowrank_exp.json"  # the name of the texts within a file


class PT2(Format):
    """A program of `torch.export`, to be compiled or called."""

    name = "pt2"
    suffix = ".pt2"

    def write(self, network: nn.Module, example: Tensor, metadata: Mapping[str, str], path: Path) -> None:
        shapes = ({0: torch.export.Dim("batch")},)
        with quiet_exporter():
            program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
            torch.export.save(program, path, extra_files={TEXTS: json.dumps(dict(metadata))})

    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        return torch.export.load(path).module()

    def metadata(self, path: Path) -> dict[str, str]:
        texts = {TEXTS: ""}
        torch.export.load(path, extra_files=texts)
        return json.loads(texts[TEXTS] or "{}")


class TorchScript(Format):
    """A frozen trace in TorchScript."""

    name = "torchscript"
    suffix = ".ts"

    def write(self, network: nn.Module, example: Tensor, metadata: Mapping[str, str], path: Path) -> None:
        with _former_ways():
            script = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False))
            torch.jit.save(script, path, _extra_files={TEXTS: json.dumps(dict(metadata))})

    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        with _former_ways():
            return torch.jit.load(path, map_location="cpu")

    def metadata(self, path: Path) -> dict[str, str]:
        texts = {TEXTS: ""}
        with _former_ways():
            torch.jit.load(path, map_location="cpu", _extra_files=texts)
        return json.loads(texts[TEXTS] or "{}")


@contextmanager
def _former_ways() -> Iterator[None]:
    """torch says at every step that TorchScript has a successor, and of what a trace takes as constant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*torch.jit", DeprecationWarning)
        warnings.filterwarnings("ignore", "(?s).*torch.jit", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield
