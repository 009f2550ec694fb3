"""Networks as ONNX graphs: whole ones with any number of images, and small modules fast."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.runtime.base import check_example
from lowrank_exp.runtime.folded import folded

OPSET = 20
INPUT, OUTPUT, BATCH = "input", "output", "batch"  # names in the graphs


def to_onnx(network: nn.Module, example: Tensor, *, dynamic_batch: bool = True, opset: int = OPSET) -> bytes:
    """`network` in evaluation mode as an ONNX model of one input `(batch, ...)` and one output, both of any batch.

    Batch norms are folded where possible. The model holds operations and weights alone: no traces of the code that it
    was made from.

    Args:
        network: it is not changed. Codebooks stay packed in the graph.
        example: `(N, ...)`.
        dynamic_batch: False fixes the number of images to the example's.
        opset: version of ONNX's operators.

    Raises:
        ValueError: the network's code works for some numbers of images alone, or cannot be exported.
    """
    x = check_example(network, example)
    network = folded(network, x)
    if dynamic_batch and len(x) == 1:  # one image would be taken for a constant
        x = torch.cat([x, x])
    shapes = ({0: torch.export.Dim(BATCH)},) if dynamic_batch else None
    with quiet_exporter():
        try:
            program = torch.export.export(network, (x,), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # whatever torch, or the network's own code, raises
            raise ValueError(_why(error, dynamic_batch)) from error
        try:
            exported = torch.onnx.export(
                program,
                (x,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=shapes,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            raise ValueError(f"the network has no form in ONNX (opset {opset}): {_first_line(error)}") from error
    model = exported.model_proto
    _strip_(model)
    return model.SerializeToString()


def layer_to_onnx(module: nn.Module, example: Tensor, *, opset: int = OPSET) -> bytes:
    """A small module alone, such as a chain of plain layers, as an ONNX model of the example's shape, in milliseconds.

    What `to_onnx` is to whole networks, by torch's older exporter: without folding, and for static shapes.

    Raises:
        ValueError: it cannot be exported.
    """
    x, file = check_example(module, example), io.BytesIO()
    modes = {part: part.training for part in module.modules()}
    try:
        with quiet_exporter(), torch.no_grad():
            torch.onnx.export(
                module.eval(),
                (x,),
                file,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=opset,
                dynamo=False,
                verbose=False,
            )
    except Exception as error:
        raise ValueError(f"the module has no form in ONNX (opset {opset}): {_first_line(error)}") from error
    finally:
        for part, training in modes.items():
            part.training = training
    return file.getvalue()


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Inside, other libraries do not say what of theirs is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "Constant folding")
        yield


def _why(error: Exception, dynamic_batch: bool) -> str:
    reason = _first_line(error)
    if dynamic_batch and any(word in str(error).lower() for word in ("specializ", "constraint", "dynamic")):
        return (
            f"the network's code fixes the number of images: {reason}. Write it for any number (x.flatten(1) rather "
            "than x.view(4, -1)), or export it for the example's number alone by dynamic_batch=False"
        )
    return f"torch.export does not take the network: {reason}"


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _strip_(model: Any) -> None:
    """Take out of a model where in the code its operations come from, with paths and names of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
