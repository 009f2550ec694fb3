"""`lowrank-exp store`: what lies in the store, whether it is whole, and what no job uses any more."""

import argparse
import contextlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lowrank_exp.files.exclusion import is_held
from lowrank_exp.files.place import take_away
from lowrank_exp.job.inventory import KINDS, NETWORK, Item, Uses, find_damage, list_items, unused, uses_of
from lowrank_exp.text.plain_text import plain, plain_lines

FINE, BROKEN, UNUSABLE = 0, 1, 2
SHOWN = 3  # jobs behind a phase


def main(argv: Sequence[str]) -> int:
    """List, verify or prune a store, and give the exit status, see `lowrank-exp store --help`."""
    arguments = _parser().parse_args(argv)
    outputs = arguments.outputs or [arguments.store.parent if arguments.store else Path("outputs")]
    store = arguments.store or outputs[0] / "store"
    try:
        if not store.is_dir():
            raise ValueError(f"{store} is not a folder: name the store, --store PATH (paths.store of the jobs)")
        return arguments.run(arguments, store, outputs)
    except (ValueError, OSError) as error:
        print(f"lowrank-exp store: {plain_lines(str(error))}", file=sys.stderr)
        return UNUSABLE


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--store", type=Path, metavar="PATH", help="of the store (default: store in the outputs)")
    common.add_argument(
        "--outputs",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="all folders whose jobs use the store (default: the folder that the store lies in, or outputs)",
    )
    parser = argparse.ArgumentParser(
        prog="lowrank-exp store",
        description="The store keeps what jobs share: networks after finished phases, checkpoints of unfinished ones, "
        "SVDs of layers, times and scores. Exit status: 0; 1 if something is broken; 2 if an argument is wrong.",
    )
    add = parser.add_subparsers(required=True, metavar="list|verify|prune").add_parser
    listed = add("list", parents=[common], help="what lies there, for which jobs, and its size")
    listed.set_defaults(run=_list)
    verify = add("verify", parents=[common], help="whether every file is whole, and under its own key")
    verify.set_defaults(run=_verify)
    prune = add("prune", parents=[common], help="remove what no job uses, after asking")
    prune.add_argument("--yes", action="store_true", help="do not ask")
    prune.set_defaults(run=_prune)
    return parser


def _list(arguments: argparse.Namespace, store: Path, outputs: Sequence[Path]) -> int:
    items, uses = list_items(store), uses_of(outputs, store)
    for item in items:
        if item.name:
            finished = "" if item.kind == NETWORK else ", unfinished"
            _say(f"{item.name:40} {_in_words(item.bytes):>10}  {_tell_jobs(item, uses, outputs)}{finished}")
    for line in _totals(items):
        _say(line)
    return FINE


def _verify(arguments: argparse.Namespace, store: Path, outputs: Sequence[Path]) -> int:
    items = list_items(store)
    broken = [(item, damage) for item in items if (damage := find_damage(item)) is not None]
    for item, damage in broken:
        _say(f"broken: {item.path}: {damage}")
    for line in _totals(items):
        _say(line)
    _say(f"{len(broken)} of {len(items)} are broken: jobs that need them make them again" if broken else "all is whole")
    return BROKEN if broken else FINE


def _prune(arguments: argparse.Namespace, store: Path, outputs: Sequence[Path]) -> int:
    uses = uses_of(outputs, store)
    if not uses.all:
        where = ", ".join(map(str, outputs))
        raise ValueError(
            f"there is no job below {where}, so that everything would go: name --outputs PATH, or delete it"
        )
    found, kept = unused(list_items(store), uses, lambda name: is_held(store / f"{name}.lock"))
    for line in kept:
        _say(line)
    if not found:
        _say(f"nothing to remove: the {len(uses.all)} jobs use the rest")
        return FINE
    for item in found:
        _say(f"{item.path} {_in_words(item.bytes)}")
    _say(f"used by none of {len(uses.all)} jobs:")
    for line in _totals(found):
        _say(line)
    if not arguments.yes and not _agreed():
        _say("nothing is removed")
        return FINE
    for item in found:
        _remove(item, store)
    _say(f"removed: {_in_words(sum(item.bytes for item in found))}")
    return FINE


def _agreed() -> bool:
    try:
        return input("remove them? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _remove(item: Item, store: Path) -> None:
    if (aside := take_away(item.path)) is not None:
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    if item.name:
        with contextlib.suppress(FileNotFoundError):
            (store / f"{item.name}.lock").unlink()


def _tell_jobs(item: Item, uses: Uses, outputs: Sequence[Path]) -> str:
    jobs = uses.jobs.get(item.name, ())
    if not jobs:
        return "no job"
    names = [
        next((str(job.relative_to(root)) for root in outputs if job.is_relative_to(root)), str(job)) for job in jobs
    ]
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} {'job' if len(names) == 1 else 'jobs'}: {', '.join(names[:SHOWN])}{more}"


def _totals(items: Sequence[Item]) -> list[str]:
    """How many of every kind, and their bytes."""
    lines = []
    for kind in KINDS:
        of_kind = [item.bytes for item in items if item.kind == kind]
        if of_kind:
            lines.append(f"{len(of_kind):>6} {kind:13} {_in_words(sum(of_kind)):>10}")
    return lines


def _in_words(count: int) -> str:
    """Bytes in decimal units.

    >>> _in_words(999), _in_words(12_345), _in_words(2_000_000_000)
    ('999 B', '12.3 kB', '2.0 GB')
    """
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.95 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _say(line: str) -> None:
    print(plain(line))
