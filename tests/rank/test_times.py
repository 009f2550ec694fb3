"""Measured times in profiles."""

from dataclasses import replace

import numpy as np

from lowrank_exp.rank import Cost, Costs, LayerProfile, Offer
from lowrank_exp.rank.multiples import at_multiples
from lowrank_exp.rank.problem import planned_layer

CONDITIONS = {"runtime": "onnxruntime", "version": "1.23", "threads": 1, "batch_size": 1}


def timed(ranks, latency, dense=1000, decomposition="spatial_svd", **more):
    numbers = np.arange(1, len(ranks) + 1)
    offer = Offer(decomposition, ranks, Costs(numbers * 10, numbers, latency=np.array(latency)), kept=numbers / 100)
    return LayerProfile("a", "conv", Cost(100, 10, latency=dense), (offer,), timed=CONDITIONS, **more)


def test_a_rung_has_its_time_and_without_times_it_has_none():
    costs = Costs(np.array([10, 20]), np.array([1, 2]), latency=np.array([300, 400]))
    assert costs.at(1) == Cost(20, 2, 8, 400)
    assert costs.some([1]).latency.tolist() == [400]
    assert costs.known == ("macs", "weights", "bytes", "latency")
    without = Costs(np.array([10, 20]), np.array([1, 2]))
    assert without.at(1) == Cost(20, 2, 8, 0)
    assert without.some([1]).latency.tolist() == []
    assert without.known == ("macs", "weights", "bytes")


def test_a_planned_layer_has_the_times_that_were_measured():
    layer = timed((8, 16), [300, 400])
    assert (layer.latency, layer.rank_latency.tolist()) == (1000, [300, 400])
    planned = planned_layer(layer, 16, "")
    assert (planned.latency_before, planned.latency_after) == (1000, 400)
    dense = planned_layer(layer, None, "")
    assert (dense.latency_before, dense.latency_after) == (1000, 1000)
    untimed = planned_layer(replace(layer, timed=None), 16, "")
    assert (untimed.latency_before, untimed.latency_after) == (None, None)


def test_multiples_are_those_whose_time_was_measured():
    single = at_multiples(timed((4, 8, 12, 16), [100, 200, 300, 400]), 8)
    assert (single.ranks, single.rank_latency.tolist()) == ((8, 16), [200, 400])
    pairs = at_multiples(timed(((4, 8), (8, 8), (12, 16), (16, 16)), [100, 200, 300, 400], decomposition="tucker2"), 8)
    # (4, 8) and (12, 16) would be raised to pairs that the ladder has too.
    assert (pairs.ranks, pairs.rank_latency.tolist()) == (((8, 8), (16, 16)), [200, 400])
    assert pairs.rank_macs.tolist() == [20, 40]
    # (8, 12) would become (8, 16), whose time nobody knows.
    pairs = at_multiples(timed(((8, 8), (8, 12), (16, 16)), [100, 200, 300], decomposition="tucker2"), 8)
    assert (pairs.ranks, pairs.rank_latency.tolist()) == (((8, 8), (16, 16)), [100, 300])
    none = at_multiples(timed((4, 12), [100, 200]), 8)
    assert none.offers == ()
    assert none.refusal == "no multiple of 8 among its ranks with a measured time, the highest 12"
