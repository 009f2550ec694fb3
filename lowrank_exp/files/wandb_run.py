"""A run of wandb in a folder of its own: offline by default, without a login. wandb is imported when one is opened."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrank_exp.files.writable import unwritable

PROJECT, MODES = "lowrank_exp", ("offline", "online", "disabled")
HOMES = {  # where wandb keeps settings, caches, and files until they are sent
    "WANDB_CONFIG_DIR": "~/.config/wandb",
    "WANDB_CACHE_DIR": "~/.cache/wandb",
    "WANDB_DATA_DIR": "~/.local/share/wandb",
}


def open_run(
    folder: Path,
    id: str,
    *,
    project: str,
    mode: str,
    name: str,
    kind: str | None,
    tags: Sequence[str],
    config: Mapping[str, Any],
    entity: str | None = None,
    group: str | None = None,
) -> Any:
    """Open a run below `folder`; what an earlier one of this id has left there is replaced.

    Args:
        folder: its files lie in the folder `wandb` there.
        id: of the run.
        project: the wandb project.
        mode: `offline` (no login; `wandb sync` sends it later), `online` or `disabled`.
        name: of the run.
        kind: wandb's type of the job.
        tags: what may be looked for.
        config: plain data.
        entity: user or team; None is wandb's default.
        group: whose runs wandb takes together.
    """
    import wandb

    for left_over in (folder / "wandb").glob(f"*run-*-{id}"):
        shutil.rmtree(left_over)
    os.environ.setdefault("WANDB_SILENT", "true")
    stay_below(folder / "wandb" / "home")
    return wandb.init(
        project=project,
        entity=entity,
        mode=mode,
        id=id,
        name=name,
        group=group,
        job_type=kind,
        tags=list(tags),
        config=dict(config),
        dir=str(folder),
        reinit="finish_previous",
        resume="allow" if mode == "online" else None,
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, save_code=False),
    )


def stay_below(folder: Path) -> None:
    """Have wandb use `folder` for what it would keep below a home that cannot be written to, as in containers."""
    for variable, place in HOMES.items():
        if variable in os.environ:
            continue
        try:
            problem = unwritable(Path(place).expanduser())
        except RuntimeError:  # there is no home
            problem = "no home"
        if problem is not None:
            os.environ[variable] = str(folder.absolute())
