"""The settling rule on sequences by hand, and which layers a rank policy decides on."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.rank import allocate, profile
from lowrank_exp.rank.candidates import candidates
from lowrank_exp.rank.policies.stable_rank import stable_ranks
from lowrank_exp.rank.settled import settled
from support.cells import cells


def line(slope, epochs=5, start=10.0):
    return [start + slope * epoch for epoch in range(epochs)]


@cells(
    ("slopes", "window", "expected"),
    [
        ([0.1], 5, True),
        ([-0.1], 5, True),
        ([0.0, 0.0, 0.0, 0.11, 0.11, 0.11], 5, False),  # three still move: 0.1 for each
        ([0.0, 0.24, -0.25], 5, True),  # the last two: 0.25
        ([0.0, 0.24, -0.26], 5, False),
        ([0.0, 0.05, 0.5], 5, True),  # the last one: 0.5
        ([0.0, 0.05, 0.51], 5, False),
        ([0.0], 6, False),  # five epochs are too few to tell
        ([], 5, False),
    ],
)
def test_straight_lines(slopes, window, expected):
    curves = {str(place): line(slope) for place, slope in enumerate(slopes)}
    assert settled(curves, window=window, threshold=0.1 + 1e-12) is expected


def test_slopes_are_central_differences_inside_the_window():
    # Differences 1, -1, 1, -1 cancel inside: only the ends count, (1 + 0 + 0 + 0 + 1) / 5.
    zigzag = {"a": [5.0, 6.0, 5.0, 6.0, 5.0]}
    assert settled(zigzag, window=5, threshold=0.4 / 5 + 1e-9)  # the last one may move 5 times as far
    assert not settled(zigzag, window=5, threshold=0.4 / 5 - 1e-9)


def test_only_the_window_counts():
    curve = [100.0, 50.0, 20.0, 10.0, 10.0, 10.0]
    assert settled({"a": curve}, window=3, threshold=1e-9)
    assert not settled({"a": curve}, window=5, threshold=0.5)
    assert not settled({"a": [10.0, 10.0, float("nan")]}, window=3)


def test_a_falling_curve_settles_once():
    curve = [4 + 16 * 0.7**epoch for epoch in range(40)]
    ends = [len(curve[:end]) for end in range(1, 41) if settled({"a": curve[:end], "b": curve[:end]}, 5, 0.02)]
    # The mean over the window of |d rho / d e| by hand, against 2.5 times 0.02.
    first = next(end for end in range(5, 41) if np.abs(np.gradient(curve[end - 5 : end])).mean() <= 0.05)
    assert ends == list(range(first, 41))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window=1 must be an integer of at least 2"),
        ({"window": 2.0}, "window=2.0 must be an integer"),
        ({"threshold": 0}, "threshold=0 must be a number above 0"),
        ({"threshold": float("inf")}, "threshold=inf must be a number above 0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        settled({"a": [1.0, 1.0]}, **options)


def test_stable_ranks_are_numpys_norms():
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=(6, 20)) * np.geomspace(1, decay, 20) for decay in (0.01, 0.5)]
    values_GL = np.stack([np.linalg.svd(group, compute_uv=False) for group in groups])
    plain = [(np.linalg.norm(group) / np.linalg.norm(group, 2)) ** 2 for group in groups]
    assert stable_ranks([(values_GL, 20)], scaled=False) == [pytest.approx(max(plain))]
    assert stable_ranks([(values_GL, 20), (values_GL[:1], 20)]) == [
        pytest.approx((1 + (6 / 20) ** 0.5) ** 2 * one) for one in (max(plain), plain[0])
    ]


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 2))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["1", "2", "4"]),  # rank 1 of the first costs 11 of 18 weights, but as many MACs
        ({"rules": {"2": None}}, ["1", "4"]),
        ({"over": "conv"}, ["1", "2"]),
        ({"ranks": {"1": 2, "2": None}}, ["1", "4"]),
        ({"rules": {"2": 3}}, ["1", "2", "4"]),
    ],
)
def test_candidates(settings, expected):
    layers = profile(convolutions(), torch.zeros(1, 1, 8, 8), "channel_svd")
    cheaper = {name for name, one in layers.items() if one.rank_macs.min() < one.macs}
    expected = [name for name in layers if name in expected or (name == "0" and "0" in cheaper)]
    assert candidates(layers, partial(allocate, policy="stable_rank", times=1.0, **settings)) == expected
    assert candidates(layers, lambda layers: None) == [name for name in layers if name in cheaper]
