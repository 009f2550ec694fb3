"""Low-rank decomposition, SVD training and structured pruning of convolutional networks.

For those who have their own network and no wish for Hydra:

    from lowrank_exp import profile, allocate, factorize_, measure, save, load
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from lowrank_exp.artifact import load, save
    from lowrank_exp.export import export
    from lowrank_exp.rank import (
        LayerProfile,
        Plan,
        allocate,
        profile,
        with_accuracy,
        with_errors,
        with_sensitivity,
        with_times,
    )
    from lowrank_exp.runtime.measurement import Measurement, measure
    from lowrank_exp.surgery import factorize_

__all__ = [
    "LayerProfile",
    "Measurement",
    "Plan",
    "allocate",
    "export",
    "factorize_",
    "load",
    "measure",
    "profile",
    "save",
    "with_accuracy",
    "with_errors",
    "with_sensitivity",
    "with_times",
]

# Imported on first use, so that `lowrank-exp --help` need not wait for torch.
_HOMES = {
    "LayerProfile": "lowrank_exp.rank",
    "Measurement": "lowrank_exp.runtime.measurement",
    "Plan": "lowrank_exp.rank",
    "allocate": "lowrank_exp.rank",
    "export": "lowrank_exp.export",
    "factorize_": "lowrank_exp.surgery",
    "load": "lowrank_exp.artifact",
    "measure": "lowrank_exp.runtime.measurement",
    "profile": "lowrank_exp.rank",
    "save": "lowrank_exp.artifact",
    "with_accuracy": "lowrank_exp.rank",
    "with_errors": "lowrank_exp.rank",
    "with_sensitivity": "lowrank_exp.rank",
    "with_times": "lowrank_exp.rank",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lowrank_exp' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    return home if home.__name__ == f"{__name__}.{name}" else getattr(home, name)  # `export` is module and function


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
