"""ONNX: one file of operators that ONNX Runtime and many others execute."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.export.form import Format
from lowrank_exp.runtime.onnx_graph import to_onnx

LARGEST = 2**31 - 2**24  # bytes of weights: a file of protobuf holds 2 GiB, and the graph is in it too


class ONNX(Format):
    """An ONNX file, weights inside, executed by ONNX Runtime."""

    name = "onnx"
    suffix = ".onnx"
    runtime = "onnxruntime"

    def write(self, network: nn.Module, example: Tensor, metadata: Mapping[str, str], path: Path) -> None:
        import onnx

        size = sum(one.numel() * one.element_size() for one in (*network.parameters(), *network.buffers()))
        if size > LARGEST:
            raise ValueError(
                f"the network has {size:,} bytes of weights and one ONNX file holds {LARGEST:,}: export it by "
                'format="pt2" or "torchscript", or make it smaller first'
            )
        graph = onnx.load_from_string(to_onnx(network, example))
        onnx.helper.set_model_props(graph, dict(metadata))
        onnx.checker.check_model(graph)
        path.write_bytes(graph.SerializeToString())

    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (name,) = (one.name for one in session.get_inputs())

        def run(x: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: x.detach().cpu().numpy()})[0])

        return run

    def metadata(self, path: Path) -> dict[str, str]:
        return {entry.key: entry.value for entry in _graph(path).metadata_props}

    def inputs(self, path: Path) -> list[tuple[int | None, ...]]:
        graph = _graph(path).graph
        weights = {one.name for one in graph.initializer}
        shapes = [one.type.tensor_type.shape.dim for one in graph.input if one.name not in weights]
        return [tuple(dim.dim_value or None for dim in dims) for dims in shapes]

    def opset(self, path: Path) -> int | None:
        return next(one.version for one in _graph(path).opset_import if one.domain in ("", "ai.onnx"))


def _graph(path: Path) -> Any:
    import onnx

    return onnx.load(path, load_external_data=False)
