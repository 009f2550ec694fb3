"""Patches and their moments, against loops over places."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.reconstruct import patches
from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.patches import patches_GPD, responses_GPO
from lowrank_exp.reconstruct.weights import weight_GOK
from support.cells import cells
from support.layer_cases import LAYERS, filled, images

every_layer = cells(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())
PAD = {"zeros": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}


def sides(layer):
    """Padding of every axis, before and behind."""
    if layer.padding == "valid":
        return [(0, 0)] * len(layer.kernel_size)
    if layer.padding == "same":
        totals = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in layer.padding]


def looped(layer, x):
    """The patches, one entry at a time: `(G, P, D)`."""
    x = x.numpy()
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    if layer.transposed:
        return scattered(layer, x)
    padded = np.pad(x, [(0, 0), (0, 0), *sides(layer)], mode=PAD[layer.padding_mode])
    reach = [d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    ends = [(n - r) // s + 1 for n, r, s in zip(padded.shape[2:], reach, layer.stride, strict=True)]
    per_group = layer.in_channels // layer.groups
    rows = []
    for g in range(layer.groups):
        rows.append([])
        for n in range(len(x)):
            for place in itertools.product(*map(range, ends)):
                row = []
                for i in range(per_group):
                    for entry in itertools.product(*map(range, layer.kernel_size)):
                        at = tuple(
                            p * s + e * d for p, s, e, d in zip(place, layer.stride, entry, layer.dilation, strict=True)
                        )
                        row.append(padded[(n, g * per_group + i, *at)])
                rows[-1].append(row)
    return np.array(rows)


def scattered(layer, x):
    """Those of a transposed convolution: input q goes by entry k of the kernel to the place q s + k d - p."""
    kernel, per_group = layer.kernel_size, layer.in_channels // layer.groups
    ends = layer(torch.zeros(x.shape, dtype=layer.weight.dtype)).shape[2:]
    rows = np.zeros((layer.groups, len(x), *ends, per_group, *kernel))
    for place in itertools.product(*map(range, x.shape[2:])):
        for entry in itertools.product(*map(range, kernel)):
            settings = zip(place, layer.stride, entry, layer.dilation, layer.padding, strict=True)
            at = [q * s + k * d - p for q, s, k, d, p in settings]
            if all(0 <= one < end for one, end in zip(at, ends, strict=True)):
                values_NC = x[(slice(None), slice(None), *place)].reshape(len(x), layer.groups, per_group)
                rows[(slice(None), slice(None), *at, slice(None), *entry)] = values_NC.swapaxes(0, 1)
    return rows.reshape(layer.groups, -1, per_group * np.prod(kernel))


@every_layer
def test_patches_are_those_of_a_loop(layer, shape):
    x = images(shape)
    got = torch.cat(list(patches_GPD(layer, x)), dim=1)
    np.testing.assert_array_equal(got.numpy(), looped(layer, x))


@every_layer
def test_patches_times_the_weight_are_the_responses(layer, shape):
    layer, x = filled(layer), images(shape)
    with torch.no_grad():
        y = layer(x)
    got = torch.cat(list(patches_GPD(layer, x)), dim=1) @ weight_GOK(layer, x.device).mT
    if layer.bias is not None:
        got = got + layer.bias.detach().reshape(len(got), 1, -1)
    wanted = torch.cat(list(responses_GPO(layer, y)), dim=1)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@every_layer
def test_a_few_images_at_a_time_give_the_same_patches(layer, shape, monkeypatch):
    x = images(shape)
    whole = list(patches_GPD(layer, x))
    with monkeypatch.context() as patched:
        patched.setattr(patches, "CHUNK", 1)
        parts = list(patches_GPD(layer, x))
    assert len(whole) == 1
    assert len(parts) == (x[..., 0].numel() if isinstance(layer, nn.Linear) else len(x))
    np.testing.assert_array_equal(torch.cat(parts, dim=1).numpy(), whole[0].numpy())


def test_one_image_without_a_batch_dimension():
    layer, x = nn.Conv2d(4, 6, 3, groups=2), images((4, 7, 8))
    np.testing.assert_array_equal(next(patches_GPD(layer, x)).numpy(), looped(layer, x[None]))


def test_moments_are_numpys():
    rng = np.random.default_rng(0)
    x, hat = rng.standard_normal((2, 3, 50, 4)) + 2
    moments = Moments()
    for start in (0, 7, 30):
        stop = {0: 7, 7: 30, 30: 50}[start]
        moments.add(torch.from_numpy(x[:, start:stop]), torch.from_numpy(hat[:, start:stop]))
    assert moments.count == 50
    for g in range(3):
        both = np.cov(x[g].T, hat[g].T, bias=True)
        wanted = {
            "mean_GD": x[g].mean(0),
            "hat_mean_GD": hat[g].mean(0),
            "second_GDD": hat[g].T @ hat[g] / 50,
            "cross_GDD": x[g].T @ hat[g] / 50,
        }
        for name, value in wanted.items():
            np.testing.assert_allclose(getattr(moments, name)[g].numpy(), value, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(moments.covariance_GDD()[g].numpy(), both[4:, 4:], atol=1e-12)
        np.testing.assert_allclose(moments.cross_covariance_GDD()[g].numpy(), both[:4, 4:], atol=1e-12)


def test_one_kind_of_rows_is_its_own_cross_moment():
    moments = Moments()
    moments.add(images((2, 9, 3)).float())
    assert moments.second_GDD.dtype == torch.float64
    assert torch.equal(moments.cross_GDD, moments.second_GDD)
    assert torch.equal(moments.cross_covariance_GDD(), moments.covariance_GDD())


@pytest.mark.parametrize("size", [1, 3, 8, 20])
def test_batch_sizes_give_the_same_moments(size):
    layer, x = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), images((20, 4, 9, 8)) + 1

    def streamed(batches):
        moments = Moments()
        for batch in batches:
            for rows in patches_GPD(layer, batch):
                moments.add(rows)
        return moments

    wanted, got = streamed([x]), streamed(x.split(size))
    assert got.count == wanted.count == 20 * 5 * 4
    torch.testing.assert_close(got.second_GDD, wanted.second_GDD, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.mean_GD, wanted.mean_GD, rtol=1e-12, atol=1e-12)
