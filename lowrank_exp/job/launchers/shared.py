"""Which phases several jobs of a sweep have in common, as their configurations tell."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from lowrank_exp.command_line.order import order_of
from lowrank_exp.command_line.used import job_config
from lowrank_exp.files.results import fingerprint

UNNAMED = {"experiment": None, "row": None}


def shared_phases(configs: Sequence[DictConfig]) -> list[tuple[list[int], str]]:
    """Groups of jobs whose first phases are the same, by their places; each with the last of these phases.

    Args:
        configs: of the jobs, composed.
    """
    groups: dict[str, list[int]] = {}
    for number, cfg in enumerate(configs):
        groups.setdefault(_up_to(cfg, 1), []).append(number)
    shared = []
    for members in groups.values():
        if len(members) < 2:
            continue
        orders = [order_of(configs[number].method) for number in members]
        count = 1
        while count < min(map(len, orders)) and len({_up_to(configs[n], count + 1) for n in members}) == 1:
            count += 1
        shared.append((members, orders[0][count - 1]))
    return shared


def _up_to(cfg: DictConfig, count: int) -> str:
    """The fingerprint of the job that this one would be if its order ended after so many phases."""
    cut = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    OmegaConf.set_struct(cut, False)
    cut.method = {**cut.method, "order": order_of(cut.method)[:count], "then": []}
    return fingerprint(job_config(cut, UNNAMED))
