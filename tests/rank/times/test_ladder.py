"""Which ranks are timed, and which are worth having."""

import numpy as np
from torch import nn, zeros

from lowrank_exp import profile
from lowrank_exp.rank.times.ladder import find_steps, ranks_to_time


def test_ranks_are_multiples_of_a_block_up_to_a_little_above_dense():
    layer = profile(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)), zeros(1, 64, 8, 8), "spatial_svd")["0"]
    ranks = ranks_to_time(layer)
    # Dense: 9 * 64 * 64 weights; spatial SVD: 6 * 64 for every rank. 1.25 times dense is rank 120.
    assert ranks == (1, 2, 3, 4, 6, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 120)


def test_few_ranks_are_all_timed():
    layer = profile(nn.Sequential(nn.Conv2d(3, 5, 3)), zeros(1, 3, 8, 8), "channel_svd")["0"]
    assert ranks_to_time(layer) == (1, 2, 3, 4, 5)  # rank 5 costs 160 of 135 MACs


def test_pairs_are_raised_to_multiples_and_thinned_out():
    layer = profile(nn.Sequential(nn.Conv2d(96, 128, 3, padding=1)), zeros(1, 96, 4, 4), "tucker2")["0"]
    ranks = np.array(ranks_to_time(layer))
    assert len(ranks) <= 16
    assert (ranks % 16 == 0).all()
    assert (np.diff(ranks, axis=0) >= 0).all()
    macs = [layer.cost(tuple(rank)).macs for rank in ranks.tolist()]
    assert max(macs) <= 1.25 * layer.macs


def test_a_rank_that_a_higher_one_equals_within_a_hundredth_is_left_out():
    assert find_steps([100, 200, 201, 199, 400]) == [0, 3, 4]
    assert find_steps([100, 200, 201, 400]) == [0, 2, 3]
    assert find_steps([5]) == [0]
    assert find_steps([9, 8, 7]) == [2]
