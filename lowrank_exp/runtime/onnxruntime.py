"""ONNX Runtime: the session that a network leaves the house for."""

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.runtime.base import Kernel, Prepared, Runtime, check_example, faster_half, instruction_set
from lowrank_exp.runtime.onnx_graph import layer_to_onnx, to_onnx

TRUNCATED_MS = 0.5e-3  # what kernels lose on average, whose times ONNX Runtime cuts to whole microseconds
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
PRECISIONS = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(Runtime):
    """ONNX Runtime with all of its graph's optimisations, one operation at a time.

    Args:
        execution_provider: one of `onnxruntime.get_available_providers()`, such as TensorrtExecutionProvider; None: the
            processor's for networks that lie there, CUDA's for those on a GPU.
    """

    execution_provider: str | None = None

    name: ClassVar[str] = "onnxruntime"

    def describe(self) -> dict[str, Any]:
        import onnxruntime

        return {
            "name": self.name,
            "version": onnxruntime.__version__,
            "threads": self.thread_count,
            "precision": "float32",
            "instruction_set": instruction_set(),
            "memory_format": "chosen by onnxruntime",
            "winograd": "off",
            "provider": self.execution_provider or CPU,
            "graph_optimization": "all",
            "spinning": True,
            "denormals_as_zero": False,
        }

    def prepare(self, network: nn.Module, example: Tensor) -> "PreparedOnnx":
        return self.prepare_onnx(to_onnx(network, example), check_example(network, example))

    def prepare_for_timing(self, network: nn.Module, example: Tensor) -> "PreparedOnnx":
        try:
            model = layer_to_onnx(network, example)  # ONNX Runtime folds batch norms by itself
        except ValueError:  # torch's older exporter does not know it
            return self.prepare(network, example)
        return self.prepare_onnx(model, check_example(network, example))

    def prepare_onnx(self, model: bytes | str, example: Tensor) -> "PreparedOnnx":
        """An ONNX model of one input and one output, ready as `prepare` makes a network.

        Args:
            model: the content of a file, or its path.
            example: `(N, ...)`, on the GPU for a provider of one.

        Raises:
            ValueError: a provider that ONNX Runtime does not have here, or a model that it does not take.
        """
        session = self._session(model, example)
        kind = session.get_inputs()[0].type
        decided = {
            "provider": session.get_providers()[0],
            "precision": PRECISIONS.get(kind, kind),
            "batch_size": len(example),
        } | ({"winograd": "chosen by cuDNN"} if example.is_cuda else {})
        return PreparedOnnx(self, model, example.detach().contiguous(), session, self.describe() | decided)

    def _session(self, model: bytes | str, example: Tensor, profile: Path | None = None) -> Any:
        import onnxruntime

        provider = self.execution_provider or (CUDA if example.is_cuda else CPU)
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise ValueError(
                f"onnxruntime {onnxruntime.__version__} has no {provider} here, only {', '.join(available)}: move the "
                "network to the processor, or install onnxruntime-gpu"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.thread_count
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.set_denormal_as_zero", "0")
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile / "passes")
        place = {"device_id": example.device.index or 0} if example.is_cuda else {}
        others = {CUDA: place, CPU: {}} if example.is_cuda and CUDA in available else {CPU: {}}
        providers = {provider: {} if provider == CPU else place} | others  # the others take what it leaves
        try:
            session = onnxruntime.InferenceSession(model, options, providers=list(providers.items()))
        except Exception as error:  # of onnxruntime's own kinds
            raise ValueError(
                f"onnxruntime does not take the model of {example.dtype} for {provider}: {error!s:.300}. "
                "Its processor's operations are made for float32: network.float() gives that"
            ) from error
        if session.get_providers()[0] != provider:
            raise ValueError(f"onnxruntime could not start {provider}: its libraries are missing or do not fit")
        if (count := (len(session.get_inputs()), len(session.get_outputs()))) != (1, 1):
            raise ValueError(f"the model has {count[0]} inputs and {count[1]} outputs; one of each can be timed")
        return session


@dataclass(frozen=True, eq=False)
class PreparedOnnx(Prepared):
    """A session whose input and output are bound for the example."""

    runtime: OnnxRuntime
    model: bytes | str
    example: Tensor
    session: Any
    conditions: dict[str, Any]
    binding: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "binding", _bound(self.session, self.example))

    def __call__(self, x: Tensor) -> Tensor:
        (given,), (output,) = self.session.get_inputs(), self.session.get_outputs()
        (got,) = self.session.run([output.name], {given.name: x.detach().to("cpu", self.example.dtype).numpy()})
        return torch.from_numpy(got).to(self.example.device)

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def kernel_times(self, passes: int) -> list[Kernel]:
        with tempfile.TemporaryDirectory() as folder:
            session = self.runtime._session(self.model, self.example, Path(folder))
            binding = _bound(session, self.example)
            for _ in range(passes + 1):
                session.run_with_iobinding(binding)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return _kernels(events, passes)


def _bound(session: Any, example: Tensor) -> Any:
    """The example and a place for the output, where the session computes; both stay there over passes."""
    import onnxruntime

    (given,), (output,) = session.get_inputs(), session.get_outputs()
    device, index = ("cuda", example.device.index or 0) if example.is_cuda else ("cpu", 0)
    binding = session.io_binding()
    x = onnxruntime.OrtValue.ortvalue_from_numpy(example.cpu().numpy(), device, index)
    binding.bind_ortvalue_input(given.name, x)
    binding.bind_output(output.name, device, index)
    session.run_with_iobinding(binding)
    binding.bind_ortvalue_output(output.name, binding.get_outputs()[0])
    return binding


def _kernels(events: list[dict[str, Any]], passes: int) -> list[Kernel]:
    """The kernels of a profile in the order in which they run, without the passes before the last ones."""
    times: dict[str, list[float]] = {}
    ops: dict[str, str] = {}
    for event in sorted((e for e in events if e.get("name", "").endswith("_kernel_time")), key=lambda e: e["ts"]):
        name = event["name"].removesuffix("_kernel_time")
        times.setdefault(name, []).append(event["dur"] / 1e3)
        ops[name] = event["args"]["op_name"]
    return [Kernel(name, ops[name], faster_half(of[-passes:]) + TRUNCATED_MS) for name, of in times.items()]
