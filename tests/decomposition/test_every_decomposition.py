"""What every decomposition keeps to, on layers of every setting. What each is exact for has a file of its own."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp.decomposition import (
    Reorder,
    named,
    recompose,
)
from support.cells import cells
from support.layer_cases import KINDS, LAYERS, filled, images, relative

# Colours of single filters are an approximation whatever their number.
INEXACT = ("monochromatic",)
CASES = {
    f"{kind}, {name}": (KINDS[kind], layer, shape)
    for kind in KINDS
    for name, (layer, shape) in LAYERS.items()
    if KINDS[kind].refusal(layer) is None
}
every_case = cells("case", CASES, by=lambda case: CASES[case][0].name)
PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
LINEAR = {"linear", "linear without bias", "linear of three dimensions", "linear of one dimension"}
VOLUMES = {"3-D", "transposed 3-D"}
ONE_IN = {"3x3 from one channel", "depthwise", "depthwise with multiplier", "groups, stride, dilation"}
ODD_OUT = {"3x3 to one channel", "groups", "1-D, same, circular, groups", "transposed, groups, dilation", "3-D"}
REFUSED = dict.fromkeys(KINDS, LINEAR) | {
    "linear_svd": LAYERS.keys() - LINEAR,
    "grouped_channel_svd": LINEAR | ONE_IN,
    "biclustering, outer": LINEAR | ONE_IN | ODD_OUT,
    "biclustering, svd": LINEAR | ONE_IN | ODD_OUT,
    "product_quantization": {name for name in LAYERS if name.startswith("transposed")},
}
PLANAR = (
    "spatial_svd",
    "spatial_svd, horizontal first",
    "slice_wise_svd",
    "slice_wise_svd, dense",
    "jaderberg_scheme1",
)
REFUSED |= dict.fromkeys((*PLANAR, "cp"), LINEAR | VOLUMES)


@functools.cache
def made(case, place, dtype=torch.float64):
    """A layer with numbers and its factors at the lowest, the middle or the highest rung, made once."""
    kind, layer, _ = CASES[case]
    layer = filled(layer, dtype=dtype)
    ladder = kind.ladder(layer)
    rank = {"lowest": ladder[0], "middle": ladder[len(ladder) // 2], "full": ladder[-1]}[place]
    return layer, rank, kind.factorize(layer, rank)


def layers_of(chain):
    return [chain] if not isinstance(chain, nn.Sequential) else [part for part in chain if hasattr(part, "weight")]


@pytest.mark.parametrize("kind", KINDS)
def test_which_layers_are_refused(kind):
    """The wrong kinds of layer, and channels that do not divide; nothing else."""
    refused = {name for name in LAYERS if f"{kind}, {name}" not in CASES}
    assert refused == REFUSED[kind]


@every_case
@cells(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_full_rank_gives_the_output_of_the_layer(case, dtype, tolerance):
    kind, _, shape = CASES[case]
    layer, _, chain = made(case, "full", dtype)
    x = images(shape, dtype=dtype)
    with torch.no_grad():
        got, wanted = chain(x), layer(x)
    assert got.shape == wanted.shape
    assert got.dtype == dtype
    if kind.name not in INEXACT:
        # Centroids are float32 whatever the layer.
        lost = max(tolerance, 1e-6) if kind.name == "product_quantization" else tolerance
        assert relative(got.double(), wanted.double()) <= lost


@every_case
def test_a_chain_is_the_layer_of_its_recomposed_weight(case):
    layer, _, chain = made(case, "middle")
    x, dense = images(CASES[case][2]), recompose(chain)
    assert str(dense) == str(layer)
    with torch.no_grad():
        assert relative(chain(x), dense(x)) <= 1e-12


@every_case
def test_costs_are_those_of_the_real_layers(case):
    kind, _, shape = CASES[case]
    found = [made(case, place) for place in ("lowest", "middle", "full")]
    layer, ranks = found[0][0], [rank for _, rank, _ in found]
    macs = []
    for _, _, chain in found:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            chain(torch.zeros(shape, dtype=torch.float64))
        macs.append(2 * (counter.get_total_flops() // 2))  # the layer is called twice
    weights = [[factor.weight.numel() for factor in layers_of(chain)] for _, _, chain in found]
    rungs = [kind.ladder(layer).index(rank) for rank in ranks]
    assert kind.factor_weights(layer, ranks).tolist() == weights
    for own in (ranks, None):
        taken = slice(None) if own else rungs
        assert kind.rank_macs(layer, (shape, shape), own)[taken].tolist() == macs
        assert kind.rank_weights(layer, own)[taken].tolist() == [sum(of) for of in weights]


@every_case
def test_a_ladder_rises_to_the_full_rank(case):
    kind, dense, shape = CASES[case]
    for layer in (filled(dense), copy.deepcopy(dense).to("meta")):
        ladder = kind.ladder(layer)
        assert ladder[-1] == kind.full_rank(layer)
        assert [kind.check_rank(layer, rank) for rank in ladder] == ladder
        assert len(set(ladder)) == len(ladder)
        costs = kind.rank_macs(layer, (shape,)), kind.rank_weights(layer), kind.rank_bytes(layer)
        for cost in costs:
            assert cost.shape == (len(ladder),)
            assert (np.diff(cost) >= 0).all()


def test_which_ladders_follow_the_weights():
    """Those that are others without numbers, on the meta device."""
    others = {
        kind.name
        for kind, layer, _ in CASES.values()
        if kind.ladder(filled(layer)) != kind.ladder(copy.deepcopy(layer).to("meta"))
    }
    assert others == {"tucker2", "tensor_train"}
    assert others == {kind.name for kind in KINDS.values() if kind.ladder_follows_weights}


@every_case
def test_energies_are_shares_that_rise(case):
    layer, _, _ = made(case, "middle")
    kind = CASES[case][0]
    ladder = kind.ladder(layer)
    kept = kind.energies(layer, ladder)
    assert kept.shape == (len(ladder),)
    assert ((kept >= 0) & (kept <= 1)).all()
    assert (np.diff(kept) >= -1e-12).all()
    if kind.name not in INEXACT:
        assert kept[-1] == pytest.approx(1.0, abs=1e-9)


@every_case
def test_factors_are_plain_layers_like_the_dense_one(case):
    kind, layer, _ = CASES[case]
    layer = filled(layer, dtype=torch.float32).eval()
    layer.weight.requires_grad_(False)
    before = copy.deepcopy(layer.state_dict())
    chain = kind.factorize(layer, kind.full_rank(layer))
    assert not any(module.training for module in chain.modules())
    assert {p.dtype for p in chain.parameters()} == {torch.float32}
    assert [name.rsplit(".", 1)[-1] for name, p in chain.named_parameters() if p.requires_grad] == (
        [] if layer.bias is None else ["bias"]
    )
    factors = layers_of(chain)
    assert all(factor.bias is None for factor in factors[:-1])
    assert (factors[-1].bias is None) == (layer.bias is None)
    if kind.name != "product_quantization":
        assert type(chain) is nn.Sequential
        assert all(type(part) in (*PLAIN, Reorder) for part in chain)
    assert not {p.data_ptr() for p in chain.parameters()} & {p.data_ptr() for p in layer.parameters()}
    for name, tensor in layer.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@every_case
def test_skeletons_take_the_numbers_of_the_factors(case):
    kind, _, shape = CASES[case]
    for place in ("lowest", "middle", "full"):
        layer, rank, chain = made(case, place)
        skeleton = named(kind.name, **kind.options()).skeleton(layer, rank)
        assert str(skeleton) == str(chain)
        skeleton.load_state_dict(chain.state_dict())
        meta = kind.skeleton(layer, rank, device="meta")
        assert str(meta) == str(chain)
        assert {n: t.shape for n, t in meta.state_dict().items()} == {n: t.shape for n, t in chain.state_dict().items()}
        assert all(p.is_meta for p in meta.parameters())
        with torch.no_grad():
            assert torch.equal(skeleton(images(shape)), chain(images(shape)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_layer_gives_the_same_factors_whatever_was_drawn_before(kind):
    case = next(case for case in CASES if case.startswith(f"{kind}, "))
    layer, rank, chain = made(case, "middle")
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = CASES[case][0].factorize(layer, rank)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), chain.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_ranks_that_do_not_exist_are_refused(kind):
    layer = filled(nn.Linear(6, 4) if kind.name == "linear_svd" else nn.Conv2d(4, 6, 3))
    full = kind.full_rank(layer)
    several = isinstance(full, tuple)

    def all_of(number):
        return (number,) * len(full) if several else number

    wrong = [all_of(0), all_of(-1), all_of(10**6), all_of(True), all_of(2.0), "2", None]
    for rank in [*wrong, 1 if several else (1,), (1,) * 9, []]:
        with pytest.raises(ValueError, match=r"^layer: rank"):
            kind.factorize(layer, rank)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_layer_of_zeros_stays_one(kind):
    layer = filled(nn.Linear(6, 4) if kind.name == "linear_svd" else nn.Conv2d(4, 6, 3), dtype=torch.float32)
    nn.init.zeros_(layer.weight)
    x = images((2, 6) if kind.name == "linear_svd" else (2, 4, 5, 5), dtype=torch.float32)
    kept = kind.energies(layer, kind.ladder(layer))
    assert np.isfinite(kept).all()
    with torch.no_grad():
        for rank in (kind.ladder(layer)[0], kind.full_rank(layer)):
            assert torch.equal(kind.factorize(layer, rank)(x), layer(x))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_kept(kind, dtype):
    layer = filled(nn.Linear(6, 4) if kind.name == "linear_svd" else nn.Conv2d(4, 6, 3), dtype=dtype)
    chain = kind.factorize(layer, kind.full_rank(layer))
    assert {p.dtype for p in chain.parameters() if p.dim() > 1 and kind.name != "product_quantization"} <= {dtype}
    weight = chain.weight if kind.name == "product_quantization" else recompose(chain.double()).weight
    if kind.name not in INEXACT:
        error = relative(weight.detach().double(), layer.weight.detach().double())
        assert error < 4 * torch.finfo(dtype).eps
