"""Jobs that are to be disturbed, and what must be the same afterwards."""

from pathlib import Path
from typing import Any

import torch

from lowrank_exp.files.results import Result
from lowrank_exp.files.whole import file_digest
from lowrank_exp.job.outcomes import OutcomeStore
from support.smoke import SMOKE

TINY = (*SMOKE, "data=fake", "data.train_images=200", "data.test_images=50", "model.in_channels=3")
DECOMPOSE = (*TINY, "rank=uniform")


def into(outputs: Path) -> str:
    return f"paths.outputs={outputs}"


def job_folder(outputs: Path) -> Path:
    (path,) = outputs.glob("runs/*/result.json")
    return path.parent


def figures(outputs: Path) -> dict[str, Any]:
    """All numbers of the only job that lies there, but for times: of its result, its plan, its networks."""
    folder = job_folder(outputs)
    result, store = Result.read(folder / "result.json"), OutcomeStore(outputs / "store")
    found: dict[str, Any] = {"status": result.status, "layers": result.layers, "dense": untimed(result.dense)}
    for phase in result.phases:
        found[phase.name] = untimed(phase)
        found[f"{phase.name}: network"] = tensors(store.network(phase.name, phase.key))
    found["plan"] = (folder / "plan.yaml").read_text() if (folder / "plan.yaml").exists() else None
    found["counts"] = {path.name: path.read_text() for path in sorted(folder.glob("confusion/*"))}
    return found | {"network": tensors(folder / "model.pt"), "file": file_digest(folder / "model.pt")}


def untimed(phase: Any) -> dict[str, Any]:
    """The figures of a phase without what depends on the clock, and on who has computed it."""
    left_out = ("seconds", "stored", "conditions", "history")
    epochs = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in phase.history]
    return {name: value for name, value in vars(phase).items() if name not in left_out} | {"history": epochs}


def tensors(path: Path) -> dict[str, Any]:
    """The weights in a file, see `bits`."""
    return bits(torch.load(path, weights_only=True)["state_dict"])


def bits(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Weights as what compares bit by bit."""
    return {name: (tuple(one.shape), one.contiguous().numpy().tobytes()) for name, one in state.items()}


def leftovers(outputs: Path) -> list[str]:
    """What no finished job leaves: half-written files, and folders of phases that have not ended."""
    return sorted(str(path.relative_to(outputs)) for path in outputs.rglob("*") if path.suffix in (".part", ".work"))
