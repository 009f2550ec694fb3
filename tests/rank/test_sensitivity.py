import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lowrank_exp import factorize_, profile, with_sensitivity
from lowrank_exp.decomposition import ChannelSVD, LinearSVD


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 25, 4)
    )


def batches(size=1, images=12):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(images, 2, 5, 5, generator=generator), torch.arange(images) % 4
    return list(zip(x.split(size), y.split(size), strict=True))


def test_it_is_the_fisher_weighted_error_by_autograd_image_by_image():
    model = small_network().eval()
    layers = profile(model, torch.zeros(1, 2, 5, 5), "channel_svd")
    got = with_sensitivity(layers, model, batches())
    for name, kind in (("0", ChannelSVD()), ("4", LinearSVD())):
        layer = model.get_submodule(name)
        F = torch.zeros_like(layer.weight)
        for image, label in batches():
            (gradient,) = torch.autograd.grad(cross_entropy(model(image), label), layer.weight)
            F += gradient**2 / 12
        W = layer.weight.detach().flatten(1)
        for rung, rank in enumerate(layers[name].ranks):
            U, S, V = np.linalg.svd(W.numpy(), full_matrices=False)
            error = W.numpy() - U[:, :rank] * S[:rank] @ V[:rank]
            expected = float((F.flatten(1).numpy() * error**2).sum() / 2)
            assert got[name].sensitivity[rung] == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert kind.full_rank(layer) == layers[name].rungs


def test_the_model_is_as_it_was_and_frozen_weights_stay_frozen():
    model = small_network().train()
    model[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    got = with_sensitivity(profile(model, torch.zeros(1, 2, 5, 5), "spatial_svd"), model, batches(4))
    assert got["0"].sensitivity[0] > 0
    assert model.training
    assert not model[0].weight.requires_grad
    assert model[4].weight.requires_grad
    assert model[4].weight.grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_long_ladders_are_interpolated_between_exact_rungs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(50, 60), nn.ReLU(), nn.Linear(60, 4))
    layers = profile(model, torch.zeros(1, 2, 5, 5), "channel_svd")
    got = with_sensitivity(layers, model, batches(3))["1"]
    assert len(got.sensitivity) == 50
    assert np.all(np.diff(got.sensitivity) <= 1e-12)
    assert got.sensitivity[-1] == pytest.approx(0.0, abs=1e-9)


def test_it_foretells_the_rise_of_the_loss_at_its_minimum():
    """Where the labels follow the network's own probabilities, the estimate is near to what the loss does."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 8))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 20, generator=generator)
    y = (2 * model(x)).softmax(1).multinomial(1, generator=generator)[:, 0].detach()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    got = with_sensitivity(profile(model, x[:1], "channel_svd"), model, zip(x.split(1), y.split(1), strict=True))
    best = cross_entropy(model(x), y).item()
    for rank in (3, 4, 5, 6):
        cut = factorize_(copy.deepcopy(model), {"1": rank})
        rise = cross_entropy(cut(x), y).item() - best
        assert 0.7 * rise < got["1"].sensitivity[rank - 1] < 1.5 * rise


def test_no_images_are_an_error():
    model = small_network()
    with pytest.raises(ValueError, match="sensitivity needs images and labels"):
        with_sensitivity(profile(model, torch.zeros(1, 2, 5, 5)), model, [])
