"""Tucker-2 and Tucker-1 on layers of every setting, beside NumPy.

Legend: G groups, O out channels and I in channels of one group, K kernel entries, Q out rank, R in rank.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from lowrank_exp.decomposition.channel_svd import ChannelSVD
from lowrank_exp.decomposition.recompose import recompose
from lowrank_exp.decomposition.tucker import Tucker1, Tucker2
from support.layer_cases import cases, every_convolution, filled, images, kernels, rebuilt, relative, with_kernels

every_kind = pytest.mark.parametrize("tucker", [Tucker2(), Tucker1("out"), Tucker1("in")], ids=["2", "1 out", "1 in"])
many_cases = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def unfoldings(layer):
    """The in and the out unfolding of every group."""
    return [
        (np.moveaxis(kernel, 1, 0).reshape(kernel.shape[1], -1), kernel.reshape(len(kernel), -1))
        for kernel in kernels(layer.weight, layer)
    ]


def squared_spectra(layer):
    """Of the in and of the out unfolding, summed over the groups."""
    values = [[np.linalg.svd(m, compute_uv=False) ** 2 for m in pair] for pair in unfoldings(layer)]
    return [np.sum([pair[mode] for pair in values], axis=0) for mode in (0, 1)]


def of_chain(chain):
    """The dense kernels `(G, O, I, *K)` that the three factors stand for, put together by einsum."""
    V_GRI, C_GQRK, U_GOQ = (kernels(factor.weight, factor) for factor in chain)
    V_GRI, U_GOQ = V_GRI.reshape(V_GRI.shape[:3]), U_GOQ.reshape(U_GOQ.shape[:3])
    return np.einsum("goq,gqr...,gri->goi...", U_GOQ, C_GQRK, V_GRI)


@many_cases
@given(cases())
def test_three_factors_do_what_their_kernel_does_and_lose_between_the_tails(case):
    _, layer, shape = case
    layer, x = filled(layer), images(shape)
    dense, spectra = kernels(layer.weight, layer), squared_spectra(layer)
    slack = 1e-10 * (dense**2).sum()
    assert Tucker2().full_rank(layer) == tuple(len(spectrum) for spectrum in spectra)
    for rank in Tucker2().ladder(layer):
        chain = Tucker2().factorize(layer, rank)
        cut = of_chain(chain)
        with torch.no_grad():
            assert relative(chain(x), with_kernels(layer, cut)(x)) <= 1e-10
        lost = ((dense - cut) ** 2).sum()
        tails = [spectrum[one:].sum() for spectrum, one in zip(spectra, rank, strict=True)]
        assert max(tails) - slack <= lost <= sum(tails) + slack
        assert lost <= (1 - Tucker2().energies(layer, [rank])[0]) * (dense**2).sum() + slack


@every_convolution
def test_chain_is_recomposed_to_its_kernel(layer, shape):
    layer = filled(layer)
    ladder = Tucker2().ladder(layer)
    chain = Tucker2().factorize(layer, ladder[len(ladder) // 2])
    dense = recompose(chain)
    assert relative(kernels(dense.weight, dense), of_chain(chain)) <= 1e-12


@every_convolution
def test_energies_are_those_of_the_truncated_hosvd_and_rise_along_the_ladder(layer, shape):
    layer = filled(layer)
    ladder = Tucker2().ladder(layer)
    energies = Tucker2().energies(layer, ladder)
    dense, bases = (
        kernels(layer.weight, layer),
        [[np.linalg.svd(m, full_matrices=False)[0] for m in pair] for pair in unfoldings(layer)],
    )
    for (R, Q), energy in zip(ladder, energies, strict=True):
        cores = [
            np.einsum("oi...,oq,ir->qr...", kernel, U[:, :Q], V[:, :R])
            for kernel, (V, U) in zip(dense, bases, strict=True)
        ]
        assert energy == pytest.approx(sum((core**2).sum() for core in cores) / (dense**2).sum(), abs=1e-12)
    assert (np.diff(energies) >= 0).all()
    assert energies[-1] == 1
    chain = Tucker2(iterations=0).factorize(layer, ladder[len(ladder) // 2])
    lost = relative(of_chain(chain), dense) ** 2
    assert lost == pytest.approx(1 - energies[len(ladder) // 2], abs=1e-12)


@every_convolution
def test_ladder_goes_up_one_rank_at_a_time_with_one_threshold_for_both(layer, shape):
    layer = filled(layer)
    spectra, ladder = squared_spectra(layer), np.array(Tucker2().ladder(layer))
    assert ladder[0].tolist() == [1, 1]
    assert ladder[-1].tolist() == list(Tucker2().full_rank(layer))
    assert (np.diff(ladder, axis=0).sum(axis=1) == 1).all()
    assert (np.diff(ladder, axis=0) >= 0).all()
    for rung in ladder:
        kept = [value for spectrum, one in zip(spectra, rung, strict=True) for value in spectrum[1:one]]
        lost = [value for spectrum, one in zip(spectra, rung, strict=True) for value in spectrum[one:]]
        assert min(kept, default=np.inf) >= max(lost, default=0) - 1e-9


def test_ladder_without_numbers_grows_in_proportion():
    layer = nn.Conv2d(4, 8, 3, device="meta")
    ladder = np.array(Tucker2().ladder(layer))
    assert len(ladder) == 4 + 8 - 1
    assert np.abs(ladder[:, 0] / 4 - ladder[:, 1] / 8).max() <= 1 / 4
    assert (ladder[0].tolist(), ladder[-1].tolist()) == ([1, 1], [4, 8])


def test_conv2_of_alexnet_costs_what_kim_et_al_published():
    # Two groups, ranks 25 and 59 in each: 307K weights become 91K.
    layer = nn.Conv2d(96, 256, 5, padding=2, groups=2, device="meta")
    assert layer.weight.numel() == 307_200
    assert Tucker2().full_rank(layer) == (48, 128)
    assert Tucker2().rank_weights(layer, [(25, 59)]).tolist() == [91_254]
    assert Tucker2().factor_weights(layer, [(25, 59)]).tolist() == [[2 * 48 * 25, 2 * 25 * 25 * 59, 2 * 128 * 59]]
    places = 27 * 27
    assert Tucker2().rank_macs(layer, ((1, 96, 27, 27),), [(25, 59)]).tolist() == [91_254 * places]


def test_stride_lies_on_the_core():
    layer = nn.Conv2d(8, 8, 3, stride=2, padding=1)
    assert Tucker2().factor_weights(layer, [(2, 3)]).tolist() == [[16, 54, 24]]
    # 8 x 8 places before the core, 4 x 4 from it on.
    assert Tucker2().rank_macs(layer, ((1, 8, 8, 8),), [(2, 3)]).tolist() == [16 * 64 + 54 * 16 + 24 * 16]


def test_orthogonal_iteration_beats_the_truncated_hosvd():
    layer = filled(nn.Conv2d(24, 32, 3))
    dense = kernels(layer.weight, layer)
    truncated, ours = (
        relative(of_chain(tucker.factorize(layer, (12, 16))), dense) for tucker in (Tucker2(iterations=0), Tucker2())
    )
    assert 1.01 < truncated / ours < 1.1


@many_cases
@given(cases())
def test_one_mode_loses_the_tail_of_its_unfolding(case):
    _, layer, shape = case
    layer, x = filled(layer), images(shape)
    dense, spectra = kernels(layer.weight, layer), squared_spectra(layer)
    for tucker, spectrum in zip((Tucker1("in"), Tucker1("out")), spectra, strict=True):
        assert tucker.full_rank(layer) == len(spectrum)
        for rank in range(1, len(spectrum) + 1):
            chain = tucker.factorize(layer, rank)
            first, second = (kernels(factor.weight, factor) for factor in chain)
            if tucker.mode == "in":
                cut = np.einsum("gor...,gri->goi...", second, first.reshape(first.shape[:3]))
            else:
                cut = np.einsum("gor,gri...->goi...", second.reshape(second.shape[:3]), first)
            with torch.no_grad():
                assert relative(chain(x), with_kernels(layer, cut)(x)) <= 1e-10
            lost = ((dense - cut) ** 2).sum()
            np.testing.assert_allclose(lost, spectrum[rank:].sum(), rtol=1e-8, atol=1e-10 * (dense**2).sum())
            kept = tucker.energies(layer, [rank])[0]
            assert kept == pytest.approx(spectrum[:rank].sum() / spectrum.sum(), abs=1e-12)


@every_convolution
def test_one_out_mode_is_channel_svd(layer, shape):
    layer = filled(layer)
    rank = (Tucker1("out").full_rank(layer) + 1) // 2
    assert ChannelSVD().full_rank(layer) == Tucker1("out").full_rank(layer)
    ours, theirs = Tucker1("out").factorize(layer, rank), ChannelSVD().factorize(layer, rank)
    assert str(ours) == str(theirs)
    assert relative(rebuilt(ChannelSVD(), layer, ours), rebuilt(ChannelSVD(), layer, theirs)) <= 1e-12


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decomposed_in_float32_and_kept(tucker, dtype):
    layer = filled(nn.Conv2d(12, 16, 3, bias=False), dtype=dtype)
    chain = tucker.factorize(layer, tucker.full_rank(layer))
    assert {p.dtype for p in chain.parameters()} == {dtype}
    resolution = torch.finfo(dtype).eps
    again = recompose(chain.double())
    assert resolution / 100 < relative(again.weight.detach(), layer.weight.detach().double()) < 2 * resolution


@every_kind
def test_linear_layers_are_refused_by_name(tucker):
    kinds = "Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d"
    assert tucker.refusal(nn.Linear(4, 5)) == f"{tucker.name} takes {kinds}, not Linear"
    assert tucker.refusal(nn.ConvTranspose3d(4, 5, 2)) is None


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (3, r"rank must be 2 integers for tucker2, at most \[4, 6\], got 3"),
        ((1, 2, 3), r"rank must be 2 integers for tucker2, at most \[4, 6\], got \(1, 2, 3\)"),
        ((0, 2), r"rank \[0, 2\] is below 1; tucker2 takes ranks 1 to \[4, 6\]"),
        ((5, 2), r"rank \[5, 2\] is above the full rank \[4, 6\]"),
        ((2, 2.0), r"rank must be an integer from 1 to 6 for tucker2, got \[2, 2.0\]"),
    ],
)
def test_ranks_that_do_not_exist_are_refused(rank, message):
    with pytest.raises(ValueError, match=message):
        Tucker2().factorize(nn.Conv2d(4, 6, 3), rank)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Tucker2(iterations=-1), "iterations must be an integer, 0 or more, got -1"),
        (lambda: Tucker2(iterations=2.0), "iterations must be an integer, 0 or more, got 2.0"),
        (lambda: Tucker2(tolerance=-1e-3), "tolerance must be a number, 0 or more, got -0.001"),
        (lambda: Tucker2(tolerance=float("nan")), "tolerance must be a number, 0 or more, got nan"),
        (lambda: Tucker1("both"), 'mode must be "out" or "in", got \'both\''),
    ],
)
def test_options_that_do_not_exist_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_options_build_the_same_decomposition():
    assert Tucker2(**Tucker2(7, 0.5).options()).options() == {"iterations": 7, "tolerance": 0.5}
    assert Tucker1(**Tucker1("in").options()).options() == {"mode": "in"}
    assert (Tucker2.name, Tucker1.name) == ("tucker2", "tucker1")
