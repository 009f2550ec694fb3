import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowrank_exp.models import cifar_resnet
from lowrank_exp.pruning.coupling import channel_groups
from lowrank_exp.pruning.criteria import L1, filter_scores
from lowrank_exp.pruning.groups import ChannelGroup
from lowrank_exp.pruning.selection import count_share, group_scores, pick_lowest, pick_lowest_of_each, pick_lowest_share

SCORES = {
    "a": torch.tensor([0.4, 0.1, 0.2]),
    "b": torch.tensor([0.3, 0.05, 0.6, 0.7]),
    "c": torch.tensor([0.01, 0.02]),
}


def test_the_lowest_of_all_layers():
    assert pick_lowest(SCORES, 0) == {}
    assert pick_lowest(SCORES, 3) == {"a": (1,), "b": (1,), "c": (0,)}


def test_a_last_filter_passes_its_turn_to_the_next():
    # in rank: c0, c1 (stays), b1, a1, a2, b0, a0 (stays), b2, b3 (stays)
    assert pick_lowest(SCORES, 2) == {"b": (1,), "c": (0,)}
    assert pick_lowest(SCORES, 5) == {"a": (1, 2), "b": (0, 1), "c": (0,)}
    assert pick_lowest(SCORES, 6) == {"a": (1, 2), "b": (0, 1, 2), "c": (0,)}
    with pytest.raises(ValueError, match="7 filters shall go, but only 6 can: each of 3 layers keeps one"):
        pick_lowest(SCORES, 7)


def test_filters_that_are_out_already_neither_go_again_nor_remain():
    assert pick_lowest(SCORES, 2, gone={"c": (1,), "b": (1,)}) == {"a": (1, 2)}
    assert pick_lowest({"a": torch.tensor([0.0, 1.0])}, 0, gone={"a": [0]}) == {}
    assert pick_lowest_share(SCORES, 0.5, gone={"c": (1,), "b": (1,)}) == {"a": (1, 2)}
    assert pick_lowest_of_each(SCORES, 0.5, gone={"a": (0,), "b": (3,)}) == {"b": (1,), "c": (0,)}
    assert pick_lowest_share(SCORES, 0.1, gone={"b": (0, 1)}) == {}


def test_equal_scores_go_in_the_order_of_the_network():
    ones = {"second": torch.ones(3), "first": torch.ones(3)}
    assert pick_lowest(ones, 3) == {"second": (0, 1), "first": (0,)}


def test_a_share_of_all_and_of_each():
    assert pick_lowest_share(SCORES, 0.34) == {"a": (1,), "b": (1,), "c": (0,)}  # floor(3.06)
    assert pick_lowest_share(SCORES, 0.33) == {"b": (1,), "c": (0,)}  # floor(2.97)
    assert pick_lowest_of_each(SCORES, 0.5) == {"a": (1,), "b": (0, 1), "c": (0,)}
    assert pick_lowest_of_each(SCORES, 0.3) == {"b": (1,)}


def test_shares_of_decimal_fractions():
    """floor of the fraction as it is written: 0.29 * 100 is 28.999999999999996."""
    for percent in range(100):
        for F in (10, 96, 100, 4224):
            assert count_share(percent / 100, F) == percent * F // 100


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.floats(-5, 5, width=16), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(0, 30),
)
def test_against_removal_one_by_one(layers, n):
    scores = {str(i): torch.tensor(values, dtype=torch.float64) for i, values in enumerate(layers)}
    n = min(n, sum(len(values) - 1 for values in layers))
    remaining = {name: list(range(len(s_O))) for name, s_O in scores.items()}
    for _ in range(n):
        free = [
            (float(scores[name][f]), int(name), f) for name, kept in remaining.items() if len(kept) > 1 for f in kept
        ]
        _, name, f = min(free)
        remaining[str(name)].remove(f)
    got = pick_lowest(scores, n)
    assert sum(map(len, got.values())) == n
    for name, s_O in scores.items():
        assert sorted(set(range(len(s_O))) - set(got.get(name, ()))) == remaining[name]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: pick_lowest(SCORES, -1), "n=-1 is not a number of filters"),
        (lambda: pick_lowest(SCORES, 1.5), "n=1.5 is not a number of filters"),
        (lambda: pick_lowest({"a": torch.tensor([math.nan, 1.0])}, 1), "a has scores that are not numbers"),
        (lambda: pick_lowest_share(SCORES, 1), "p=1 is not a fraction"),
        (lambda: pick_lowest_of_each(SCORES, -0.1), "p=-0.1 is not a fraction"),
        (lambda: group_scores(SCORES, [], how="median"), "how='median' is not known"),
    ],
)
def test_mistakes_are_told(make, told):
    with pytest.raises(ValueError, match=told):
        make()


GROUP = ChannelGroup(
    "a",
    3,
    producers={"x": ((0,), (1,), (2,)), "a": ((0,), (2,), ()), "b": ((0, 1), (2, 3), (4, 5))},
)
GROUP_SCORES = {"a": torch.tensor([4.0, 100.0, 1.0]), "b": torch.tensor([1.0, 2.0, -3.0, -1.0, 5.0, 0.0])}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("sum", [7.0, -3.0, 5.0]),
        ("mean", [7 / 3, -1.0, 2.5]),
        ("max", [4.0, 1.0, 5.0]),
        ("first", [4.0, 1.0, 5.0]),  # channel 2 is made by b alone
    ],
)
def test_scores_of_coupled_channels(how, expected):
    assert group_scores(GROUP_SCORES, [GROUP], how)["a"].tolist() == pytest.approx(expected)


def test_a_channel_that_no_scored_filter_makes():
    with pytest.raises(ValueError, match="no scored filter makes channel 2 of a"):
        group_scores({"a": GROUP_SCORES["a"]}, [GROUP])


def split(*blocks):
    """A group whose grouped convolutions read it in these parts."""
    channels = tuple((c,) for part in blocks[0] for c in part)
    return [ChannelGroup("g", len(channels), {"g": channels}, blocks=blocks)]


BLOCKS = split(((0, 1, 2), (3, 4, 5)))


def test_grouped_layers_lose_as_many_channels_in_every_group():
    scores = {"g": torch.tensor([0.0, 0.1, 0.2, 0.5, 0.4, 0.9]), "h": torch.tensor([0.15, 0.27, 0.26])}
    # together go 0 and 4 (0.2), 1 and 3 (0.3); 2 and 5 stay
    assert pick_lowest(scores, 3, groups=BLOCKS) == {"g": (0, 4), "h": (0,)}
    assert pick_lowest(scores, 2, groups=BLOCKS) == {"h": (0, 2)}  # the pair does not fit behind the first one
    assert pick_lowest(scores, 6, groups=BLOCKS) == {"g": (0, 1, 3, 4), "h": (0, 2)}
    assert pick_lowest_of_each({"g": scores["g"]}, 0.5, groups=BLOCKS) == {"g": (0, 4)}
    assert pick_lowest(scores, 2, groups=BLOCKS, gone={"g": (0, 4), "h": (0, 1)}) == {"g": (1, 3)}


def test_two_partitions_of_the_same_channels():
    both = split(((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 1), (2, 3), (4, 5), (6, 7)))
    got = pick_lowest({"g": torch.arange(8.0)}, 5, groups=both)
    assert got == {"g": (0, 2, 4, 6)}
    with pytest.raises(ValueError, match="into unequal parts"):
        pick_lowest({"g": torch.arange(6.0)}, 1, groups=split(((0, 1, 2), (3, 4, 5)), ((0, 1, 3), (2, 4, 5))))
    with pytest.raises(ValueError, match="into unequal parts"):
        pick_lowest({"g": torch.arange(6.0)}, 1, groups=BLOCKS, gone={"g": (0,)})


def test_channels_between_grouped_convolutions_stay_balanced():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(), nn.Conv2d(12, 8, 1, groups=2)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)),
    )
    groups = channel_groups(network, torch.zeros(1, 3, 6, 6))
    assert {"0", "2"} <= {group.name for group in groups}
    layers = [name for group in groups for name in group.producers]
    scores = group_scores(filter_scores(network, layers, L1()), groups)
    chosen = pick_lowest_of_each(scores, 0.5, groups=groups)
    for group in groups:
        kept = tuple(sorted(set(range(group.channels)) - set(chosen.get(group.name, ()))))
        assert group.balanced(kept)
        assert len(kept) <= group.channels - 2


# Behind a shortcut that pads, the narrow layer makes channels 1 and 2 of four, and the wide one all.
UNEVEN = ChannelGroup("narrow", 4, {"narrow": ((), (0,), (1,), ()), "wide": ((0,), (1,), (2,), (3,))})


def test_no_layer_of_a_group_is_emptied_while_others_keep_filters():
    scores = {"narrow": torch.tensor([0.9, 0.1, 0.2, 0.8]), "other": torch.tensor([0.5, 0.6])}
    # in rank: 1, 2 (the narrow layer's last, stays), other 0, other 1 (stays), 3, 0
    assert pick_lowest(scores, 2, groups=[UNEVEN]) == {"narrow": (1,), "other": (0,)}
    assert pick_lowest(scores, 4, groups=[UNEVEN]) == {"narrow": (0, 1, 3), "other": (0,)}
    assert pick_lowest(scores, 9, groups=[UNEVEN]) == {"narrow": (0, 1, 3), "other": (0,)}
    assert pick_lowest(scores, 2, gone={"narrow": (2,)}, groups=[UNEVEN]) == {"narrow": (3,), "other": (0,)}
    assert pick_lowest_of_each({"narrow": scores["narrow"]}, 0.5, groups=[UNEVEN]) == {"narrow": (1, 3)}


def test_the_stem_of_a_residual_network_keeps_a_filter():
    """Shortcuts that pad leave the stem 16 of the 64 channels that one stream has."""
    network = cifar_resnet(8)
    groups = channel_groups(network, torch.zeros(1, 3, 8, 8))
    (stream,) = [group for group in groups if group.name == "conv1"]
    mine = [c for c, entries in enumerate(stream.producers["conv1"]) if entries]
    assert (stream.channels, len(mine)) == (64, 16)
    scores = torch.ones(64).index_fill(0, torch.tensor(mine), 0)
    (chosen,) = pick_lowest({"conv1": scores}, 16, groups=groups).values()
    assert len(chosen) == 16
    assert len(set(mine) - set(chosen)) == 1


def test_filters_that_go_together_leave_multiples():
    scores = {"a": torch.arange(10.0), "b": torch.arange(7.0) + 2.5, "c": torch.zeros(3)}
    gone = [pick_lowest(scores, n, together=4) for n in (1, 2, 4, 5, 9, 20)]
    assert gone[0] == {}  # a has two too many, b three, c is one block
    assert gone[1] == {"a": (0, 1)}
    assert gone[2] == {"a": (0, 1)}
    assert gone[3] == {"a": (0, 1), "b": (0, 1, 2)}
    assert gone[4] == gone[5] == {"a": (0, 1, 2, 3, 4, 5), "b": (0, 1, 2)}
    halves = ChannelGroup("a", 8, {"a": tuple((c,) for c in range(8))}, blocks=(((0, 1, 2, 3), (4, 5, 6, 7)),))
    assert pick_lowest({"a": torch.arange(8.0)}, 7, groups=[halves], together=4) == {"a": (0, 1, 4, 5)}
