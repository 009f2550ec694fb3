"""Confusion counts and accuracy by class, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, recall_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.training import evaluate


def data(count: int, classes: int, batch_size: int) -> tuple[np.ndarray, np.ndarray, DataLoader]:
    draw = np.random.default_rng(3)
    labels_N = draw.integers(0, classes, count)
    logits_NC = draw.normal(size=(count, classes)).astype(np.float32)
    logits_NC[np.arange(count), labels_N] += 1.5
    tensors = TensorDataset(torch.from_numpy(logits_NC), torch.from_numpy(labels_N))
    return logits_NC.argmax(1), labels_N, DataLoader(tensors, batch_size=batch_size)


@pytest.mark.parametrize(("classes", "batch_size"), [(2, 64), (10, 64), (10, 1), (10, 300), (100, 17)])
def test_counts_and_recalls_are_scikit_learns(classes: int, batch_size: int) -> None:
    predictions_N, labels_N, loader = data(300, classes, batch_size)
    scores = evaluate(nn.Identity(), loader, device="cpu", confusion=True)
    expected_CC = confusion_matrix(labels_N, predictions_N, labels=range(classes))
    assert scores.confusion.dtype == torch.int64
    np.testing.assert_array_equal(scores.confusion, expected_CC)
    seen = np.unique(labels_N)
    recalls = recall_score(labels_N, predictions_N, labels=range(classes), average=None, zero_division=np.nan)
    np.testing.assert_allclose([scores.class_accuracy[label] for label in seen], recalls[seen], rtol=0, atol=1e-15)
    assert {label for label, share in enumerate(scores.class_accuracy) if share is None} == {*range(classes)} - {*seen}
    assert scores.accuracy == (predictions_N == labels_N).mean()


def test_a_class_without_images_has_no_accuracy() -> None:
    logits_NC = torch.tensor([[2.0, 1, 0], [2, 1, 0], [0, 1, 2], [0, 2, 1]])
    scores = evaluate(nn.Identity(), [(logits_NC, torch.tensor([0, 2, 2, 2]))], device="cpu", confusion=True)
    assert scores.confusion.tolist() == [[1, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert scores.class_accuracy == [1.0, None, pytest.approx(1 / 3, abs=1e-15)]


def test_labels_of_one_byte_are_counted_too() -> None:
    logits_NC = torch.eye(200)
    loader = [(logits_NC, torch.arange(200, dtype=torch.uint8))]
    scores = evaluate(nn.Identity(), loader, device="cpu", confusion=True)
    assert torch.equal(scores.confusion, torch.eye(200, dtype=torch.int64))


def test_nothing_is_counted_unless_asked_for_and_the_other_scores_are_the_same() -> None:
    _, _, loader = data(300, 10, 64)
    plain, counted = (evaluate(nn.Identity(), loader, "cpu", confusion=wanted) for wanted in (False, True))
    assert plain == counted
    assert (plain.confusion, plain.class_accuracy) == (None, None)
    assert counted.confusion.sum().item() == counted.count == 300


def test_deterministic_algorithms_count_the_same_without_a_mesh_of_all_pairs() -> None:
    _, _, loader = data(2000, 1000, 500)
    expected = evaluate(nn.Identity(), loader, "cpu", confusion=True).confusion
    torch.use_deterministic_algorithms(True)
    try:
        counted = evaluate(nn.Identity(), loader, "cpu", confusion=True).confusion  # the mesh would take 16 GB
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(counted, expected)
