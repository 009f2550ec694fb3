"""OpenVINO's own files: the graph in `.xml`, the weights in `.bin` beside it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lowrank_exp.export.form import Format
from lowrank_exp.runtime.onnx_graph import to_onnx

PLACE = "lowrank_exp"  # of the texts in a file


class OpenVINO(Format):
    """OpenVINO's files, weights in float32, executed by it on the CPU in float32."""

    name = "openvino"
    suffix = ".xml"
    beside = (".bin",)
    extra = "openvino"
    runtime = "openvino"

    def write(self, network: nn.Module, example: Tensor, metadata: Mapping[str, str], path: Path) -> None:
        import openvino

        model = openvino.Core().read_model(to_onnx(network, example))
        for key, value in metadata.items():
            model.set_rt_info(value, [PLACE, key])
        openvino.save_model(model, path, compress_to_fp16=False)

    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        model = openvino.Core().compile_model(path, "CPU", settings)
        return lambda x: torch.from_numpy(model(x.detach().cpu().numpy())[0].copy())

    def metadata(self, path: Path) -> dict[str, str]:
        import openvino

        model = openvino.Core().read_model(path)
        if not model.has_rt_info([PLACE]):
            return {}
        return {key: value.astype(str) for key, value in model.get_rt_info([PLACE]).astype(dict).items()}

    def inputs(self, path: Path) -> list[tuple[int | None, ...]]:
        import openvino

        shapes = [one.partial_shape for one in openvino.Core().read_model(path).inputs]
        return [tuple(None if dim.is_dynamic else dim.get_length() for dim in shape) for shape in shapes]
