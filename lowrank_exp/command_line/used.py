"""What of the configuration the phases of a job use. The rest decides no number, and a job is not told apart by it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lowrank_exp.command_line.deltas import flat
from lowrank_exp.command_line.interpolations import interpolated

# Groups that a job's configuration has only if one of its phases uses them.
GROUPS = ("regularizer", "decomposition", "rank", "pruning", "reconstruct", "training", "finetune")
METHOD = ("order", "phases", "dense")  # of a method: its other keys are taken up in its phases


def job_config(cfg: DictConfig, labels: Mapping[str, str | None]) -> dict[str, Any]:
    """The resolved configuration of a job: what its phases use, and its experiment and row."""
    config, written = (OmegaConf.to_container(cfg, resolve=resolve) for resolve in (True, False))
    return only_used(flat(config), written) | {"experiment": labels["experiment"], "row": labels["row"]}


def only_used(config: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the groups that no phase uses, and without the phases that its method leaves out.

    Args:
        config: resolved.
        written: the same with its interpolations, which tell what is used.

    >>> written = {"rank": {"macs": 0.5}, "method": {"order": ["train"], "phases": {"train": {}, "cut": "${rank}"}}}
    >>> only_used(written, written)
    {'method': {'order': ['train'], 'phases': {'train': {}}}}
    """
    method = config.get("method")
    if not isinstance(method, Mapping) or not isinstance(method.get("phases"), Mapping):
        return dict(config)  # the job says what is wrong with it
    order = [name for name in method.get("order") or [] if name in method["phases"]]
    rest = {key: value for key, value in written.items() if key not in (*GROUPS, "method")}
    names = _reached([rest, *(written["method"]["phases"][name] for name in order)], written)
    if (config.get("model") or {}).get("weights") is not None:
        names.add("decomposition")  # one of the user's own may have made the layers in the file
    kept = {key: value for key, value in config.items() if key not in GROUPS or key in names}
    kept["method"] = {key: method[key] for key in METHOD if key in method}
    kept["method"]["phases"] = {name: method["phases"][name] for name in order}
    return kept


def without_use(overrides: Sequence[str], config: Mapping[str, Any], method: str | None) -> list[str]:
    """A sentence on every group or phase that is overridden, and that a job's configuration lacks: nothing uses it.

    >>> without_use(["rank=evbmf", "rank.macs=0.3"], {"seed": 1, "method": {"phases": {"train": {}}}}, "train")
    ['method train does not use rank: rank=evbmf rank.macs=0.3 changes nothing']
    """
    told: dict[str, list[str]] = {}
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if (part := unused_part(key, config)) is not None:
            told.setdefault(part, []).append(override.lstrip("+"))
    return [f"method {method} does not use {part}: {' '.join(typed)} changes nothing" for part, typed in told.items()]


def unused_part(key: str, config: Mapping[str, Any]) -> str | None:
    """The group or phase that a key or group is of, as it is overridden, if a job's configuration lacks it.

    >>> config = {"training": {}, "method": {"phases": {"train": {}}}}
    >>> [unused_part(key, config) for key in ("rank.macs", "method.phases.finetune.epochs", "training.epochs")]
    ['rank', 'method.phases.finetune', None]
    """
    group, _, package = key.partition("@")
    top, *rest = (package or group).replace("/", ".").split(".")
    if top in GROUPS:
        return None if top in config else top
    if (top, *rest[:1]) == ("method", "phases") and len(rest) > 1 and rest[1] not in config["method"]["phases"]:
        return f"method.phases.{rest[1]}"
    return None


def _reached(nodes: Sequence[Any], written: Mapping[str, Any]) -> set[str]:
    """The keys at the top that nodes take values from, themselves or through others."""
    found: set[str] = set()
    names = set().union(*map(interpolated, nodes))
    while new := names - found:
        found |= new
        names = set().union(*(interpolated(one) for name in new for one in _at(written, name)))
    return {name.partition(".")[0] for name in found}


def _at(written: Mapping[str, Any], name: str) -> Iterator[Any]:
    """What stands at a dotted name, or the interpolation on the way that leads there."""
    node: Any = written
    for part in name.split("."):
        if not isinstance(node, Mapping):
            break
        if part not in node:
            return
        node = node[part]
    yield node
