"""Networks as ONNX graphs: whole ones with any number of images, and small modules fast."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
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
        program = _program(network, x, shapes)
        try:
            exported: Any = torch.onnx.export(
                program,
                (x,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=shapes,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # whatever torch or onnxscript raises
            raise ValueError(f"the network has no form in ONNX (opset {opset}): {_short(error)}") from error
    model = exported.model_proto
    if len(model.graph.output) != 1:
        raise ValueError(f"the network gives {len(model.graph.output)} tensors, but a model here gives one: wrap it")
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
        raise ValueError(f"the module has no form in ONNX (opset {opset}): {_short(error)}") from error
    finally:
        for part, training in modes.items():
            part.training = training
    return file.getvalue()


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Inside, other libraries do not say what of theirs is deprecated or is left for the runtime to fold, and what they
    raise is not printed as well."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "Constant folding", UserWarning)
            yield
    finally:
        logging.disable(disabled)


def _program(network: nn.Module, x: Tensor, shapes: Any) -> torch.export.ExportedProgram:
    """The operations of a network, whose first axis may be dynamic."""
    try:
        return torch.export.export(network, (x,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever torch, or the network's own code, raises
        if shapes is not None:
            _program(network, x, None)  # if this fails as well, that is what there is to say
            raise ValueError(
                f"the network's code works for {len(x)} images alone ({_short(error)}). Write it for any number, with "
                "x.shape[0] rather than len(x) and x.flatten(1) rather than x.view(4, -1), or fix the number to the "
                "example's by dynamic_batch=False"
            ) from error
        raise ValueError(f"torch.export does not take the network: {_short(error)}") from error


def _short(error: Exception) -> str:
    """What an error says, in one line; of several that were raised from each other the first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _strip_(model: Any) -> None:
    """Take out of a model where in the code its operations come from, with paths and names of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
