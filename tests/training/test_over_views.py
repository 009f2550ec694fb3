"""Several views of an image: the softmax is averaged, by hand and through `evaluate`."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from lowrank_exp.training import evaluate
from lowrank_exp.training.evaluate import over_views


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7))


def views_of(*shape):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_mean_of_the_softmax(network):
    images = views_of(5, 10, 3, 2, 2)
    with torch.no_grad():
        logits = np.stack([network(images[:, view]).numpy() for view in range(10)]).astype(float)
        ours = over_views(network, images)
        assert torch.equal(over_views(network, images[:, 0]), network(images[:, 0]))
    np.testing.assert_allclose(ours.exp(), softmax(logits, axis=2).mean(axis=0), rtol=1e-5)
    assert np.abs(ours.exp().numpy() - softmax(logits.mean(axis=0), axis=1)).max() > 0.01


def test_probabilities_too_small_for_a_float_have_a_logarithm():
    far = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        far.weight.copy_(torch.tensor([[0.0], [-300.0]]))
        ours = over_views(nn.Sequential(nn.Flatten(), far), torch.ones(1, 10, 1, 1, 1))
    np.testing.assert_allclose(ours, [[0, -300]], atol=1e-4)


def test_scores_of_ten_views(network):
    images, labels = views_of(40, 10, 3, 2, 2), torch.arange(40) % 7
    with torch.no_grad():
        mean = np.stack([softmax(network(images[:, v]).double().numpy(), axis=1) for v in range(10)]).mean(axis=0)
    scores = evaluate(network, list(zip(images.split(16), labels.split(16), strict=True)), "cpu")
    assert scores.count == 40
    assert scores.accuracy == (mean.argmax(1) == labels.numpy()).mean()
    np.testing.assert_allclose(scores.loss, -np.log(mean[np.arange(40), labels]).mean(), rtol=1e-5)
    best = np.argsort(mean, axis=1)[:, -5:]
    assert scores.top5 == (best == labels.numpy()[:, None]).any(1).mean()
    one = evaluate(network, [(images[:, 0], labels)], "cpu")
    assert one.accuracy != scores.accuracy
