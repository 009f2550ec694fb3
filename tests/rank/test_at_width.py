"""Ranks of a network carried over to a copy of another width."""

import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import SpatialSVD
from lowrank_exp.rank.at_width import ranks_at_width


def test_every_number_is_multiplied_and_rounded():
    ranks = {"a.0": 10, "b": [25, 59], "c": (4, 12), "d": None, "e": 1}
    assert ranks_at_width(0.125, **ranks) == {"a.0": 1, "b": (3, 7), "c": (1, 2), "d": None, "e": 1}
    assert ranks_at_width(2, **ranks) == {"a.0": 20, "b": (50, 118), "c": (8, 24), "d": None, "e": 2}
    assert ranks_at_width(1.0, conv=7) == {"conv": 7}
    assert ranks_at_width(0.5) == {}


@pytest.mark.parametrize("width", [0.125, 0.25, 0.5])
def test_a_rank_keeps_its_share_of_the_full_rank(width):
    """Up to rounding, and never above the full rank."""
    with torch.device("meta"):
        full = SpatialSVD().full_rank(nn.Conv2d(64, 128, 3))
        narrow = SpatialSVD().full_rank(nn.Conv2d(int(64 * width), int(128 * width), 3))
    for rank in range(1, full + 1):
        found = ranks_at_width(width, conv=rank)["conv"]
        assert 1 <= found <= narrow
        assert abs(found / narrow - rank / full) <= max(0.5, 1 - rank * width) / narrow + 1e-12


@pytest.mark.parametrize(
    ("width", "rank", "message"),
    [
        (0, 3, "width=0, but ranks are multiplied by a number above 0"),
        (True, 3, "width=True"),
        ("0.5", 3, "width='0.5'"),
        (0.5, 2.5, "conv: its rank is a whole number, several of them, or null .* got 2.5"),
        (0.5, [3, 2.5], "conv: its rank"),
        (0.5, [], "conv: its rank"),
        (0.5, "3", "conv: its rank"),
        (0.5, True, "conv: its rank"),
    ],
)
def test_mistakes_are_named(width, rank, message):
    with pytest.raises(ValueError, match=message):
        ranks_at_width(width, conv=rank)
