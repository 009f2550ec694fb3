"""The stratified split: shares, disjointness, dependence on nothing but its seed."""

import pytest
import torch
from sklearn.model_selection import train_test_split

from lowrank_exp.data import stratified_split

LABELS = torch.tensor([0] * 40 + [1] * 25 + [2] * 10)[torch.randperm(75, generator=torch.Generator().manual_seed(2))]
CLASSES = ("a", "b", "c")


def test_shares_of_every_class():
    rest, part = stratified_split(LABELS, 0.2, seed=0, classes=CLASSES)
    assert torch.bincount(LABELS[part]).tolist() == [8, 5, 2]
    assert torch.bincount(LABELS[rest]).tolist() == [32, 20, 8]
    assert sorted(rest.tolist() + part.tolist()) == list(range(75))
    assert part.tolist() == sorted(part.tolist())
    # scikit-learn cuts the same number out of every class
    _, theirs = train_test_split(LABELS.numpy(), test_size=0.2, stratify=LABELS.numpy(), random_state=0)
    assert torch.bincount(LABELS[part]).tolist() == torch.bincount(torch.from_numpy(theirs)).tolist()


def test_seed_decides_and_nothing_else():
    torch.manual_seed(1)
    first = stratified_split(LABELS, 0.2, seed=0, classes=CLASSES)[1].tolist()
    torch.manual_seed(2)
    assert stratified_split(LABELS, 0.2, seed=0, classes=CLASSES)[1].tolist() == first
    assert len({tuple(stratified_split(LABELS, 0.2, seed, CLASSES)[1].tolist()) for seed in range(5)}) == 5


def test_chance_is_even():
    counts = torch.zeros(75)
    for seed in range(600):
        counts[stratified_split(LABELS, 0.2, seed, CLASSES)[1]] += 1
    torch.testing.assert_close(counts / 600, torch.full((75,), 0.2), rtol=0, atol=5 * (0.2 * 0.8 / 600) ** 0.5)


def test_zero_takes_nothing():
    rest, part = stratified_split(LABELS, 0.0, seed=0, classes=CLASSES)
    assert rest.tolist() == list(range(75))
    assert part.tolist() == []


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match=rf"data.validation={fraction}: .* 0 <= validation < 1"):
        stratified_split(LABELS, fraction, seed=0, classes=CLASSES)


@pytest.mark.parametrize(("fraction", "taken"), [(0.01, 0), (0.99, 40)])
def test_class_without_image_on_a_side(fraction, taken):
    with pytest.raises(ValueError, match=rf"takes {taken} of the 40 training images of class 'a'"):
        stratified_split(LABELS, fraction, seed=0, classes=CLASSES)
