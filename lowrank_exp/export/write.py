"""A network written to a file that runs elsewhere, read back, and compared with the network."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_exp.edits import edits_of
from lowrank_exp.export.compare import batches_of, compare
from lowrank_exp.export.formats import format_of
from lowrank_exp.files.whole import write_whole_together
from lowrank_exp.models.parts import list_names
from lowrank_exp.network.copying import copy_network
from lowrank_exp.network.cost import check_network, check_shapes, network_cost, one_image
from lowrank_exp.network.inputs import floating_type
from lowrank_exp.network.subnormals import clear_subnormals_
from lowrank_exp.network.wrappers import unwrap
from lowrank_exp.runtime.folded import folded
from lowrank_exp.svd_form.profile import forms_of

MOST = 1e-4  # relative difference between the outputs of a file and of its network


@dataclass(frozen=True)
class Exported:
    r"""What was written, and how well it agrees with the network that it was made from.

    Attributes:
        path: the file.
        format: `onnx`, `pt2`, `torchscript` or `openvino`.
        opset: the version of ONNX's operators; None for other formats.
        bytes: of the file, and of what belongs to it.
        difference: :math:`\max |a - b| / \max |a|` over all outputs of all images, a of the network, b of the file.
        equal_predictions: the share of images whose largest output is in the same place; None where there are none.
        images: how many were compared.
        subnormals: weights that were so small that CPUs slow down, which are zeros in the file.
        metadata: what the file says of itself, as `read_metadata` gives it.
    """

    path: Path
    format: str
    opset: int | None
    bytes: int
    difference: float
    equal_predictions: float | None
    images: int
    subnormals: int
    metadata: dict[str, Any]


def export(
    model: nn.Module,
    path: str | os.PathLike,
    example_input: Tensor,
    *,
    format: str | None = None,  # the word that users know
    metadata: Mapping[str, Any] | None = None,
    images: Iterable | None = None,
) -> Exported:
    r"""Write `model` to a file that runs without this package, read it back, and compare the two.

    The file holds the network in evaluation mode: batch norms folded into the layers before them, no dropout, weights
    in float32, subnormal ones (see `lowrank_exp.network.subnormals`) as zeros; it takes batches of any size. `model`
    itself is not changed, and may lie on any device; `torch.compile` and other wrappers of torch are taken off. The
    file is there whole or not at all.

    Args:
        model: a network of floating type float32 that takes one tensor and gives one.
        path: `.onnx`, `.pt2` (for `torch.export.load`), `.ts` (for `torch.jit.load`), or `.xml` (OpenVINO; a `.bin`
            goes beside it).
        example_input: `(N, ...)`; all but the first axis is fixed in the file.
        format: `onnx`, `pt2`, `torchscript` or `openvino`; None: what the suffix of `path` says.
        metadata: what else the file is to say: `fingerprint`, `accuracy`, `classes` (names), `mean` and `std` of the
            input, or anything that JSON takes. It says by itself `macs` (per image), `weights`, `parameters`, `edits`
            (how many were done to the dense network) and `lowrank_exp` (the version).
        images: what the file is compared on: a tensor `(N, ...)`, or batches of them (tuples that start with one, too);
            real ones, such as validation images. None: the example input.

    Returns:
        How like the file is to the network, and what is in it.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        ValueError: a format or suffix that is not known, a network that cannot be exported (the message says why), or a
            file whose outputs differ by more than 1e-4, relative as `Exported.difference`; no file is left then, and
            one that was there before stays.
    """
    path, form = Path(path), format_of(path, format)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of {path} does not exist: make {path.parent.absolute()} first")
    form.check_installed()
    check_exportable(model)
    if meta := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise ValueError(f"the network lies on the meta device ({meta[0]}): it has no numbers to export")
    model = unwrap(model)
    example = one_image(model, example_input)
    described = _describe(model, example, metadata or {})
    reference = copy_network(model).cpu().eval().requires_grad_(False)
    two = example.cpu().expand(2, *example.shape[1:]).contiguous()  # of one image torch takes the batch as fixed
    network = folded(reference, two)
    cleared = clear_subnormals_(network)
    with write_whole_together(path) as temporary, torch.no_grad():
        try:
            form.write(network, two, {name: json.dumps(value) for name, value in described.items()}, temporary)
        except Exception as error:  # whatever an exporter makes of a network's code
            why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            why = " ".join(why.split())[:600]  # exporters add pages to it
            raise ValueError(f"this network cannot be exported as {form.name}: {why}") from error
        run, given = form.open(temporary), example_input if images is None else images
        compare(reference, run, [two[:1].expand(3, *two.shape[1:])])  # not the two that it was made with
        like = compare(reference, run, batches_of(given, two))
        if not like.difference <= MOST:
            raise ValueError(
                f"{path} was not written: read back, the outputs of {like.images} images differ by "
                f"{like.difference:.2g} of the largest, and at most {MOST:.0e} is allowed"
            )
        size = sum(file.stat().st_size for file in temporary.parent.iterdir())
        opset = form.opset(temporary)
    return Exported(
        path,
        form.name,
        opset=opset,
        bytes=size,
        difference=like.difference,
        equal_predictions=like.equal_predictions,
        images=like.images,
        subnormals=cleared,
        metadata=described,
    )


def check_exportable(model: nn.Module) -> None:
    """Raise ValueError for what no file can hold; shapes are enough, on the meta device."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("TorchScript is a file format already: export the network that it was made from")
    check_network(model)
    check_shapes(model)
    if forms := forms_of(model):
        raise ValueError(
            f"{list_names(list(forms))} in SVD form, U diag(s) V, which is for training: make plain layers of them "
            "first, by lowrank_exp.svd_form.truncate_(model, energy=0.01), or by the phase Truncate in a job"
        )
    if (dtype := floating_type(model)) != torch.float32:
        raise ValueError(f"the network is {dtype}, and files hold float32: export copy.deepcopy(model).float()")


def _describe(model: nn.Module, example: Tensor, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of the network."""
    cost = network_cost(model, example)
    parameters = sum(one.numel() for one in model.parameters())
    own = {
        "lowrank_exp": version("lowrank_exp"),
        "macs": cost.macs,
        "weights": cost.weights,
        "parameters": parameters,
        "edits": len(edits_of(model)),
    }
    if twice := sorted(own.keys() & given.keys()):
        raise ValueError(f"metadata has {', '.join(twice)}, which export finds out by itself: leave it out")
    try:
        return json.loads(json.dumps(own | dict(given), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata takes names, numbers, texts and lists of them: {error}") from error
