"""The formats there are, and which one a file has."""

import os
from pathlib import Path

from lowrank_exp.export.form import Format
from lowrank_exp.export.onnx_form import ONNX
from lowrank_exp.export.openvino_form import OpenVINO
from lowrank_exp.export.torch_forms import PT2, TorchScript

FORMATS = (ONNX(), PT2(), TorchScript(), OpenVINO())


def format_of(path: str | os.PathLike, name: str | None = None) -> Format:
    """The format of that name, or the one that the file's suffix says.

    Raises:
        ValueError: there is no such format, or the file has the suffix of another one.

    >>> format_of("small.onnx").name
    'onnx'
    """
    suffix, all_of_them = Path(path).suffix, ", ".join(f"{one.name} ({one.suffix})" for one in FORMATS)
    for form in FORMATS:
        if name == form.name:
            if suffix != form.suffix:
                raise ValueError(
                    f"{path} has the suffix {suffix!r}, and files of format={name!r} have {form.suffix!r}: call it "
                    f"{Path(path).with_suffix(form.suffix)}, or choose another format: {all_of_them}"
                )
            return form
        if name is None and suffix == form.suffix:
            return form
    if name is None:
        raise ValueError(f"{path} has the suffix {suffix!r}, which says no format: {all_of_them}")
    raise ValueError(f"format={name!r} is not known: {all_of_them}")
