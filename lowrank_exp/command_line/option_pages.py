"""What an option of a group is, read from the comments of its YAML file: for the help and for the documentation."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lowrank_exp.command_line.keys.kinds import Kind, Record, Target
from lowrank_exp.command_line.keys.root import ROOT, keys_of

HIDDEN = ("_target_", "_partial_", "_convert_", "_recursive_")  # how Hydra makes the thing, not what it does
LINE = re.compile(r"( *)([\w\\:.*'\"-]+):(?: +(.*))?")


@dataclass(frozen=True)
class Key:
    """One key: its full name, its value as written, what its comment says, what it may be ("": that is not known)."""

    name: str
    value: str
    what: str
    allowed: str


@dataclass(frozen=True)
class Page:
    """One option of a group: `what` it is, the class or function that it names, its keys in order."""

    group: str
    option: str
    what: str
    target: str | None
    keys: tuple[Key, ...]


def read_page(folder: Path, group: str, option: str) -> Page:
    """The page of `group=option` in a folder of configuration.

    Raises:
        ValueError: there is no such option; the message names those that are there.
    """
    path = folder / group / f"{option}.yaml"
    if not path.is_file():
        there = ", ".join(option_names([folder], group)) or "no options"
        raise ValueError(f"there is no {group}={option}; {group} has: {there}")
    text = path.read_text(encoding="utf-8")
    head = "".join(re.findall(r"\A(?:#.*\n)*", text))
    what = [line.lstrip("# ").rstrip() for line in head.splitlines() if not line.startswith("# @package")]
    content = yaml.safe_load(text) or {}
    target = content.get("_target_") if isinstance(content, dict) else None
    where = "" if "@package _global_" in head else group
    return Page(group, option, " ".join(what), target, tuple(_keys(text[len(head) :], where, content)))


def root_keys(folder: Path) -> tuple[Key, ...]:
    """The keys of the root of a folder of configuration."""
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    return tuple(_keys(text, "", yaml.safe_load(text)))


def option_names(folders: Sequence[Path], group: str) -> list[str]:
    """The options of a group in some folders of configuration, sorted."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _keys(text: str, where: str, content: dict) -> Iterator[Key]:
    """Every key that has a value, and every one that a comment explains."""
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = LINE.fullmatch(line.rstrip())
        if not found:
            continue
        indent, name, rest = len(found[1]), found[2], found[3] or ""
        path = [*((depth, one) for depth, one in path if depth < indent), (indent, name)]
        names = [one for _, one in path]
        if names[0] in ("defaults", "hydra") or name in HIDDEN:
            continue
        value, _, what = f" {rest}".partition(" # ")
        value, what = value.strip(), what.strip()
        if value or what:
            yield Key(".".join([*filter(None, [where]), *names]), value, what, _allowed(where, names, content))


def _allowed(where: str, names: Sequence[str], content: dict) -> str:
    """What the key may be, as far as the configuration's kinds know it."""
    kind: Kind | None = ROOT.keys.get(where) if where else ROOT
    node: object = content
    for name in names:
        known = None
        if isinstance(node, dict) and "_target_" in node:
            known = (keys_of(node) or {}).get(name)
        if known is None and isinstance(kind, Record | Target):
            known = (kind.keys if isinstance(kind, Record) else kind.extra).get(name)
        kind, node = known, node.get(name) if isinstance(node, dict) else None
    return "" if kind is None or isinstance(kind, Record | Target) else kind.allowed
