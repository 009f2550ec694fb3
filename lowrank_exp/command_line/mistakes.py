"""What is said of an error: what was got, what is allowed, what to do; never Python's own words alone."""

import difflib
import errno
import re
from collections.abc import Sequence

import yaml
from hydra.errors import InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationKeyError, OmegaConfBaseException

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.keys.renamed import renamed
from lowrank_exp.command_line.keys.training import TRAIN

WORD = 300  # letters of a word that is shown
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONG = 4000  # letters of a message
KEY = re.compile(r"(\+{1,2}|~)?[\w$][^\s=]*")  # before the = of an override
OURS = (ValueError, OSError, ImportError, OmegaConfBaseException)  # whose words are meant for users


def explained(error: BaseException) -> str:
    """What was got, what is allowed and what to do, of an error of ours or of Hydra's."""
    return shortened(_explained(error))


def shortened(message: str) -> str:
    """A message without the middle of very long words, such as a value that was pasted by mistake.

    >>> shortened("got " + "x" * 10_000)[-40:]
    'xx... (10,000 letters) ...xxxxxxxxxxxxxx'
    """
    message = re.sub(rf"\S{{{WORD},}}", _cut, message)
    return message if len(message) <= LONG else f"{message[: LONG - 1000]} ... {message[-900:]}"


def _cut(match: re.Match) -> str:
    word = match[0]
    return f"{word[: WORD - 50]}... ({len(word):,} letters) ...{word[-14:]}"


def _explained(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(error, InstantiationException) and cause is not None:
        place = str(error).rpartition("full_key: ")[2].strip() if "full_key: " in str(error) else ""
        words = _explained(cause) if isinstance(cause, OURS) else f"{type(cause).__name__}: {cause}"
        return f"{place}: {words}" if place else words
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    if type(error).__name__ == "TerminatedWorkerError":  # joblib's, which is there with its launcher alone
        return (
            "the process that ran this job was ended from outside, often for want of memory. The same command goes on "
            "with what is missing"
        )
    if isinstance(error, InterpolationKeyError):
        return missing(error)
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        return no_such_option(error.missing_cfg_file, error.options)
    if str(error).startswith("Config group override must be"):  # Hydra does not say which one
        return (
            "a group was given a number, null or another value that is not the name of one of its options. Write "
            "group=option, such as model=resnet20; --help lists the options of every group"
        )
    if removed := re.match(r"Could not delete from config\. '(.*)' does not exist", str(error)):
        return f"~{removed[1]} takes away what is not there. Leave it out, or see what there is by --cfg job"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be read or written: {error.strerror}. Give a place where that is possible"
    if isinstance(error, OSError) and error.errno in FULL:
        return (
            f"a job's notes or its log cannot be written below paths.outputs: {error.strerror}. Make room there, or "
            "name another folder"
        )
    # Hydra's own advice is to add an unknown key, which would then be read by nobody; and its search path helps nobody.
    message = str(error).partition("\nTo append to your config")[0].partition("\nConfig search path:")[0].strip()
    if isinstance(cause, OmegaConfBaseException):
        message += f"\n{allowed_keys(cause)}"
    return message or type(error).__name__


def unreadable(override: str) -> str:
    """That an override is not in Hydra's grammar.

    >>> print(unreadable("data.root=~x/y"))
    data.root=~x/y cannot be read: a value with signs such as ~ , { } [ ] ( ) is put in quotes: 'data.root="~x/y"'
    """
    key, equals, value = override.partition("=")
    if not equals or not KEY.fullmatch(key):
        return f"{override} cannot be read: an override is key=value, +key=value or ~key, and flags stand before it"
    value = value.strip("\"'")
    return (
        f"{override} cannot be read: a value with signs such as ~ , {{ }} [ ] ( ) is put in quotes: '{key}=\"{value}\"'"
    )


def missing(error: InterpolationKeyError) -> str:
    """That a key is not there, from which another one takes its value."""
    key = re.search(r"Interpolation key '([^']*)' not found", str(error))
    name = key[1] if key else "a key"
    return f"{name} is missing, and {error.full_key or 'another key'} takes its value from it. Leave it in"


def no_such_option(name: str, options: Sequence[str]) -> str:
    """That a group of the configuration has no such option; rows are options too, `<table>/<row>` of the group row.

    >>> print(no_such_option("decomposition/cpp", ["alds", "cp"]))
    there is no decomposition/cpp. Did you mean cp? The options of decomposition are: alds, cp
    >>> print(no_such_option("row/mine/halve", ["mine/half", "other/first"]))
    there is no row/mine/halve. Did you mean half? The rows of mine are: half
    """
    name = name.removesuffix(".yaml")
    group, _, option = name.rpartition("/")
    told = f"options of {group}"
    if group.startswith("row"):
        table = group.removeprefix("row").lstrip("/")
        rows = [one.removeprefix(f"{table}/") for one in options if one.startswith(f"{table}/")]
        tables = sorted({one.partition("/")[0] for one in options})
        option, options, told = (option, rows, f"rows of {table}") if rows else (table or option, tables, "tables")
    close = difflib.get_close_matches(option, options, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"there is no {name}. {hint}The {told} are: {', '.join(options)}"


def allowed_keys(error: OmegaConfBaseException) -> str:
    """The keys beside a misspelt one, the nearest first."""
    parent, key = error.parent_node, str(error.key)
    if not isinstance(parent, DictConfig) or not isinstance(error, ConfigAttributeError | ConfigKeyError):
        return str(error).partition("\n")[0]
    where = error.full_key.rpartition(".")[0] if error.full_key else ""
    if new := renamed(where, key):
        return new
    keys = [str(k) for k in parent if k != "hydra"]
    if "recipe" in keys:  # whatever it holds can be set beside it
        keys += [name for name in TRAIN if name not in keys]
    if not keys:
        return (
            f"{where} stands for another group: override that group instead, such as rank.macs or training.optimizer.lr"
        )
    close = difflib.get_close_matches(key, keys, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    if options := options_with(where, key):
        hint += f"There is {where}.{key} with {where}={' | '.join(options)}. "
    return f"{hint}The keys {f'of {where}' if where else 'at the top'} are: {', '.join(keys)}"


def options_with(group: str, key: str) -> list[str]:
    """The options of a group of the configuration whose files have that key.

    >>> options_with("model", "groups")
    ['alexnet']
    """
    files = sorted((CONF / group).glob("*.yaml")) if group.isidentifier() else []
    return [path.stem for path in files if key in (yaml.safe_load(path.read_text(encoding="utf-8")) or {})]
