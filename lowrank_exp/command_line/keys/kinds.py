"""Kinds of values that a key of the configuration may have: what is allowed, in words and in fact. No torch here.

whole(1), number(0, 1), boolean, text, one_of("sum", "mean")   single values
many(number()), some(number())                                 a list of them, and one that is not empty
named(number())                                                a mapping whose names are free
Record({"batch_size": whole(1), ...})                          a mapping whose names are fixed
Target()                                                         a mapping with a `_target_`, whose keys are looked up
either(null, whole(1))                                         one of several
"""

import difflib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lowrank_exp.checks import is_number, is_whole
from lowrank_exp.command_line.keys.renamed import renamed

MILLION = 10**6
SHOWN = 200  # letters of a value that a message shows


@dataclass(frozen=True)
class Context:
    """What a check asks: for the keys of a node by its `_target_` (None: not ours), and whether others read a key."""

    keys_of: Callable[[Mapping[str, Any]], Mapping[str, "Kind"] | None] = lambda node: None
    is_read: Callable[[str], bool] = lambda key: False


class Kind(ABC):
    """What a key may be. `allowed` ends the sentence "allowed is ..."; `example` is a value on the command line."""

    allowed: str
    example: str

    @abstractmethod
    def fits(self, value: Any) -> bool:
        """Whether the value is of this kind at first sight: what it holds is looked at by `check`."""

    def check(self, value: Any, key: str, context: Context) -> None:
        """Raise ValueError, with the key's name, for a value that is not allowed."""
        if not self.fits(value):
            raise ValueError(refusal(key, value, self.allowed, self.example))


@dataclass(frozen=True)
class Single(Kind):
    """A value that holds no other."""

    allowed: str
    example: str
    test: Callable[[Any], bool]

    def fits(self, value: Any) -> bool:
        return self.test(value)


def whole(least: int = 0, most: int = MILLION) -> Single:
    """A whole number in `least .. most`.

    >>> whole(1).allowed, whole(1).fits(3), whole(1).fits(3.0), whole(1).fits(True)
    ('a whole number of at least 1, at most 1,000,000', True, False, False)
    """

    allowed = f"a whole number of at least {least}, at most {most:,}"
    return Single(allowed, str(max(least, min(1, most))), lambda value: is_whole(value, least, most))


def number(least: float = 0, most: float = 1e9, *, above: bool = False, below: bool = False) -> Single:
    """A number in `[least, most]`; `above`: not `least` itself; `below`: not `most` itself.

    >>> number(0, 1, above=True).allowed, number(0, 1).fits(float("nan"))
    ('a number in (0, 1]', False)
    """

    def test(value: Any) -> bool:
        if not is_number(value) or not math.isfinite(value):
            return False
        return (least < value if above else least <= value) and (value < most if below else value <= most)

    allowed = f"a number in {'(' if above else '['}{least:g}, {most:g}{')' if below else ']'}"
    return Single(allowed, f"{0.5 if most <= 1 else max(least, 0.1):g}", test)


def one_of(*words: str | int) -> Single:
    """One of some words or numbers."""
    listed = f"one of {', '.join(map(str, words))}" if len(words) > 1 else str(words[0])
    return Single(listed, str(words[0]), lambda value: not isinstance(value, bool | float) and value in words)


boolean = Single("true or false", "true", lambda value: isinstance(value, bool))
text = Single("a text", "name", lambda value: isinstance(value, str) and bool(value) and "\0" not in value)
import_path = Single(
    "package.module.name", "package.module.name", lambda value: isinstance(value, str) and "." in value
)
null = Single("null", "null", lambda value: value is None)
anything = Single("anything", "null", lambda value: True)


@dataclass(frozen=True)
class Many(Kind):
    """A list."""

    of: Kind
    lengths: tuple[int, ...] = ()  # that it may have; empty: any
    least: int = 0  # how long it must be

    @property
    def allowed(self) -> str:
        count = f" of {' or '.join(map(str, self.lengths))}" if self.lengths else " of one or more" * bool(self.least)
        return f"a list{count}, each {self.of.allowed}"

    @property
    def example(self) -> str:
        return f"[{','.join([self.of.example] * (self.lengths[0] if self.lengths else 1))}]"

    def fits(self, value: Any) -> bool:
        if not isinstance(value, list | tuple) or len(value) < self.least:
            return False
        return not self.lengths or len(value) in self.lengths

    def check(self, value: Any, key: str, context: Context) -> None:
        super().check(value, key, context)
        for place, one in enumerate(value):
            if isinstance(self.of, Single):
                if not self.of.fits(one):
                    raise ValueError(refusal(key, value, self.allowed, self.example))
            else:
                self.of.check(one, f"{key}.{place}", context)


@dataclass(frozen=True)
class Named(Kind):
    """A mapping whose names are the user's own."""

    of: Kind
    what: str = "name"
    passed_over: frozenset[str] = frozenset()  # names whose mapping may lack its `_target_`: it is not used here

    @property
    def allowed(self) -> str:
        return f"a mapping of {self.what}s, each {self.of.allowed}"

    @property
    def example(self) -> str:
        return f"{{{self.what}: {self.of.example}}}"

    def fits(self, value: Any) -> bool:
        return isinstance(value, Mapping) and "_target_" not in value

    def check(self, value: Any, key: str, context: Context) -> None:
        super().check(value, key, context)
        for name, one in value.items():
            others = [str(other) for other in value if other != name]
            if isinstance(self.of, Target) and isinstance(one, Mapping) and "_target_" not in one:
                if name in self.passed_over:
                    continue
                raise ValueError(f"{unknown(key, str(name), others)}. One of your own has a _target_")
            self.of.check(one, inside(key, name), context)


@dataclass(frozen=True)
class Record(Kind):
    """A mapping with fixed names, all of which are needed but for `optional`. `off`: how to go without it."""

    keys: Mapping[str, Kind]
    optional: tuple[str, ...] = ()
    off: Mapping[str, str] = field(default_factory=dict)

    @property
    def allowed(self) -> str:
        return f"a mapping of {', '.join(self.keys)}"

    @property
    def example(self) -> str:
        return "{" + ", ".join(f"{name}: {kind.example}" for name, kind in self.keys.items()) + "}"

    def fits(self, value: Any) -> bool:
        return isinstance(value, Mapping) and "_target_" not in value

    def check(self, value: Any, key: str, context: Context) -> None:
        if not self.fits(value):
            raise ValueError(refusal(key or "the configuration", value, self.allowed, self.example))
        for name in value:
            if name not in self.keys and not context.is_read(inside(key, name)):
                raise ValueError(unknown(key, str(name), self.keys))
        for name, kind in self.keys.items():
            if name in value:
                kind.check(value[name], inside(key, name), context)
            elif name not in self.optional:
                off = f"; to go without it: {self.off[name]}" if name in self.off else ""
                raise ValueError(
                    f"{inside(key, name)} is missing, and jobs read it. Allowed is {kind.allowed}. Leave it in{off}"
                )


@dataclass(frozen=True)
class Target(Kind):
    """A mapping with a `_target_`: a class or function of ours, whose keys are known, or another one."""

    extra: Mapping[str, Kind] = field(default_factory=dict)  # keys that the target does not get
    or_none: bool = False  # whether a `_target_` of null is allowed: nothing is made

    allowed = "a mapping with a _target_"
    example = "{_target_: package.module.Name}"

    def fits(self, value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        return isinstance(value.get("_target_"), str) or (self.or_none and value.get("_target_", "") is None)

    def check(self, value: Any, key: str, context: Context) -> None:
        super().check(value, key, context)
        if value["_target_"] is None:
            value = {name: one for name, one in value.items() if name != "_target_"}
        known = context.keys_of(value) if "_target_" in value else {}
        kinds = {**(known or {}), **_HYDRA, **self.extra}
        for name, one in value.items():
            if (kind := kinds.get(name) or kinds.get("*")) is not None:
                kind.check(one, inside(key, name), context)
            elif known is not None:
                raise ValueError(unknown(key, str(name), kinds))


_HYDRA = {
    "_target_": text,
    "_partial_": boolean,
    "_recursive_": boolean,
    "_convert_": one_of("none", "partial", "object", "all"),
    "_args_": anything,
}


@dataclass(frozen=True)
class Either(Kind):
    """One of several kinds, the first that fits at first sight."""

    kinds: tuple[Kind, ...]

    @property
    def allowed(self) -> str:
        return ", or ".join(kind.allowed for kind in self.kinds)

    @property
    def example(self) -> str:
        return next(kind.example for kind in self.kinds if kind is not null)

    def fits(self, value: Any) -> bool:
        return any(kind.fits(value) for kind in self.kinds)

    def check(self, value: Any, key: str, context: Context) -> None:
        super().check(value, key, context)
        next(kind for kind in self.kinds if kind.fits(value)).check(value, key, context)


def many(of: Kind, *lengths: int) -> Many:
    """A list of a kind."""
    return Many(of, lengths)


def some(of: Kind) -> Many:
    """A list of a kind that is not empty."""
    return Many(of, least=1)


def named(of: Kind, what: str = "name", passed_over: Iterable[str] = ()) -> Named:
    """A mapping whose names, of the things that `what` says, are the user's own."""
    return Named(of, what, frozenset(passed_over))


def either(*kinds: Kind) -> Either:
    """One of several kinds."""
    return Either(kinds)


def or_null(kind: Kind) -> Either:
    """A kind, or null."""
    return Either((kind, null))


def inside(key: str, name: Any) -> str:
    """The full name of a key below another one, or at the top.

    >>> inside("training", "epochs"), inside("", "seed")
    ('training.epochs', 'seed')
    """
    return f"{key}.{name}" if key else str(name)


def shown(value: Any) -> str:
    """A value as it is written on the command line, and no more of it than a message should hold."""
    plain = value is None or isinstance(value, bool)
    words = {None: "null", True: "true", False: "false"}[value] if plain else str(value)
    if isinstance(value, str) and re.fullmatch(r"[-+.\d]*|(?i:true|false|null|nan|inf)", value):
        words = repr(value)  # a text in quotes, not the number or word that it looks like
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}... ({len(words):,} letters)"


def refusal(key: str, value: Any, allowed: str, example: str) -> str:
    """What was got, what is allowed, what to do."""
    return f"{key}={shown(value)} is refused: allowed is {allowed}. Write for instance {key}={example}"


def unknown(where: str, name: str, known: Iterable[str]) -> str:
    """That a key is read by nobody, and the keys beside it, the nearest first.

    >>> unknown("training", "epoch", ["epochs", "optimizer"])
    'training.epoch is read by nobody. Did you mean training.epochs? The keys of training are: epochs, optimizer'
    """
    if new := renamed(where, name):
        return new
    names = [str(one) for one in known if one == "_target_" or not str(one).startswith("_")]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(inside(where, one) for one in close)}?" if close else " Leave it out."
    place = f"of {where}" if where else "at the top"
    return f"{inside(where, shown(name))} is read by nobody.{hint} The keys {place} are: {', '.join(names)}"
