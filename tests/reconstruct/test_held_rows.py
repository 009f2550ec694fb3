"""Rows that are held in the place of second moments: the same numbers, in less memory."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lowrank_exp.decomposition import LinearSVD, SpatialSVD
from lowrank_exp.rank import profile, with_errors
from lowrank_exp.reconstruct import fit_to_data
from lowrank_exp.reconstruct.held_rows import HeldRows, moments_within, times
from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.whitened import target, whitened
from support.layer_cases import filled, images


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that is made."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, torch.Tensor):
                self.bytes = max(self.bytes, one.untyped_storage().nbytes())
        return made


def test_they_tell_what_moments_tell():
    x, what, bias = images((2, 12, 30)) + 1, images((2, 5, 30), seed=2), images((2, 5), seed=3)
    moments, held = Moments(), HeldRows(10**6, "layer")
    for some in x.split(5, dim=1):
        moments.add(some)
        held.add(some)
    close = {"rtol": 1e-10, "atol": 1e-10}
    assert (held.count, held.finite(), moments.finite()) == (12, True, True)
    torch.testing.assert_close(held.mean_GD, moments.mean_GD, **close)
    torch.testing.assert_close(times(what, held), times(what, moments.second), **close)
    for b in (None, bias):
        one, other = (some.of_responses(what, b) for some in (held, moments))
        torch.testing.assert_close(one.second_GDD, other.second_GDD, **close)
        torch.testing.assert_close(one.mean_GD, other.mean_GD, **close)
    change = images((2, 5, 12), seed=4) @ x / 12
    wanted = target(what, change, moments.second_GDD, 12)
    torch.testing.assert_close(target(what, change, held, 12), wanted, rtol=1e-8, atol=1e-8)
    assert float((wanted - what).abs().max()) > 0.1
    torch.testing.assert_close(whitened(what, held, 2), whitened(what, moments.second_GDD, 2), rtol=1e-8, atol=1e-8)
    held.add(x[:, :1] * torch.nan)
    assert not held.finite()


def test_rows_are_as_narrow_as_they_came():
    held = HeldRows(10**6, "layer")
    held.add(images((1, 3, 30)).float().double())
    held.add(images((1, 3, 30)))
    assert [some.dtype for some in held._some_GPD] == [torch.float32, torch.float64]


def test_sums_go_on_after_they_were_read():
    x, moments, wanted = images((2, 12, 5)), Moments(), Moments()
    moments.add(x[:, :7])
    assert moments.second_GDD.shape == moments.second_GDD.mT.shape
    moments.add(x[:, 7:])
    wanted.add(x)
    torch.testing.assert_close(moments.second_GDD, wanted.second_GDD, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moments.mean_GD, wanted.mean_GD, rtol=1e-12, atol=1e-12)


def wide(outputs=6):
    """A network whose linear layer has many inputs: their second moments are 8 MB."""
    convolution, linear = filled(nn.Conv2d(2, 4, 3, padding=1)), filled(nn.Linear(1024, outputs))
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), linear)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_fits_hold_to_their_memory_and_are_the_same(asymmetric):
    net, x = wide(), images((24, 2, 16, 16))
    chosen = {"0": (SpatialSVD(), 2), "3": (LinearSVD(), 3)}
    wanted = fit_to_data(net, chosen, x.split(8), "whitened", asymmetric)
    with Largest() as largest:
        got = fit_to_data(net, chosen, x.split(8), "whitened", asymmetric, memory=2**20)
    assert 10**4 < largest.bytes <= 2**20
    for name in chosen:
        for one, other in zip(got[name].parameters(), wanted[name].parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_errors_of_responses_hold_to_their_memory_and_are_the_same():
    net, x = wide().float(), images((24, 2, 16, 16)).float()
    layers = {"3": profile(net, x[:1], "linear_svd")["3"]}
    for fit in ("whitened", "response"):
        wanted = with_errors(layers, net, x.split(8), fit=fit)
        with Largest() as largest:
            got = with_errors(layers, net, x.split(8), fit=fit, memory=2**20)
        assert 10**4 < largest.bytes <= 2**20
        assert got["3"].response == pytest.approx(wanted["3"].response, rel=1e-9, abs=1e-12)
        assert wanted["3"].response[0] > 0.1


def test_what_finds_no_room_is_refused_by_name():
    assert isinstance(moments_within(16 * 36**2, "0", nn.Conv2d(4, 6, 3)), Moments)
    assert isinstance(moments_within(16 * 36**2 - 1, "0", nn.Conv2d(4, 6, 3)), HeldRows)
    net, x = wide(), images((24, 2, 16, 16))
    message = r"3: 24 rows of its 1,024 inputs take 210,432 bytes .* 8,388,608, and memory=200,000 is allowed"
    with pytest.raises(ValueError, match=message):
        fit_to_data(net, {"3": (LinearSVD(), 3)}, x.split(8), "whitened", True, memory=200_000)
    layers = {"3": profile(net, x[:1], "linear_svd")["3"]}
    with pytest.raises(ValueError, match=message + r"; take fewer images, .*leave the layer alone .*\{3: null\}"):
        with_errors(layers, net, x.split(8), memory=200_000)
    with pytest.raises(ValueError, match="3: statistics of its 6 outputs take 288 bytes, and memory=200 is allowed"):
        fit_to_data(net, {"3": (LinearSVD(), 3)}, [x], "response", memory=200)
