"""Weights of any scale that their type holds: every decomposition does for them what it does at scale one."""

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp import factorize_, profile
from lowrank_exp.decomposition import CP, ChannelSVD, ProductQuantization, named, recompose
from lowrank_exp.decomposition.codebook import as_stored
from lowrank_exp.decomposition.numbers import numbers, within_range
from lowrank_exp.svd_form import to_svd_, truncate_
from support.cells import cells
from support.layer_cases import RANKS

FLOAT32 = (1e38, 1e30, 1e20, 1e-20, 1e-30, 1e-37)


def scaled(scale, dtype=torch.float32):
    """A convolution whose largest entry is nearly `scale`, the same one but for that."""
    layer = nn.Conv2d(6, 8, 3, bias=False, dtype=dtype)
    kernel = np.random.default_rng(0).uniform(-1, 1, layer.weight.shape)
    layer.weight.data = torch.from_numpy(kernel * scale).to(dtype)
    return layer


def by(name):
    return named(name, **{"product_quantization": {"centroids": "float32"}}.get(name, {}))


def relative_error(layer, factors):
    """Of the weight, by float64."""
    dense = factors.double() if not isinstance(factors, nn.Sequential) else recompose(factors.double())
    weight = layer.weight.detach().double()
    return float((dense.weight.detach() - weight).norm() / weight.norm())


def outcome(name, scale, dtype=torch.float32):
    """The error of the weight and the share of its energy that are left."""
    layer, kind = scaled(scale, dtype), by(name)
    factors = kind.factorize(layer, RANKS[name])
    assert all(p.isfinite().all() and p.dtype == dtype for p in factors.parameters())
    return relative_error(layer, factors), float(kind.energies(layer, [RANKS[name]])[0])


@cells("name", RANKS)
def test_error_and_energy_do_not_depend_on_the_scale(name):
    error, energy = outcome(name, 1.0)
    assert 0.1 < error < 0.95
    for scale in FLOAT32:
        assert outcome(name, scale) == pytest.approx((error, energy), abs=2e-3), scale
    for scale in (1e70, 1e-70):
        if name == "product_quantization":  # its centroids would be kept in float32
            continue
        assert outcome(name, scale, torch.float64) == pytest.approx((error, energy), abs=2e-3), scale


@cells("name", RANKS)
@cells(("scale", "dtype"), [(3e4, torch.float16), (1e-3, torch.float16), (1e30, torch.bfloat16)])
def test_half_precision_loses_its_rounding_alone(name, scale, dtype):
    assert outcome(name, scale, dtype) == pytest.approx(outcome(name, 1.0), abs=0.06)


@pytest.mark.parametrize("name", ["channel_svd", "tucker2"])
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_a_network_keeps_its_relative_error_and_its_ladder(name, scale):
    def of(scale, reconstruct):
        net, x = nn.Sequential(scaled(scale)), torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0))
        layer = profile(net, x, name)["0"]
        with torch.no_grad():
            dense = net(x).double()
            batches = None if reconstruct is None else [x]
            factorize_(net, {"0": RANKS[name]}, name, reconstruct=reconstruct, batches=batches)
            return layer, float((net(x).double() - dense).norm() / dense.norm())

    for reconstruct in (None, "whitened"):
        layer, error = of(scale, reconstruct)
        wanted, wanted_error = of(1.0, reconstruct)
        assert error == pytest.approx(wanted_error, abs=1e-3)
        assert layer.ranks == wanted.ranks
        np.testing.assert_allclose(layer.energy, wanted.energy, atol=1e-5)
        for (values, _), (wanted_values, _) in zip(layer.unfoldings, wanted.unfoldings, strict=True):
            np.testing.assert_allclose(values / values[:, :1], wanted_values / wanted_values[:, :1], atol=1e-4)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_an_svd_form_is_cut_where_that_of_scale_one_is(scale):
    def of(scale):
        layer = scaled(scale)
        net = to_svd_(nn.Sequential(layer), ChannelSVD())
        return truncate_(net, energy=0.3).ranks, relative_error(layer, net[0])

    (ranks, error), (wanted_ranks, wanted_error) = of(scale), of(1.0)
    assert ranks == wanted_ranks
    assert error == pytest.approx(wanted_error, abs=1e-4)


def test_ordinary_weights_stay_in_their_type():
    assert [numbers(scaled(s).weight).dtype for s in (1e-9, 1e-7, 1.0, 1e7, 1e9)] == [
        torch.float64,
        *[torch.float32] * 3,
        torch.float64,
    ]
    assert numbers(scaled(0.0).weight).dtype == torch.float32
    weights = [torch.tensor([3.0]), torch.tensor([2.0**100])]
    assert all(a is b for a, b in zip(within_range(weights, torch.float32), weights, strict=True))
    moved = within_range(
        [torch.tensor([0.75, -0.5]).double(), torch.tensor([2.0**200], dtype=torch.float64)], torch.float32
    )
    assert [m.tolist() for m in moved] == [[0.75 * 2.0**101, -0.5 * 2.0**101], [2.0**99]]
    with pytest.raises(ValueError, match=r"its factors reach beyond 6\.55e\+04, where float16 ends"):
        within_range([torch.tensor([1e9]), torch.tensor([1e9])], torch.float16)


@pytest.mark.parametrize("scale", [1e90, 1e-90])
def test_a_scale_beyond_squaring_is_refused_by_name(scale):
    net = nn.Sequential(scaled(scale, torch.float64))
    x = torch.zeros(1, 6, 5, 5, dtype=torch.float64)
    for ask in (lambda: profile(net, x, "cp"), lambda: factorize_(net, {"0": 2}, "cp", example_input=x)):
        with pytest.raises(
            ValueError, match=r"^0: its weight reaches .*e[+-][89]\d, and cp takes weights from 1e-75 to"
        ):
            ask()


@pytest.mark.parametrize(("scale", "told"), [(1e30, r"ends at 6\.55e\+04"), (1e-30, r"begins at 6\.104e-05")])
def test_a_codebook_that_half_precision_does_not_hold_is_refused_by_name(scale, told):
    net = nn.Sequential(scaled(scale))
    told = rf"^0 cannot be .*: centroids reach \S*e[+-][23]\d, but float16 {told}: store them as float32"
    with pytest.raises(ValueError, match=told):
        factorize_(net, {"0": 16}, ProductQuantization())
    assert type(net[0]) is nn.Conv2d
    factorize_(net, {"0": 16}, ProductQuantization(centroids="float32"))
    assert relative_error(scaled(scale), net[0]) == pytest.approx(outcome("product_quantization", 1.0)[0], abs=2e-3)
    assert torch.equal(as_stored(torch.zeros(2, 3), torch.float16), torch.zeros(2, 3, dtype=torch.float16))
    assert as_stored(torch.full((2, 3), 2e-5), torch.float16).dtype == torch.float16


def test_cp_does_not_look_at_the_clock_unless_told_to():
    assert CP().options()["max_seconds"] is None
    assert named("jaderberg_scheme1").options()["max_seconds"] is None
    assert CP(max_seconds=3.0).options()["max_seconds"] == 3.0
    with pytest.raises(ValueError, match="max_seconds above 0"):
        CP(max_seconds=float("nan"))
