"""A network as a file that runs without this package: ONNX, TorchScript, torch.export, OpenVINO.

`lowrank_exp.export` is this module and the function at once, whichever was asked for first.
"""

import sys
from types import ModuleType
from typing import Any

from lowrank_exp.export.read import inputs_of, open_exported, read_metadata
from lowrank_exp.export.write import Exported, check_exportable, export

__all__ = ["Exported", "check_exportable", "export", "inputs_of", "open_exported", "read_metadata"]


class _Callable(ModuleType):
    """Python puts a module that is imported in the place of the package's function of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Exported:
        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
