"""Truncation: what the rules keep of spectra set by hand, and what becomes of the layers."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp import measure
from lowrank_exp.decomposition import ChannelSVD, SpatialSVD
from lowrank_exp.edits import edits_of
from lowrank_exp.models import cifar_resnet
from lowrank_exp.svd_form import SVDForm, dense_copy, forms_of, profile_svd, sorted_svd, spectrum, to_svd_, truncate_
from support.cells import cells
from support.layer_cases import filled, relative

BY = cells("by", ["resvd", "by_s"])


def with_values(*values, groups=1):
    """A network of one convolution in SVD form with these singular values in every group."""
    conv = filled(nn.Conv2d(6 * groups, 8 * groups, 3, padding=1, groups=groups, bias=False))
    net = to_svd_(nn.Sequential(conv), "channel_svd", rank=len(values))
    net[0].s.data[:] = torch.tensor(values, dtype=torch.float64)
    return net


def away_from_orthonormal(net):
    """What training leaves behind: U and V that are only nearly orthonormal."""
    generator = torch.Generator().manual_seed(5)
    for form in forms_of(net).values():
        for factor in (form.U, form.V):
            factor.data += 0.1 * torch.randn(factor.shape, generator=generator, dtype=factor.dtype)
    return net


@BY
@cells(
    ("values", "energy", "kept"),
    [
        # Squares 16, 9, 4, 1 of 30: 1, 5, 14 may go at shares of 1/30, 5/30, 14/30.
        ((1, -4, 2, 3), 0.0, 4),
        ((1, -4, 2, 3), 0.99 / 30, 4),
        ((1, -4, 2, 3), 1.01 / 30, 3),
        ((1, -4, 2, 3), 4.99 / 30, 3),
        ((1, -4, 2, 3), 5.01 / 30, 2),
        ((1, -4, 2, 3), 13.9 / 30, 2),
        ((1, -4, 2, 3), 14.1 / 30, 1),
        ((1, -4, 2, 3), 0.99, 1),
        ((2, 2, 2, 2), 0.24, 4),
        ((2, 2, 2, 2), 0.26, 3),
    ],
)
def test_energy_keeps_what_the_rule_names(by, values, energy, kept):
    net = with_values(*values)
    plan = truncate_(net, energy=energy, by=by, costly="truncate")
    assert plan.ranks == {"0": kept}
    assert plan.policy == "energy"
    assert plan.layers["0"].reason == f"energy removed up to {energy:g}, {by}"
    largest = sorted(np.abs(values), reverse=True)[:kept]
    first, second = (part.weight.detach().flatten(1).numpy() for part in net[0])
    got = np.linalg.svd(second @ first, compute_uv=False)[:kept]
    np.testing.assert_allclose(got, largest, rtol=1e-10)


@BY
def test_zeros_go_at_no_energy(by):
    assert truncate_(with_values(0, 3, 0, 0.5), energy=0.0, by="by_s").ranks == {"0": 2}
    plan = truncate_(with_values(0, 3, 0, 0.5), energy=1e-12, by=by)
    assert plan.ranks == {"0": 2}


@BY
@pytest.mark.parametrize(("threshold", "kept"), [(0.5, 4), (1.5, 3), (2.5, 2), (3.5, 1)])
def test_threshold_keeps_what_lies_above(by, threshold, kept):
    plan = truncate_(with_values(1, -4, 2, 3), threshold=threshold, by=by, costly="truncate")
    assert plan.ranks == {"0": kept}
    assert plan.policy == "threshold"


def test_values_at_the_threshold_go():
    assert truncate_(with_values(1, -4, 2, 3), threshold=2.0, by="by_s").ranks == {"0": 2}
    assert truncate_(with_values(0, -4, 0, 3), threshold=0.0, by="by_s").ranks == {"0": 2}


@BY
def test_groups_keep_as_many_values_each(by):
    net = with_values(3, 2, 1, groups=2)
    net[0].s.data = torch.tensor([[1, 3, 2], [0.1, 0.2, 5]], dtype=torch.float64)
    # Squares over both groups, by place: 34, 4.04, 1.01 of 39.05.
    for energy, kept in ((1.0 / 39.05, 3), (1.02 / 39.05, 2), (5.04 / 39.05, 2), (5.06 / 39.05, 1)):
        other = with_values(3, 2, 1, groups=2)
        other[0].s.data = net[0].s.data.clone()
        assert truncate_(other, energy=energy, by=by, costly="truncate").ranks == {"0": kept}
    # Above 1.5 lie two values of the first group, one of the second.
    plan = truncate_(net, threshold=1.5, by=by)
    assert plan.ranks == {"0": 2}
    assert net[0][0].weight.shape == (4, 6, 3, 3)


@BY
def test_layer_that_would_be_emptied(by):
    for values, options in (((0.5, 0.2), {"threshold": 1.0}), ((0.0, 0.0), {"energy": 0.1})):
        net = with_values(*values)
        plan = truncate_(net, by=by, **options)
        assert plan.ranks == {"0": 1}
        told = plan.layers["0"].reason
        assert told.startswith("kept at rank 1, for it would be emptied")
        assert told.endswith(f"its largest value is {values[0]:g}")
        assert net[0][0].weight.shape[0] == 1

        net = with_values(*values)
        with pytest.raises(ValueError, match=r"0 would be emptied: its largest singular value is 0"):
            truncate_(net, by=by, empty="refuse", **options)
        assert isinstance(net[0], SVDForm)


def test_by_s_keeps_the_entries_as_they_are():
    net = away_from_orthonormal(with_values(1, -4, 2, 3))
    form = net[0]
    U, V = form.svd.U_GMR[0].detach(), form.svd.V_GRN[0].detach()
    wanted = (-4 * torch.outer(U[:, 1], V[1]) + 3 * torch.outer(U[:, 3], V[3])).numpy()
    truncate_(net, energy=5.01 / 30, by="by_s")
    first, second = (part.weight.detach().flatten(1).numpy() for part in net[0])
    np.testing.assert_allclose((second @ first).T, wanted, atol=1e-12)


@pytest.mark.parametrize(
    "kind",
    [ChannelSVD(), ChannelSVD(order="pointwise_first"), SpatialSVD(), SpatialSVD(order="horizontal_first")],
    ids=lambda kind: f"{kind.name} {kind.order}",
)
def test_resvd_is_the_best_approximation(kind):
    for rank, groups in itertools.product((1, 2, 4), (1, 2)):
        conv = filled(nn.Conv2d(12, 16, 3, groups=groups))
        net = away_from_orthonormal(to_svd_(nn.Sequential(conv), kind, rank=4))
        matrices_GMN = kind.matrices(dense_copy(net)[0]).detach().numpy()
        values_GR = np.linalg.svd(matrices_GMN, compute_uv=False)[:, :4]
        np.testing.assert_allclose(spectrum(net[0]).numpy(), values_GR, rtol=1e-10)
        dense = dense_copy(net)[0]
        x = torch.randn(2, 12, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        truncate_(net, {"0": rank})
        again = kind.factorize(dense, rank)
        assert relative(net(x).detach(), again(x).detach()) <= 1e-10
        by_s = away_from_orthonormal(to_svd_(nn.Sequential(conv), kind, rank=4))
        best, paper = (
            float((kind.matrices(dense) - _product(sorted_svd(by_s[0], by), rank)).square().sum())
            for by in ("resvd", "by_s")
        )
        assert best == pytest.approx((values_GR[:, rank:] ** 2).sum(), rel=1e-8, abs=1e-20)
        assert best <= paper + 1e-12
        assert rank == 4 or best < 0.999 * paper


def _product(svd, rank):
    left, right = svd.split(rank)
    return left @ right


@BY
def test_truncated_layers_are_plain_and_like_the_form(by):
    conv = filled(nn.Conv2d(6, 8, 3, stride=2, padding=1, padding_mode="circular"), dtype=torch.float32)
    net = away_from_orthonormal(to_svd_(nn.Sequential(conv), "spatial_svd", rank=5)).eval()
    x = torch.randn(2, 6, 9, 9, generator=torch.Generator().manual_seed(0))
    wanted = net(x).detach()
    truncate_(net, {"0": 5}, by=by)
    assert relative(net(x).detach(), wanted) <= 1e-5
    assert [type(part) for part in net[0]] == [nn.Conv2d, nn.Conv2d]
    assert not net[0].training
    assert all(part.weight.requires_grad and part.weight.dtype == torch.float32 for part in net[0])
    assert torch.equal(net[0][1].bias, conv.bias)


def test_what_would_not_be_cheaper_stays_dense():
    # 54 x 8 at rank k: 62 k of 432 weights; dense is cheaper from 7 on.
    values = (9, 8, 7, 6, 5, 4, 3, 1)
    x = torch.zeros(1, 6, 10, 10, dtype=torch.float64)
    for example, unit, before, after in ((None, "weights", 432, 434), (x, "MACs", 43200, 43400)):
        net = with_values(*values)
        dense = dense_copy(net)
        plan = truncate_(net, threshold=2, example_input=example)
        assert plan.ranks == {"0": None}
        assert plan.layers["0"].reason == f"not cheaper than dense: rank 7 has {after:,} of {before:,} {unit}"
        assert plan.layers["0"].macs_after == plan.layers["0"].macs_before == (0 if example is None else 43200)
        assert type(net[0]) is nn.Conv2d
        assert torch.equal(net[0].weight, dense[0].weight)

        net = with_values(*values)
        plan = truncate_(net, threshold=2, example_input=example, costly="truncate")
        assert plan.ranks == {"0": 7}
        assert (plan.layers["0"].weights_before, plan.layers["0"].weights_after) == (432, 434)
        assert (plan.layers["0"].bytes_before, plan.layers["0"].bytes_after) == (8 * 432, 8 * 434)
        assert truncate_(with_values(*values), threshold=3.5, example_input=example).ranks == {"0": 6}

        net = with_values(*values)
        with pytest.warns(UserWarning, match=f"0: rank 7 has {after:,} of {before:,} {unit}: not cheaper"):
            assert truncate_(net, {"0": 7}, example_input=example).ranks == {"0": 7}


def test_plan_tells_of_every_layer():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3))
    to_svd_(net, layers=["0", "1", "2"])
    plan = truncate_(net, {"0": 2, "2": None})
    assert {n: layer.reason for n, layer in plan.layers.items()} == {
        "0": "set by hand",
        "1": "not named in ranks",
        "2": "left dense by hand",
        "3": "it is not in SVD form",
    }
    assert plan.ranks == {"0": 2, "1": None, "2": None, "3": None}
    assert plan.remaining("weights") == pytest.approx((2 * (27 + 8) + 2 * 576 + 288) / (216 + 2 * 576 + 288))

    net = to_svd_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)))
    plan = truncate_(net, {"0": 2}, layers=["0"])
    assert plan.layers["1"].reason == "it stays in SVD form"
    assert list(forms_of(net)) == ["1"]
    assert [edit.layer for edit in edits_of(net)] == ["1", "0"]


def test_mistakes_leave_the_network_alone():
    net = with_values(4, 3, 2, 1)
    plan = truncate_(with_values(4, 3, 2, 1), {"0": 2})
    spatial = to_svd_(nn.Sequential(nn.Conv2d(6, 8, 3)), "spatial_svd")
    for one, given, options, message in (
        (net, None, {}, "exactly one of ranks, energy and threshold, got none"),
        (net, {"0": 1}, {"energy": 0.1}, "got ranks and energy"),
        (net, None, {"energy": 1.0}, r"in \[0, 1\)"),
        (net, None, {"threshold": -1.0}, "0 or more"),
        (net, {"0": 5}, {}, "0: rank 5 is above that of its SVD form, 4"),
        (net, {"0": 9}, {}, "rank 9 is above the full rank 8"),
        (net, {"conv": 1}, {}, "ranks names the layer 'conv'"),
        (net, {"0": 1}, {"by": "svd"}, "by must be resvd"),
        (net, {"0": 1}, {"empty": "drop"}, "empty must be one of keep_one, refuse"),
        (net, {"0": 1}, {"costly": "keep"}, "costly must be one of dense, truncate"),
        (net, {"0": 1}, {"layers": ["1"]}, "layers names the layer '1'"),
        (spatial, plan, {}, "the plan decomposes 0 by channel_svd"),
        (nn.Sequential(nn.Linear(3, 3)), {"0": 1}, {}, "no layer of this network is in SVD form"),
    ):
        before = str(one)
        with pytest.raises(ValueError, match=message):
            truncate_(one, given, **options)
        assert str(one) == before


def test_published_ranks_of_resnet20():
    # ResNet-20 with shortcut b, channel SVD, Hoyer: ranks and speed-up of the public reproduction.
    block_ranks = [8, 8, 8, 4, 4, 3, 14, 20, 15, 16, 1, 1, 30, 56, 50, 30, 21, 11]
    blocks = [f"layer{stage}.{block}.conv{conv}" for stage in (1, 2, 3) for block in range(3) for conv in (1, 2)]
    ranks = {"conv1": 8, **dict(zip(blocks, block_ranks, strict=True))}
    ranks |= {"layer2.0.shortcut.0": 7, "layer3.0.shortcut.0": 9}
    net = cifar_resnet(depth=20, shortcut="b").eval()
    to_svd_(net, {"conv": "channel_svd", "linear": None})
    assert len(forms_of(net)) == 21
    x = torch.zeros(1, 3, 32, 32)
    plan = truncate_(net, ranks, example_input=x)
    convolutions = [layer for name, layer in plan.layers.items() if name != "linear"]
    before, after = (sum(getattr(layer, f"macs_{side}") for layer in convolutions) for side in ("before", "after"))
    assert (before, after) == (40_812_544, 18_757_632)
    assert before / after == pytest.approx(2.175783, abs=5e-7)
    weights = [sum(getattr(layer, f"weights_{side}") for layer in convolutions) for side in ("before", "after")]
    assert weights == [270_256, 144_648]
    assert measure(net, x, seconds=0).macs == 18_757_632 + 640


def test_layers_that_are_not_in_svd_form_say_why():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.third(self.second(self.first(x))) * self.second.in_features

    model, x = Reads().eval(), torch.ones(1, 6)
    wanted = model(x)
    with pytest.raises(ValueError, match="second cannot be put into SVD form: its parent reads in_features"):
        to_svd_(model, layers=["second"], example_input=x)
    to_svd_(model, example_input=x)
    assert forms_of(model).keys() == {"first", "third"}
    torch.testing.assert_close(model(x), wanted)
    reason = "it is not in SVD form: its parent reads in_features"
    assert profile_svd(model, x)["second"].refusal == reason
    assert truncate_(model, {"first": 2}, layers=["first"], example_input=x).layers["second"].reason == reason
    assert truncate_(model, {"third": 2}, example_input=x).layers["first.0"].reason == "it is not in SVD form"
