"""What a layer loses at each rank by the errors of a profile: of its weight, or of its responses."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lowrank_exp.checks import one_of
from lowrank_exp.rank.layer_profile import LayerProfile

LOOKS_AT = {"error": "errors", "response": "responses"}  # what has to be measured for them, see `rank.declares`
LOSSES = tuple(LOOKS_AT)


def measured_for(options: Mapping[str, Any]) -> list[str]:
    """What a policy looks at whose option `metric` is one of `LOSSES`, or something else."""
    metric = options["metric"]
    return [LOOKS_AT[metric]] if isinstance(metric, str) and metric in LOOKS_AT else []


def losses(layer: LayerProfile, metric: str) -> np.ndarray:
    """Relative squared errors at the rungs, `(rungs,)`: `error` of the weight, `response` of the responses.

    Raises:
        ValueError: another metric, or response errors that were not measured.
    """
    one_of("metric", metric, LOSSES)
    if metric == "error":
        return layer.error
    if not len(layer.response):
        raise ValueError(
            f"{layer.name}: its profile has no response errors; take another metric (error, energy), or measure "
            "them by lowrank_exp.with_errors(layers, model, batches)"
        )
    return layer.response


def kept(layer: LayerProfile, metric: str) -> np.ndarray:
    """1 - the error, `(rungs,)`, from 0 to 1 and rising: a rank keeps at least what a lower one keeps."""
    return np.maximum.accumulate(np.clip(1.0 - losses(layer, metric), 0.0, 1.0))
