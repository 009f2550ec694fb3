"""YAML from a file that may come from anywhere: plain values, and no more of them than were meant."""

from typing import Any

import yaml

UNFOLDED = 1_000_000  # values


def yaml_content(text: str) -> Any:
    """What a YAML document holds, as `yaml.safe_load` gives it.

    A few lines may refer to each other so that they stand for a list of billions: then an alias is refused before
    anything is made of it.

    Raises:
        ValueError: aliases that stand for more than a million values or for themselves, or lists nested too deep.
        yaml.YAMLError: it is not YAML.

    >>> yaml_content("{a: &x [1, 2], b: *x}")
    {'a': [1, 2], 'b': [1, 2]}
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("it has lists within lists without end") from None
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """The values that a node stands for, those of its aliases counted each time."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise ValueError(f"an alias stands for a list that holds itself{node.start_mark}")
        return known[id(node)]
    known[id(node)] = -1
    if isinstance(node, yaml.MappingNode):
        size = 1 + sum(_size(key, known) + _size(value, known) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        size = 1 + sum(_size(one, known) for one in node.value)
    else:
        size = 1
    if size > UNFOLDED:
        raise ValueError(f"its aliases unfold to more than {UNFOLDED:,} values")
    known[id(node)] = size
    return size
