"""Settings per layer by name: an exact name wins over a `re:` pattern; what names no layer is an error."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any


def by_layer(given: Mapping[str, Any], layers: Iterable[str], what: str) -> dict[str, Any]:
    """The settings of `given` spread over the layers they name.

    A key is a layer's name, or `re:` and a regular expression that must match a whole name; where several patterns
    match, the first one counts.

    Raises:
        ValueError: a key that names no layer, or a pattern that does not compile.

    >>> by_layer({"re:conv.*": 2, "conv1": 1}, ["conv1", "conv2", "fc"], "ranks")
    {'conv1': 1, 'conv2': 2}
    """
    layers = list(layers)
    patterns = {}
    for key in given:
        if not str(key).startswith("re:"):
            if key not in layers:
                raise ValueError(f"{what} names the layer {key!r}, which does not exist. {_suggest(str(key), layers)}")
            continue
        try:
            patterns[key] = re.compile(str(key)[3:])
        except re.error as error:
            raise ValueError(f"{what}: {key!r} is not a regular expression: {error}") from error
        if not any(patterns[key].fullmatch(name) for name in layers):
            raise ValueError(f"{what}: {key!r} matches no layer. The layers are: {_list_layers(layers)}")

    settings = {}
    for name in layers:
        matching = [key for key, pattern in patterns.items() if pattern.fullmatch(name)]
        if name in given:
            settings[name] = given[name]
        elif matching:
            settings[name] = given[matching[0]]
    return settings


def _suggest(key: str, layers: list[str]) -> str:
    close = difflib.get_close_matches(key, layers, n=3, cutoff=0.5)
    did_you_mean = f"Did you mean {' or '.join(repr(name) for name in close)}? " if close else ""
    return f"{did_you_mean}The layers are: {_list_layers(layers)}; a pattern starts with re:"


def _list_layers(layers: list[str]) -> str:
    shown = ", ".join(layers[:30])
    return shown if len(layers) <= 30 else f"{shown} ... ({len(layers)} in all)"
