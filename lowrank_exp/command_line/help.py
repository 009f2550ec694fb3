"""`lowrank-exp --help`: what can be said on the command line, read from the configuration itself.

Hydra's own help takes seconds to list the groups and leaves out the comments, which are the explanation.
"""

import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from lowrank_exp.command_line.keys.kinds import Kind, Record
from lowrank_exp.command_line.keys.root import ROOT
from lowrank_exp.command_line.option_pages import Key, Page, option_names, read_page, root_keys
from lowrank_exp.command_line.tables import FOLDER, read_table, table_names, table_path

INTRODUCTION = """\
lowrank-exp: train a network, make it smaller, measure what that cost.

  lowrank-exp                                          LeNet-5 on digits to half its MACs, in a minute
  lowrank-exp model=resnet20 rank=energy rank.macs=0.4 any key below is an override, any group a choice
  lowrank-exp -m rank.macs=0.3,0.5 seed=0,1,2          a sweep; the same command again goes on where it was
  lowrank-exp export=onnx latency.runtime=onnxruntime  the small network as a file, and how fast its runtime is
  lowrank-exp method=evaluate model.weights=small.onnx an exported file measured by itself
  lowrank-exp experiment=digits_budgets                a table: the experiment carries its own sweep
  lowrank-exp store list                               what jobs share, on disk: list, verify or prune it
  lowrank-report outputs/digits_budgets                the table, beside the paper's where there is one

help: lowrank-exp help rank             what the options of a group are
      lowrank-exp help latency          what a key is and what it may be, rank.macs, or all keys below it
      lowrank-exp rank=knapsack --help  every key of the chosen options, what it is and what it may be

flags, before any override: -m sweep | --cfg job the composed configuration | -p KEY a part of it | --config-dir FOLDER
       your own groups | -v the tables of every job of a sweep | --hydra-help | debug=true tracebacks
"""


def asked_help(arguments: Sequence[str], conf: Path, own: Sequence[Path] = ()) -> str | None:
    """What `help [group [option]]` or `--help` beside overrides asks for; None where the arguments ask for no help.

    Raises:
        ValueError: a group, an option or a key that is not there.
    """
    flags, rest = {"-h", "--help"} & set(arguments), [one for one in arguments if not one.startswith("-")]
    folders = (conf, *own)
    if rest[:1] == ["help"]:
        if len(rest) == 1:
            return help_text(conf, own)
        group, *options = rest[1:]
        if not (names := option_names(folders, group)):
            return "\n".join(line for key in rest[1:] for line in _key_lines(folders, key))
        if options:
            return "\n\n".join(page_text(_page(folders, group, option)) for option in options)
        pages = [_page(folders, group, name) for name in names]
        return "\n".join(_wrapped(f"{group}={page.option}", page.what) for page in pages)
    if not flags:
        return None
    chosen = [one.lstrip("+").split("=", 1) for one in rest if "=" in one]
    pages = [_page(folders, group, option) for group, option in chosen if option_names(folders, group)]
    return "\n\n".join(map(page_text, pages)) if pages else help_text(conf, own)


def page_text(page: Page) -> str:
    """An option of a group: what it is, then every key with its value, what it is and what it may be."""
    return "\n".join([_wrapped(f"{page.group}={page.option}", page.what), *(_key_text(key, "  ") for key in page.keys)])


def _key_text(key: Key, before: str = "") -> str:
    allowed = f" [{key.allowed}]" if key.allowed and key.allowed not in key.what else ""
    name = f"{key.name}={key.value}" if key.value else key.name
    return _wrapped(f"{before}{name}", f"{key.what}{allowed}".strip())


def _key_lines(folders: Sequence[Path], name: str) -> list[str]:
    """A key, or all below it: of the root, or of the options of a group, those together that say the same of it.

    Raises:
        ValueError: there is neither such a key nor such a group.
    """
    root = root_keys(folders[0])
    if found := [key for key in root if f"{key.name}.".startswith(f"{name}.")]:
        return [_key_text(key) for key in found]
    options_of: dict[str, list[str]] = {}
    for group in group_names(folders):
        if name.startswith(f"{group.replace('/', '.')}."):
            for option in option_names(folders, group):
                for key in _page(folders, group, option).keys:
                    if f"{key.name}.".startswith(f"{name}."):
                        options_of.setdefault(_key_text(key), []).append(f"{group}={option}")
    if not options_of:
        keys = ", ".join(dict.fromkeys(key.name.partition(".")[0] for key in root))
        groups = ", ".join(group_names(folders))
        raise ValueError(f"there is neither a group nor a key {name!r}; groups: {groups}; keys: {keys}")
    return [f"{text}\n{_wrapped('', ', '.join(options))}" for text, options in options_of.items()]


def group_names(folders: Sequence[Path]) -> list[str]:
    """The groups of some folders of configuration."""
    found = {path.parent.relative_to(folder).as_posix() for folder in folders for path in folder.rglob("*.yaml")}
    return sorted(found - {".", FOLDER, "recipe"})


def _page(folders: Sequence[Path], group: str, option: str) -> Page:
    own = [folder for folder in reversed(folders) if (folder / group / f"{option}.yaml").is_file()]
    return read_page(own[0] if own else folders[0], group, option)


def _wrapped(name: str, what: str) -> str:
    """A name, and what it is: behind it, or in lines below it, within the width of the terminal."""
    width = max(40, min(120, shutil.get_terminal_size((100, 24)).columns))
    indent = " " * 26
    begin = f"{name:24}  " if len(name) <= 24 else f"{name}\n{indent}"
    lines = textwrap.wrap(what, width - len(indent), break_long_words=False, break_on_hyphens=False)
    return (begin + f"\n{indent}".join(lines)).rstrip()


def help_text(conf: Path, own: Sequence[Path] = ()) -> str:
    """Introduction, groups with their options, tables with their rows, and the root configuration with its comments.

    Args:
        conf: our configuration.
        own: further folders of configuration.
    """
    folders = (conf, *own)
    files = [path.relative_to(folder) for folder in folders for path in folder.rglob("*.yaml")]
    options: dict[str, list[str]] = {}
    for path in sorted(path.with_suffix("") for path in files if path.parts[0] not in (FOLDER, "recipe")):
        if len(path.parts) == 1:
            continue
        options.setdefault(path.parts[0], []).append("/".join(path.parts[1:]))
    lines = [INTRODUCTION, "groups (choose one option: group=option)"]
    lines += [_wrapped(f"  {group}", ", ".join(names)) for group, names in options.items()]
    lines += ["", "tables (experiment=table) and their rows (experiment=table hydra.mode=RUN row=table/row)"]
    for name in table_names(folders):
        table = read_table(table_path(name, folders))
        lines.append(_wrapped(f"  {name}", ", ".join(table.rows) or "sweeps " + ", ".join(table.sweep)))
    root = (conf / "config.yaml").read_text(encoding="utf-8").partition("\nhydra:")[0]
    lines += ["", "root configuration (override: key=value)", *(f"  {line}" for line in with_kinds(root))]
    return "\n".join(lines)


def with_kinds(root: str) -> list[str]:
    """The lines of the root configuration, with what is allowed behind every key that has a value.

    >>> with_kinds("latency:\\n  seconds: 0.2 # how long")
    ['latency:', '  seconds: 0.2 # how long [a number in [0, 3600]]']
    """
    lines, parent = [], ROOT
    for line in root.splitlines():
        key = re.match(r"( *)(\w+):( \S)?", line)
        parent = ROOT if key and not key[1] else parent
        kind: Kind | None = parent.keys.get(key[2]) if key and isinstance(parent, Record) else None
        if key and kind is not None and not key[3]:
            parent = kind
        lines.append(f"{line} [{kind.allowed}]" if key and kind is not None and key[3] else line)
    return lines
