"""What of the configuration the phases of a job use. The rest decides no number, and a job is not told apart by it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lowrank_exp.command_line.deltas import merge_recipes
from lowrank_exp.command_line.groups import GROUPS
from lowrank_exp.command_line.interpolations import interpolated
from lowrank_exp.command_line.order import order_of

METHOD = ("order", "phases", "dense")  # of a method: its other keys are taken up in these


def job_config(cfg: DictConfig, labels: Mapping[str, str | None], control: str | None = None) -> dict[str, Any]:
    """The resolved configuration of a job: what its phases use, its experiment and row, and which control it is."""
    config, written = (OmegaConf.to_container(cfg, resolve=resolve) for resolve in (True, False))
    named = {"experiment": labels["experiment"], "row": labels["row"]} | ({"control": control} if control else {})
    return only_used(merge_recipes(config), written) | named


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
    if any(name not in method["phases"] for name in order_of(method)):
        return dict(config)  # and so here, with the names of all phases
    used = used_parts(config, written)
    remaining = {key: value for key, value in config.items() if key not in GROUPS or key in used}
    remaining["method"] = {key: method[key] for key in METHOD if key in method}
    if "order" in method:
        remaining["method"]["order"] = order_of(method)
    remaining["method"]["phases"] = {name: without_idle_timing(method["phases"][name]) for name in _order(method)}
    return remaining


def without_idle_timing(node: Any) -> Any:
    """A phase's configuration without `latency`, by what it would measure times, where it has no budget of time:
    neither for its ranks nor for its pruning.

    Where they have one, how long a time is measured stays out: it decides nothing.

    >>> without_idle_timing({"rank": {"macs": 0.5, "latency": None}, "latency": {"batch_size": 1, "seconds": 0.2}})
    {'rank': {'macs': 0.5, 'latency': None}}
    >>> without_idle_timing({"rank": {"latency": 0.5}, "latency": {"batch_size": 1, "seconds": 0.2}})
    {'rank': {'latency': 0.5}, 'latency': {'batch_size': 1}}
    """
    if not isinstance(node, Mapping):
        return node
    kept = {key: without_idle_timing(value) for key, value in node.items()}
    latency = kept.get("latency")
    choosers = [part for name in ("rank", "schedule") if isinstance(part := kept.get(name), Mapping)]
    if not isinstance(latency, Mapping):
        return kept
    if choosers and not any(part.get(bound) is not None for part in choosers for bound in ("latency", "latency_ms")):
        del kept["latency"]
    else:
        kept["latency"] = {key: value for key, value in latency.items() if key != "seconds"}
    return kept


def used_parts(config: Mapping[str, Any], written: Mapping[str, Any]) -> set[str]:
    """The groups, and the phases, that the phases in order take something from, themselves among them.

    Args:
        config, written: see `only_used`.

    >>> phases = {"train": {"epochs": 3}, "again": {"recipe": "${method.phases.train}", "rank": "${rank}"}, "cut": {}}
    >>> written = {"rank": {"macs": 0.5}, "pruning": {}, "method": {"order": ["again"], "phases": phases}}
    >>> sorted(used_parts(written, written))
    ['method.phases.again', 'method.phases.train', 'rank']
    """
    phases = [f"method.phases.{name}" for name in _order(config["method"])]
    rest = {key: value for key, value in written.items() if key not in (*GROUPS, "method")}
    names = {*phases, *_reached([rest, *(part for phase in phases for part in _at(written, phase))], written)}
    if (config.get("model") or {}).get("weights") is not None:
        names.add("decomposition")  # one of the user's own may have made the layers in the file
    groups = {name.partition(".")[0] for name in names}
    used = {".".join(name.split(".")[:3]) for name in names if name.startswith("method.phases.")}
    return used | groups.intersection(GROUPS)


def without_use(overrides: Sequence[str], cfg: DictConfig, method: str | None) -> list[str]:
    """A sentence on every group or phase that is overridden, and that no phase of the method's order uses.

    Args:
        overrides: as they were typed.
        cfg: the composed configuration, without Hydra's own node.
        method: its name.

    >>> method = {"order": ["train"], "phases": {"train": {}, "later": {}}}
    >>> cfg = OmegaConf.create({"rank": {"macs": 0.5}, "method": method})
    >>> without_use(["rank=evbmf", "rank.macs=0.3"], cfg, "train")
    ['method train does not use rank: rank=evbmf rank.macs=0.3 changes nothing']
    """
    written, config = (OmegaConf.to_container(cfg, resolve=resolve) for resolve in (False, True))
    used, unused = used_parts(config, written), dict[str, list[str]]()
    for override in overrides:
        part = part_of(override.lstrip("+~").partition("=")[0])
        if part is not None and part not in used:
            unused.setdefault(part, []).append(override.lstrip("+"))
    return [f"method {method} does not use {part}: {' '.join(typed)} changes nothing" for part, typed in unused.items()]


def part_of(key: str) -> str | None:
    """The group of `GROUPS`, or the phase, that a key or group is of, as it is overridden; None: it is of neither.

    >>> [part_of(key) for key in ("rank.macs", "pruning/criterion", "method.phases.finetune.epochs", "data.root")]
    ['rank', 'pruning', 'method.phases.finetune', None]
    """
    group, _, package = key.partition("@")
    top, *rest = (package or group).replace("/", ".").split(".")
    if (top, *rest[:1]) == ("method", "phases") and len(rest) > 1:
        return f"method.phases.{rest[1]}"
    return top if top in GROUPS else None


def _order(method: Mapping[str, Any]) -> list[str]:
    return [name for name in order_of(method) if name in method["phases"]]


def _reached(nodes: Sequence[Any], written: Mapping[str, Any]) -> set[str]:
    """The names that nodes take values from, themselves or through others."""
    reached: set[str] = set()
    names = set().union(*map(interpolated, nodes))
    while new := names - reached:
        reached |= new
        names = set().union(*(interpolated(node) for name in new for node in _at(written, name)))
    return reached


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
