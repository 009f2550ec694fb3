"""Results which differ only in their seed are one configuration: one row of a table."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from lowrank_exp.files.results import Result, deciding, digest, seedless
from lowrank_exp.report.labels import Part, differing_keys, label, needed, parts_of

WORST_FIRST = ("failed", "interrupted", "missing", "missed", "void", "pruned")
SERIES, POLICY = ("method", "decomposition"), "rank"
NAMES = ("experiment", "row")  # in a configuration


@dataclass(frozen=True)
class Configuration:
    """One row of a table: a configuration with its finished, failed and missing seeds.

    `finished` holds the jobs whose phases have all ended, also where a target was missed; `failed` those that
    failed, were interrupted, or were pruned by a search.
    `hash` is the digest of the configuration without its seeds (16 hex characters), empty where nothing has
    run; `missing` holds the seeds that the experiment lists and no result covers ("any" where it lists none).
    `controls` is the label of the row that it is a control of, where that row is there. `variant`: what tells it from
    the others of its experiment beside its series and budgets. `departures`: what of it is not as its table states,
    such as `scale=smoke`.
    """

    label: str
    experiment: str | None
    row: str | None
    hash: str = ""
    config: Mapping | None = None
    finished: tuple[Result, ...] = ()
    failed: tuple[Result, ...] = ()
    missing: tuple[int | str, ...] = ()
    controls: str = ""
    variant: str = ""
    departures: tuple[str, ...] = ()

    @property
    def control(self) -> str:
        """What it is a control by, in words; empty: it is a row."""
        jobs = self.finished or self.failed
        return jobs[0].control.get("name", "").replace("_", " ") if jobs else ""

    @property
    def status(self) -> str:
        """The worst of its seeds: `failed`, `interrupted`, `missing` (none), `missed`, `void`, `pruned` or `ok`."""
        found = {job.status for job in (*self.finished, *self.failed)} | ({"missing"} if self.missing else set())
        return next((status for status in WORST_FIRST if status in found), "ok")

    @property
    def choices(self) -> dict[str, str]:
        """The chosen options by group; of results of earlier versions, which do not tell them, the method alone."""
        jobs = self.finished or self.failed
        return {"method": jobs[0].method, **jobs[0].choices} if jobs else {}

    @property
    def series(self) -> str:
        """What a colour of the figure stands for: method and decomposition, or the control."""
        if self.control:
            return f"control: {self.control}"
        return ", ".join(self.choices[group] for group in SERIES if group in self.choices)

    @property
    def policy(self) -> str:
        """The option of its rank policy, where it has one."""
        return "" if self.control else self.choices.get(POLICY, "")

    @property
    def network(self) -> str:
        """The option of its network, or where choices are not told, the name of its function."""
        return self.choices.get("model") or _target(_of(self.config, "model"))

    @property
    def data(self) -> str:
        """What its data are called: by their own name or folder, else by their option."""
        data = _of(self.config, "data")
        folder = PurePath(root).name if isinstance(root := data.get("root"), str) and "name" in data else ""
        return str(data.get("name") or folder or self.choices.get("data") or _target(data))


def configurations(results: Sequence[Result]) -> list[Configuration]:
    """Group results by experiment, row and configuration without seeds; labels as `labelled` gives them.

    The same job found twice (equal fingerprint, experiment and row) counts once, the finished one first.
    """
    groups: dict[tuple, dict[str, Result]] = {}
    configs: dict[str, Mapping] = {}
    for result in results:
        config = seedless(deciding(result.config))
        key = digest(config)[:16]
        configs.setdefault(key, config)
        group = groups.setdefault((result.experiment, result.row, key), {})
        known = group.get(result.fingerprint)
        if known is None or (result.complete and not known.complete):
            group[result.fingerprint] = result
    rows = []
    for (experiment, row, key), group in groups.items():
        jobs = sorted(group.values(), key=lambda job: job.seed)
        finished = tuple(job for job in jobs if job.complete)
        failed = tuple(job for job in jobs if not job.complete)
        rows.append(Configuration("", experiment, row, key, configs[key], finished, failed))
    return labelled(rows)


def labelled(rows: Sequence[Configuration]) -> list[Configuration]:
    """Give every row its label, its name and the parts that tell it from others of the same name, and its variant.

    Without a row name the parts alone are the label; a configuration that is alone has its method's name. A control has
    the label of its row, and what it is.
    """
    flat = [leaves(row.config or {}) for row in rows]
    groups: dict[tuple, list[int]] = defaultdict(list)
    experiments: dict[str | None, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if not row.control:
            groups[row.experiment, row.row].append(place)
            experiments[row.experiment].append(place)
    named = list(rows)
    for places in groups.values():
        for place, parts in zip(places, needed(_parts(rows, flat, places)), strict=True):
            row = rows[place]
            name = row.row or ("" if parts else (row.finished or row.failed)[0].method)
            named[place] = replace(row, label=f"{name} {label(parts)}".strip())
    for places in experiments.values():
        for place, parts in zip(places, _parts(rows, flat, places), strict=True):
            others = [part for part in parts if part.key not in (*SERIES, POLICY, *NAMES) and not part.is_budget]
            named[place] = replace(named[place], variant=label(others))
    rows = _distinct(named)
    label_of = {job.fingerprint: row.label for row in rows if not row.control for job in (*row.finished, *row.failed)}
    return _distinct([_as_control(row, label_of) if row.control else row for row in rows])


def _of(config: Mapping | None, group: str) -> Mapping:
    node = (config or {}).get(group)
    return node if isinstance(node, Mapping) else {}


def _target(node: Mapping) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2]


def _parts(rows: Sequence[Configuration], flat: Sequence[Mapping], places: Sequence[int]) -> list[list[Part]]:
    return parts_of([flat[place] for place in places], [rows[place].choices for place in places])


def _distinct(rows: Sequence[Configuration]) -> list[Configuration]:
    """Rows with their hash behind labels that several of an experiment have."""
    counts = Counter((row.experiment, row.label) for row in rows if row.label)
    return [
        replace(row, label=f"{row.label} #{row.hash[:6]}") if counts[row.experiment, row.label] > 1 else row
        for row in rows
    ]


def _as_control(row: Configuration, label_of: Mapping[str, str]) -> Configuration:
    """A control with its label, after that of its row (by fingerprint) where there is one."""
    jobs = row.finished or row.failed
    controls = next((label_of[of] for job in jobs if (of := job.control.get("of")) in label_of), "")
    return replace(row, controls=controls, label=f"{controls or row.row or jobs[0].method} (control: {row.control})")


def beside_their_rows(rows: Sequence[Configuration]) -> list[Configuration]:
    """Controls behind the rows that they control, in the order of their names; those without a row last."""
    places = {(row.experiment, row.label): place for place, row in enumerate(rows) if not row.control}

    def place_of(row: Configuration) -> tuple[int, str]:
        return places.get((row.experiment, row.controls if row.control else row.label), len(rows)), row.control

    return sorted(rows, key=place_of)


def leaves(config: Mapping, prefix: str = "") -> dict[str, object]:
    """The values of a nested mapping by their dotted keys; lists are values.

    >>> leaves({"rank": {"macs": 0.5, "rules": {}}, "scale": 1})
    {'rank.macs': 0.5, 'rank.rules': {}, 'scale': 1}
    """
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(configs: Iterable[Mapping]) -> list[str]:
    """The dotted keys whose values are not the same in all configurations, in order of first appearance.

    Groups and phases that a configuration does not use at all do not count as differing.

    Where a group is repeated deeper down (`method.phases.factorize.rank.macs` beside `rank.macs`), the short
    key is enough.

    >>> differences([{"a": 1, "rank": {"macs": 0.5}}, {"a": 1, "rank": {"macs": 0.3}}])
    ['rank.macs']
    """
    return differing_keys([leaves(config) for config in configs])
