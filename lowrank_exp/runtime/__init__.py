"""What executes networks: prepared for an example, called, timed; each runtime says who it is."""

from lowrank_exp.runtime.base import Kernel, Prepared, Runtime
from lowrank_exp.runtime.layer_time import time_layer
from lowrank_exp.runtime.names import installed_runtimes, runtime_named
from lowrank_exp.runtime.onnx_graph import layer_to_onnx, to_onnx
from lowrank_exp.runtime.timing import Timing, time_interleaved, time_passes

__all__ = [
    "Kernel",
    "Prepared",
    "Runtime",
    "Timing",
    "installed_runtimes",
    "layer_to_onnx",
    "runtime_named",
    "time_interleaved",
    "time_layer",
    "time_passes",
    "to_onnx",
]
