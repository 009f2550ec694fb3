"""A plan: the chosen rank of every layer, and why each layer left alone was left alone."""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from lowrank_exp.checks import is_number, is_whole
from lowrank_exp.decomposition import Rank
from lowrank_exp.files.layer_words import LOST
from lowrank_exp.files.whole import write_whole
from lowrank_exp.files.yaml_file import yaml_content
from lowrank_exp.rank.offer import milliseconds
from lowrank_exp.rank.plan_table import plan_in_words, plan_table
from lowrank_exp.rank.spectrum import Spectrum
from lowrank_exp.text.shown import shown

DENSE = "the dense network"
COMPRESSED = "the network as it was given, which had been compressed before, not of the dense one"
TIMES = ("latency_before", "latency_after")
CUT = ("full_rank", "spectrum")  # what a rank of a layer cuts
UNLESS_KNOWN = (*TIMES, *LOST, *CUT)  # keys that the file of a plan has only where they are known
MEASURED = ("measured_ms", "measured_dense_ms")
USUAL = {"policy": "fixed", "over": "all", "of": DENSE}


@dataclass(frozen=True)
class PlannedLayer:
    """One layer of a plan; rank and decomposition are None where it stays dense.

    `latency`: nanoseconds of one forward pass on the runtime of the plan; `weight_error`, `response_error`: relative
    squared errors once it was carried out; `accuracy_alone`: with this layer alone decomposed. `full_rank`: the highest
    that the decomposition takes, and `spectrum`: what a rank cuts, see `spectrum_of`. None: not measured.
    """

    rank: Rank | None
    decomposition: str | None
    reason: str
    macs_before: int = 0
    macs_after: int = 0
    weights_before: int = 0
    weights_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    latency_before: int | None = None
    latency_after: int | None = None
    weight_error: float | None = None
    response_error: float | None = None
    accuracy_alone: float | None = None
    options: dict = field(default_factory=dict)
    full_rank: Rank | None = field(default=None, repr=False, compare=False)
    spectrum: Spectrum | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.rank, list):
            object.__setattr__(self, "rank", tuple(self.rank))
        if isinstance(self.full_rank, list):
            object.__setattr__(self, "full_rank", tuple(self.full_rank))
        if self.rank is not None and not self.decomposition:
            raise ValueError(f"a planned layer with rank {self.rank} needs the name of its decomposition")


@dataclass(frozen=True)
class Plan(Mapping[str, Rank | None]):
    """Maps layer names, in network order, to ranks; `layers` has the whole story of each.

    `over` names the layers that the budget counts (all, or the convolutions), `of` the network whose costs it is a
    fraction of: the dense one, or a compressed one as it was given (`COMPRESSED`). `tried`: it comes from profiles, so
    from a trial of the network, and `factorize_` need not try it again.

    With times, `runtime` has the conditions under which those of the layers were measured: the runtime, its version,
    threads, batch size, machine ... `measured_ms` and `measured_dense_ms` are times of the whole network, small and
    dense, where somebody has measured them afterwards. No runtime is needed to carry out such a plan.
    """

    layers: dict[str, PlannedLayer]
    policy: str = "fixed"
    over: str = "all"
    tried: bool = field(default=False, repr=False, compare=False)
    of: str = DENSE
    runtime: Mapping[str, Any] | None = None
    measured_ms: float | None = None
    measured_dense_ms: float | None = None

    def __getitem__(self, name: str) -> Rank | None:
        return self.layers[name].rank

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        """A table of the layers with totals, as wide as the terminal; see `rank.plan_table`."""
        return plan_table(self, shutil.get_terminal_size().columns)

    def __repr__(self) -> str:
        return f"<Plan {plan_in_words(self)}>"

    @property
    def ranks(self) -> dict[str, Rank | None]:
        """Rank by layer name, in network order; None where the layer stays dense."""
        return {name: layer.rank for name, layer in self.layers.items()}

    def remaining(self, what: str) -> float:
        """Fraction of the MACs, weights, bytes or time (`what`: latency) of the network `of` that remains.

        Raises:
            ValueError: the time of a layer was not measured.
        """
        if not self.layers:
            return 1.0
        before, after = (self._sum(f"{what}_{when}") for when in ("before", "after"))
        if before is None or after is None:
            missing = next(n for n, one in self.layers.items() if None in (one.latency_before, one.latency_after))
            raise ValueError(f"{missing}: its time was not measured, so what remains of the network's is not known")
        return after / before if before else 1.0

    @property
    def predicted_ms(self) -> float | None:
        """Milliseconds that the network takes, as the sum over its layers has it; None without times."""
        return _in_ms(self._sum("latency_after"))

    @property
    def dense_ms(self) -> float | None:
        """The same of the network `of`."""
        return _in_ms(self._sum("latency_before"))

    @property
    def times(self) -> dict[str, float]:
        """The times of the whole network that are known, by name, in milliseconds: predicted and measured ones."""
        known = {name: getattr(self, name) for name in ("predicted_ms", "dense_ms", *MEASURED)}
        return {name: value for name, value in known.items() if value is not None}

    def with_losses(self, losses: Mapping[str, Mapping[str, float]]) -> "Plan":
        """The plan with what its layers have lost, by name: `weight_error`, `response_error`, `accuracy_alone`."""
        known = {name: one for name, one in losses.items() if name in self.layers}
        return replace(self, layers=self.layers | {n: replace(self.layers[n], **one) for n, one in known.items()})

    def _sum(self, what: str) -> int | None:
        """Over all layers; None where that of a layer is not known, or there are none."""
        every = [getattr(layer, what) for layer in self.layers.values()]
        return sum(every) if every and None not in every else None

    def write(self, path: str | os.PathLike) -> None:
        """Write the plan as YAML, to be read, edited by hand and replayed."""
        content = {
            "policy": self.policy,
            "over": self.over,
            **({"of": self.of} if self.of != DENSE else {}),
            **self._record_times(),
            "layers": {n: _record(l) for n, l in self.layers.items()},
        }
        with write_whole(path) as temporary:
            text = yaml.dump(content, Dumper=_PlanDumper, sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")

    def _record_times(self) -> dict[str, Any]:
        """What is known of times, for the file."""
        return ({} if self.runtime is None else {"runtime": dict(self.runtime)}) | self.times

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Plan":
        """The plan in a YAML file; of each layer only `rank` and `decomposition` must be there.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not a plan.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"the plan file {path} does not exist (looked for {path.absolute()})")
        try:
            content = yaml_content(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{path} is not a YAML file that can be read: {error!s:.400}") from error
        if not isinstance(content, dict) or not isinstance(content.get("layers"), dict):
            raise ValueError(f"{path} is not a plan: it has no mapping `layers`")
        layers = {str(name): _read_layer(path, name, entry) for name, entry in content["layers"].items()}
        policy, over, of = (str(content.get(key, usual)) for key, usual in USUAL.items())
        return cls(layers, policy, over, of=of, runtime=_read_runtime(path, content), **_read_measured(path, content))


def _in_ms(latency: int | None) -> float | None:
    return None if latency is None else milliseconds(latency)


class _Numbers(list):
    """A list that stands in one line of the file."""


class _PlanDumper(yaml.SafeDumper):
    """Writes long lists of numbers in a line."""


_PlanDumper.add_representer(
    _Numbers, lambda dumper, numbers: dumper.represent_sequence("tag:yaml.org,2002:seq", numbers, flow_style=True)
)


def _record(layer: PlannedLayer) -> dict[str, Any]:
    record = {key: value for key, value in asdict(layer).items() if value is not None or key not in UNLESS_KNOWN}
    for key in ("rank", "full_rank"):
        record |= {key: list(record[key])} if isinstance(record.get(key), tuple) else {}
    if layer.spectrum is not None:
        record["spectrum"] = [_Numbers(pairs) for pairs in layer.spectrum]
    return record


def _read_runtime(path: Path, content: Mapping[str, Any]) -> dict[str, Any] | None:
    runtime = content.get("runtime")
    if runtime is not None and not isinstance(runtime, dict):
        raise ValueError(f"{path}: runtime is a mapping of the conditions of times, got {shown(runtime)}")
    return runtime


def _read_measured(path: Path, content: Mapping[str, Any]) -> dict[str, float | None]:
    measured = {name: content.get(name) for name in MEASURED}
    if wrong := [name for name, value in measured.items() if value is not None and not is_number(value)]:
        raise ValueError(f"{path}: {wrong[0]} must be a number of milliseconds, got {shown(measured[wrong[0]])}")
    return measured


def _read_layer(path: Path, name: Any, entry: Any) -> PlannedLayer:
    known = PlannedLayer.__dataclass_fields__
    if not isinstance(entry, dict) or "rank" not in entry:
        raise ValueError(f"{path}: the layer {name} needs `rank` (an integer, or null) and `decomposition`")
    if unknown := set(entry) - set(known):
        raise ValueError(
            f"{path}: the layer {name} has unknown keys {shown(sorted(map(str, unknown)))}; known: {', '.join(known)}"
        )
    rank, decomposition, options = entry["rank"], entry.get("decomposition"), entry.get("options") or {}
    numbers = rank if isinstance(rank, list) and rank else [rank]
    if rank is not None and not all(map(is_whole, numbers)):
        raise ValueError(
            f"{path}: the layer {name} has rank {shown(rank)}; it takes an integer (a list of them where the "
            "decomposition has several), or null to stay dense"
        )
    if rank is not None and not isinstance(decomposition, str):
        raise ValueError(f"{path}: the layer {name} has rank {rank} but no decomposition (got {shown(decomposition)})")
    if not isinstance(options, dict):
        raise ValueError(f"{path}: the options of the layer {name} are a mapping, got {shown(options)}")
    for key in entry.keys() - {"rank", "decomposition", "options", *CUT}:
        if (key in TIMES and entry[key] is None) or (key in LOST and (entry[key] is None or is_number(entry[key]))):
            continue
        kind, words = (str, "a string") if key == "reason" else (int, "a number" if key in LOST else "a whole number")
        if not isinstance(entry[key], kind) or isinstance(entry[key], bool):
            raise ValueError(f"{path}: the layer {name}: {key} must be {words}, got {shown(entry[key])}")
    _check_cut(path, name, entry)
    return PlannedLayer(**{"decomposition": None, "reason": "from a plan file", **entry, "options": options})


def _check_cut(path: Path, name: Any, entry: Mapping[str, Any]) -> None:
    """Raise ValueError for a full rank or a spectrum that cannot be one; both may be missing."""
    full, spectrum = entry.get("full_rank"), entry.get("spectrum")
    if full is not None and not all(map(is_whole, full if isinstance(full, list) and full else [full])):
        raise ValueError(f"{path}: the layer {name}: full_rank must be a rank, got {shown(full)}")
    if spectrum is not None and not (isinstance(spectrum, list) and all(map(_is_curve, spectrum))):
        raise ValueError(f"{path}: the layer {name}: spectrum must be lists of pairs of numbers, got {shown(spectrum)}")


def _is_curve(pairs: Any) -> bool:
    return isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair)) for pair in pairs
    )
