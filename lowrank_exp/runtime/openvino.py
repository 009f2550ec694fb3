"""OpenVINO on the processor, from the same ONNX model."""

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.runtime.base import Kernel, Prepared, Runtime, check_example, check_shape, faster_half, instruction_set
from lowrank_exp.runtime.onnx_graph import layer_to_onnx, to_onnx

TRUNCATED_MS = 0.5e-3  # what kernels lose on average, whose times OpenVINO cuts to whole microseconds


@dataclass(frozen=True, kw_only=True)
class OpenVino(Runtime):
    """OpenVINO's processor plugin with the hint for latency: one stream, in float32 also where bfloat16 is faster, so
    that outputs compare."""

    name: ClassVar[str] = "openvino"
    extra: ClassVar[str | None] = "openvino"

    def describe(self) -> dict[str, Any]:
        import openvino

        return {
            "name": self.name,
            "version": openvino.__version__.partition("-")[0],
            "threads": self.thread_count,
            "precision": "float32",
            "instruction_set": instruction_set(),
            "memory_format": "chosen by openvino",
            "winograd": "chosen by oneDNN",
            "provider": "CPU",
            "hint": "latency",
        }

    def prepare(self, network: nn.Module, example: Tensor) -> "PreparedOpenVino":
        return self.prepare_onnx(to_onnx(network, example), check_example(network, example))

    def prepare_for_timing(self, network: nn.Module, example: Tensor) -> "PreparedOpenVino":
        try:
            model = layer_to_onnx(network, example)  # OpenVINO folds batch norms by itself
        except ValueError:  # torch's older exporter does not know it
            return self.prepare(network, example)
        return self.prepare_onnx(model, check_example(network, example))

    def prepare_onnx(self, model: bytes | str, example: Tensor) -> "PreparedOpenVino":
        """An ONNX model of one input and one output, ready as `prepare` makes a network.

        Args:
            model: the content of a file, or its path, which may be that of OpenVINO's own format.
            example: `(N, ...)`, on the processor.

        Raises:
            ValueError: an example on a GPU, or a model that OpenVINO does not take.
        """
        if example.device.type != "cpu":
            raise ValueError(f"openvino computes on the processor here, the network lies on {example.device}: move it")
        compiled = self._compile(model, example)
        decided = {
            "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
            "pinned_threads": compiled.get_property("ENABLE_CPU_PINNING"),
            "batch_size": len(example),
        }
        return PreparedOpenVino(self, model, example.detach().contiguous(), compiled, self.describe() | decided)

    def _compile(self, model: bytes | str, example: Tensor, count: bool = False) -> Any:
        settings = {
            "INFERENCE_NUM_THREADS": self.thread_count,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "PERF_COUNT": count,
        }
        try:
            graph = _core().read_model(model)
            count_of = len(graph.inputs), len(graph.outputs)
            if count_of == (1, 1):
                graph.reshape(list(example.shape))
                return _core().compile_model(graph, "CPU", settings)
        except RuntimeError as error:
            raise ValueError(f"openvino does not take the model: {' '.join(str(error).split())[-300:]}") from error
        raise ValueError(f"the model has {count_of[0]} inputs and {count_of[1]} outputs; one of each can be timed")


@dataclass(frozen=True, eq=False)
class PreparedOpenVino(Prepared):
    """A compiled model and a request whose input is the example."""

    runtime: OpenVino
    model: bytes | str
    example: Tensor
    compiled: Any
    conditions: dict[str, Any]
    request: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "request", _request(self.compiled, self.example))

    def __call__(self, x: Tensor) -> Tensor:
        request = _request(self.compiled, check_shape(x, self.example, "openvino").contiguous())
        request.infer()
        return torch.from_numpy(request.get_output_tensor().data.copy())

    def run(self) -> None:
        self.request.infer()

    def kernel_times(self, passes: int) -> list[Kernel]:
        request = _request(self.runtime._compile(self.model, self.example, count=True), self.example)
        request.infer()
        times: dict[str, list[float]] = {}
        for _ in range(passes):
            request.infer()
            ran = [node for node in request.profiling_info if node.status.name == "EXECUTED"]
            for node in ran:
                times.setdefault(node.node_name, []).append(node.real_time.total_seconds() * 1e3)
        return [
            Kernel(node.node_name, node.node_type, faster_half(times[node.node_name]) + TRUNCATED_MS, node.exec_type)
            for node in ran
        ]


@functools.cache
def _core() -> Any:
    """OpenVINO itself, with its plugins loaded."""
    import openvino

    return openvino.Core()


def _request(compiled: Any, x: Tensor) -> Any:
    """A request for one pass on `x`, whose memory it reads."""
    import openvino

    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(x.numpy(), shared_memory=True))
    return request
