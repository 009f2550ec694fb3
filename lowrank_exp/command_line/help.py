"""`lowrank-exp --help`: what can be said on the command line, read from the configuration itself.

Hydra's own help takes seconds to list the groups and leaves out the comments, which are the explanation.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from lowrank_exp.command_line.keys.kinds import Kind, Record
from lowrank_exp.command_line.keys.root import ROOT
from lowrank_exp.command_line.tables import FOLDER, read_table, table_names, table_path

INTRODUCTION = """\
lowrank-exp: train a network, make it smaller, measure what that cost.

  lowrank-exp                                          LeNet-5 on digits to half its MACs, in a minute
  lowrank-exp model=resnet20 rank=energy rank.macs=0.4 any key below is an override, any group a choice
  lowrank-exp -m rank.macs=0.3,0.5 seed=0,1,2          a sweep; the same command again goes on where it was
  lowrank-exp export=onnx latency.runtime=onnxruntime  the small network as a file, and how fast its runtime is
  lowrank-exp method=evaluate model.weights=small.onnx an exported file measured by itself
  lowrank-exp experiment=digits_budgets                a table: the experiment carries its own sweep
  lowrank-report outputs/digits_budgets                the table, beside the paper's where there is one

flags, before any override: -m sweep | --cfg job the composed configuration | -p KEY a part of it | --config-dir FOLDER
       your own groups | --hydra-help | debug=true tracebacks
"""


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
    lines += [f"  {group:14} {', '.join(names)}" for group, names in options.items()]
    lines += ["", "tables (experiment=table) and their rows (experiment=table hydra.mode=RUN row=table/row)"]
    for name in table_names(folders):
        table = read_table(table_path(name, folders))
        lines.append(f"  {name:21} {', '.join(table.rows) or 'sweeps ' + ', '.join(table.sweep)}")
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
