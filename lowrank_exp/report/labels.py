"""What rows are called: what differs between them, in few words, and nothing else.

A part of a label is a key whose values differ. A group of which rows chose different options, or a node of other
classes (`_target_`), is one part, its option or class; what lies inside it counts only among rows of the same one, as
a setting that all spatial SVDs have and channel SVDs lack says nothing more.
"""

import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lowrank_exp.command_line.groups import GROUPS
from lowrank_exp.text.plain_text import shortened

TARGET = "_target_"
PARTS = 3  # differing keys that a label names before it leaves out what is not needed to tell rows apart
LONGEST = 40  # characters of a value
VAGUE = ("none", "default", "auto")  # options that say nothing without their group
BUDGETS = tuple(f"{group}.{cost}" for group in ("rank", "pruning") for cost in ("macs", "weights", "latency", "bytes"))
_MISSING = object()


@dataclass(frozen=True)
class Part:
    """One key that differs, `group` of one whose option differs, and how a label shows it."""

    key: str
    text: str

    @property
    def is_budget(self) -> bool:
        """Whether it is how much may remain, which a curve of the figure runs over."""
        return self.key.endswith(BUDGETS)


def parts_of(flat: Sequence[Mapping[str, object]], choices: Sequence[Mapping[str, str]]) -> list[list[Part]]:
    """Of every row the parts that tell it from the others: options of groups, classes, other keys, budgets.

    Args:
        flat: the configurations, as `leaves`.
        choices: the chosen options by group.
    """
    rows, differing = range(len(flat)), differing_keys(flat)
    swapped = [group for group in sorted({one for chosen in choices for one in chosen}) if _differ(choices, group)]
    classes = [key for key in differing if key.endswith(f".{TARGET}")]
    # What lies inside such a group or node counts only among rows of the same option or class.
    switches = [(f"{group.replace('/', '.')}.", "", [chosen.get(group) for chosen in choices]) for group in swapped]
    switches += [(key.removesuffix(TARGET), key, [str(one.get(key)) for one in flat]) for key in classes]
    options = Counter(option for group in swapped for option in {chosen.get(group) for chosen in choices})
    parts = [
        [Part(group, _option(group, chosen[group], options)) for group in swapped if group in chosen]
        for chosen in choices
    ]
    names, has = {key for one in flat for key in one}, [{"", *map(_part, one)} for one in flat]
    for key in sorted(differing, key=lambda key: 0 if key in classes else 2 if key.endswith(BUDGETS) else 1):
        around = [values for prefix, own, values in switches if key.startswith(prefix) and key != own]
        values = [show(one.get(key, "unset")) for one in flat]
        shown = values if key in classes else _shown(values)
        among: dict[tuple, list[int]] = defaultdict(list)
        for row in rows:
            if _part(key) in has[row]:
                among[tuple(values[row] for values in around)].append(row)
        for same in among.values():
            told = _other(flat, same, key)
            for row in same:
                # A budget is what such a sweep is about: it stays beside the name of its policy.
                if told or (key in BUDGETS and flat[row].get(key) is not None):
                    parts[row].append(Part(key, _text(key, shown[row], names)))
    return parts


def parts_of_values(
    wanted: Mapping[str, object], axes: Mapping[str, Sequence[object]], keys: Iterable[str]
) -> list[Part]:
    """The parts of a row that has not run: what it has of every swept key, as rows that have run show theirs.

    Args:
        wanted: its values by key, of a group the option.
        axes: all values of these keys.
        keys: the dotted keys of rows that have run.
    """
    options = Counter(str(value) for key, values in axes.items() if "." not in key for value in values)
    names = {*keys, *(key for key in axes if "." in key)}
    groups = sorted(key for key in wanted if "." not in key and len(axes[key]) > 1)
    others = sorted((key for key in wanted if "." in key and len(axes[key]) > 1), key=lambda key: key.endswith(BUDGETS))
    parts = [Part(key, _option(key, show(wanted[key]), options)) for key in groups]
    return parts + [Part(key, _text(key, show(wanted[key]), names)) for key in others]


def label(parts: Sequence[Part]) -> str:
    """The texts of parts, one behind the other."""
    return " ".join(part.text for part in parts)


def needed(parts: Sequence[Sequence[Part]]) -> list[list[Part]]:
    """`parts`, or where a row has many, those that tell the rows apart, budgets first, and of the others a few."""
    if max(map(len, parts), default=0) <= PARTS:
        return [list(mine) for mine in parts]
    every = [part for mine in parts for part in mine]
    keys = list(dict.fromkeys(part.key for part in sorted(every, key=lambda part: not part.is_budget)))
    kept: list[str] = []

    def told(*more: str) -> int:
        return len({tuple(part.text for part in mine if part.key in (*kept, *more)) for mine in parts})

    while best := max((key for key in keys if told(key) > told()), key=told, default=None):
        kept.append(best)
    kept += [key for key in dict.fromkeys(part.key for part in every) if key not in kept][: max(0, PARTS - len(kept))]
    return [[part for part in mine if part.key in kept] for mine in parts]


def differing_keys(flat: Sequence[Mapping[str, object]]) -> list[str]:
    """The dotted keys whose values are not the same in all configurations, in order of first appearance.

    Groups and phases that a configuration does not use at all do not count as differing. Where a group is repeated
    deeper down (`method.phases.factorize.rank.macs` beside `rank.macs`), the short key is enough.
    """
    keys = dict.fromkeys(key for config in flat for key in config)
    parts, found = [{"", *map(_part, config)} for config in flat], []
    for key in keys:
        part = _part(key)
        if _other(flat, [place for place, has in enumerate(parts) if part in has], key):
            found.append(key)
    return [key for key in found if not any(_repeats(flat, key, other) for other in found)]


def show(value: object) -> str:
    """A value of the configuration as a label shows it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def short_key(key: str, keys: Iterable[str]) -> str:
    """The last words of a dotted key, as many as no other key ends in; the same group repeated deeper is no other.

    >>> short_key("rank.macs", ["rank.macs", "rank.over", "method.phases.factorize.rank.macs"])
    'macs'
    >>> short_key("finetune.epochs", ["training.epochs", "finetune.epochs"])
    'finetune.epochs'
    """
    others = [f".{other}" for other in keys if not f".{other}".endswith(f".{key}")]
    words = key.split(".")
    for count in range(1, len(words)):
        ending = ".".join(words[-count:])
        if not any(other.endswith(f".{ending}") for other in others):
            return ending
    return key


def _shown(texts: Sequence[str]) -> list[str]:
    """Values of one key, where one is long without what all begin with."""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    shared = len(list(same)) if max(map(len, texts)) > LONGEST else 0
    return [shortened(f"…{text[shared:]}" if shared else text, LONGEST) for text in texts]


def _text(key: str, shown: str, keys: Iterable[str]) -> str:
    return shown.rpartition(".")[2] if key.endswith(TARGET) else f"{short_key(key, keys)}={shown}"


@functools.cache
def _part(key: str) -> str:
    """The group or phase that a key is of, which a job has only if it uses it; "": a key that all jobs have."""
    group, *rest = key.split(".")
    if group in GROUPS:
        return group
    return ".".join((group, *rest[:2])) if group == "method" and rest[0] == "phases" else ""


def _option(group: str, option: str, options: Mapping[str, int]) -> str:
    """An option alone, or with its group where it would say nothing, or is one of several groups."""
    return option if options[option] == 1 and option not in VAGUE else f"{group}={option}"


def _repeats(flat: Sequence[Mapping[str, object]], key: str, other: str) -> bool:
    """Whether a key says of every configuration what another says, whose words it ends in."""
    return key.endswith(f".{other}") and all(key not in one or one[key] == one.get(other, _MISSING) for one in flat)


def _differ(choices: Sequence[Mapping[str, str]], group: str) -> bool:
    return len({chosen[group] for chosen in choices if group in chosen}) > 1


def _other(flat: Sequence[Mapping[str, object]], places: Sequence[int], key: str) -> bool:
    """Whether the configurations at some places have different values of a key, or one lacks it."""
    first, *others = [flat[place].get(key, _MISSING) for place in places]
    return any(first is not one and (type(first) is not type(one) or first != one) for one in others)
