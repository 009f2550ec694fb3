import pytest
import torch

from lowrank_exp.export.compare import batches_of, compare

A = torch.tensor([[1.0, -4.0, 2.0], [0.0, 3.0, 1.0], [2.0, 1.0, 0.0], [-1.0, -2.0, 2.0]])


def test_difference_and_equal_predictions():
    """The difference is that of the worst entry, over the largest of all; one of four images goes to another class."""
    moved = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-1.5, 0.0, 0.0], [0.0, 0.5, 0.0]])
    like = compare(lambda x: x, lambda x: x + moved, [A])
    assert (like.difference, like.equal_predictions, like.images) == (1.5 / 4, 0.75, 4)
    by_batch = compare(lambda x: x, lambda x: x * 1.25, [A[:1], A[1:]])
    assert (by_batch.difference, by_batch.equal_predictions, by_batch.images) == (0.25, 1.0, 4)


def test_outputs_of_zeros_and_what_is_not_finite():
    zeros = torch.zeros(2, 3)
    assert compare(lambda x: x, lambda x: x, [zeros]).difference == 0
    assert compare(lambda x: x, lambda x: x + 1e-9, [zeros]).difference == float("inf")
    assert compare(lambda x: x, lambda x: x * torch.nan, [A]).difference == float("inf")
    with pytest.raises(ValueError, match="NaN or infinite"):
        compare(lambda x: x * torch.nan, lambda x: x, [A])


def test_outputs_of_other_shapes():
    assert compare(lambda x: x[:, 0], lambda x: x[:, 0], [A]).equal_predictions is None
    with pytest.raises(ValueError, match=r"for 4 images the file gives \(4, 2\), not \(4, 3\)"):
        compare(lambda x: x, lambda x: x[:, :2], [A])


def test_batches_of_images():
    example = torch.zeros(2, 3)
    many = torch.arange(210).view(70, 3)
    assert [len(batch) for batch in batches_of(many, example)] == [64, 6]
    loader = [(many[:50], "labels"), many[50:].double(), [many[:1].numpy(), 0]]
    found = list(batches_of(loader, example))
    assert [batch.dtype for batch in found] == [torch.float32] * 3
    assert torch.equal(torch.cat(found), torch.cat([many, many[:1]]).float())
    with pytest.raises(ValueError, match=r"images are of \(4,\), and example_input is of \(3,\)"):
        list(batches_of(torch.zeros(2, 4), example))
