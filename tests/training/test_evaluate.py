import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.training import Scores, evaluate, why_no_scores


def data(count: int, classes: int, batch_size: int = 16) -> tuple[np.ndarray, np.ndarray, DataLoader]:
    draw = np.random.default_rng(0)
    logits_NC = (3 * draw.normal(size=(count, classes))).astype(np.float32)
    labels_N = draw.integers(0, classes, count)
    tensors = TensorDataset(torch.from_numpy(logits_NC), torch.from_numpy(labels_N))
    return logits_NC, labels_N, DataLoader(tensors, batch_size=batch_size)


def numpy_scores(logits_NC: np.ndarray, labels_N: np.ndarray) -> tuple[float, float, float]:
    exact = logits_NC.astype(np.float64)
    rows = np.arange(len(labels_N))
    loss = (np.log(np.exp(exact).sum(1)) - exact[rows, labels_N]).mean()
    best_N5 = np.argsort(-exact, axis=1)[:, :5]
    top5 = (best_N5 == labels_N[:, None]).any(1).mean()
    return (exact.argmax(1) == labels_N).mean(), loss, top5


@pytest.mark.parametrize("batch_size", [16, 7, 50])
def test_scores_are_numpys(batch_size):
    logits_NC, labels_N, loader = data(50, 10, batch_size)
    accuracy, loss, top5 = numpy_scores(logits_NC, labels_N)
    scores = evaluate(nn.Identity(), loader, device="cpu", num_classes=10)
    assert scores == Scores(accuracy, pytest.approx(loss, rel=1e-6), top5, 50)


def test_top5_means_nothing_below_six_classes():
    logits_NC, labels_N, loader = data(30, 5)
    accuracy, loss, _ = numpy_scores(logits_NC, labels_N)
    scores = evaluate(nn.Identity(), loader, device="cpu")
    assert scores == Scores(accuracy, pytest.approx(loss, rel=1e-6), None, 30)
    logits_NC, labels_N, loader = data(30, 6)
    assert evaluate(nn.Identity(), loader, device="cpu").top5 == numpy_scores(logits_NC, labels_N)[2]


def test_network_and_generators_are_as_before():
    _, _, loader = data(50, 10)
    network = nn.Sequential(nn.BatchNorm1d(10), nn.Dropout(0.5).eval(), nn.Linear(10, 10))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = evaluate(network, loader, device="cpu")
    assert torch.equal(torch.rand(3), expected)
    assert evaluate(network, loader, device="cpu") == first
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_modes_are_restored_after_an_error():
    _, _, loader = data(50, 10)
    network = nn.Sequential(nn.Linear(9, 10)).train()
    with pytest.raises(RuntimeError):
        evaluate(network, loader, device="cpu")
    assert network.training
    assert network[0].training


@pytest.mark.parametrize(
    ("logits", "labels", "classes", "message"),
    [
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), None, "labels run from 0 to 3, .* has 3 classes"),
        (torch.zeros(4, 3), torch.tensor([0, 1, -1, 2]), None, "labels run from -1 to 2"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 1, 2]), 4, "num_classes is 4, but the network gives 3"),
        (torch.zeros(4, 3, 2), torch.tensor([0, 1, 1, 2]), None, r"logits of shape \(4, 3, 2\)"),
        (torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64), None, r"labels of shape \(4, 3\)"),
    ],
)
def test_what_does_not_fit(logits, labels, classes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(nn.Identity(), [(logits, labels)], device="cpu", num_classes=classes)


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        evaluate(nn.Identity(), [], device="cpu", num_classes=3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_have_no_scores(bad):
    logits_NC, labels_N, _ = data(50, 10)
    logits_NC[[3, 20]] = bad
    logits_NC[40, 1] = bad
    loader = DataLoader(TensorDataset(torch.from_numpy(logits_NC), torch.from_numpy(labels_N)), batch_size=16)
    scores = evaluate(nn.Identity(), loader, device="cpu", confusion=True)
    assert scores == Scores(None, None, None, 50, not_finite=3)
    assert scores.confusion is None
    assert scores.class_accuracy is None
    assert why_no_scores(nn.Linear(2, 2), scores) == (
        "the logits of 3 of 50 test images are NaN or infinite: there is no accuracy and no loss; its weights are "
        "finite, activations overflow"
    )
    network = nn.Linear(2, 2)
    network.bias.data[0] = bad
    assert why_no_scores(network, scores).endswith("no loss; NaN or infinite are entries of bias")
