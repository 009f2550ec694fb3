import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.pruning.null_space import NullSpace
from support.cells import cells


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(layer):
    """Filters by NumPy, `(O, X)`, channels of other groups left out."""
    weight = layer.weight.detach().double().numpy()
    if isinstance(layer, nn.ConvTranspose2d):
        G = layer.groups
        per_group = weight.reshape(G, weight.shape[0] // G, -1, *weight.shape[2:])
        return per_group.swapaxes(1, 2).reshape(layer.out_channels, -1)
    return weight.reshape(len(weight), -1)


LAYERS = {
    "long": lambda: nn.Conv2d(64, 40, 3),
    "very long": lambda: nn.Conv2d(80, 300, 3),
    "little room": lambda: nn.Conv2d(5, 32, 3),
    "no room for all": lambda: nn.Conv2d(4, 34, 3),
    "linear": lambda: nn.Linear(100, 60),
    "grouped": lambda: nn.Conv2d(16, 24, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(16, 24, 3, groups=2),
}


@cells("name", LAYERS)
@cells("scale", ["kept", "unit", "clip"])
def test_new_filters_are_orthogonal_to_kept_and_old_ones(name, scale):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    before = rows(layer)
    O = len(before)
    dropped = list(range(0, O, 3))
    kept = [f for f in range(O) if f % 3]
    NullSpace(scale=scale).reinitialise_(layer, dropped, seeded())
    after = rows(layer)
    assert np.array_equal(after[kept], before[kept])
    G = getattr(layer, "groups", 1)
    same = (np.arange(O) // (O // G))[:, None] == (np.arange(O) // (O // G))[None]
    products = np.abs(after @ before.T) * same
    assert products[dropped].max() < 1e-6
    lengths = np.linalg.norm(after, axis=1)
    X = after.shape[1]
    if scale == "kept":
        of_group = [np.linalg.norm(before[[k for k in kept if same[f, k]]], axis=1).mean() for f in dropped]
        np.testing.assert_allclose(lengths[dropped], of_group, rtol=1e-5)
    elif scale == "unit":
        np.testing.assert_allclose(lengths[dropped], 1, rtol=1e-5)
    else:
        assert np.abs(after[dropped]).max() == pytest.approx(X**-0.5, rel=1e-5)
        np.testing.assert_allclose(np.abs(after[dropped]).max(axis=1), X**-0.5, rtol=1e-5)
    unit = after[dropped] / lengths[dropped, None]
    overlap = np.abs(unit @ unit.T * same[np.ix_(dropped, dropped)] - np.eye(len(dropped))).max()
    if name == "no room for all":  # two dimensions for twelve filters
        assert np.linalg.matrix_rank(unit, tol=1e-5) == 2
        assert 0.1 < overlap <= 1 + 1e-6
    else:
        assert overlap < 1e-5


def test_old_values_come_from_the_weight_that_is_given():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 10, 3)
    old = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 0.1 * torch.randn_like(layer.weight)
        layer.weight[[2, 5]] = 0
    kept = [f for f in range(10) if f not in (2, 5)]
    current = rows(layer)[kept]
    NullSpace().reinitialise_(layer, [5, 2], seeded(), old=old)
    new = rows(layer)[[2, 5]]
    assert np.abs(new @ current.T).max() < 1e-6
    assert np.abs(new @ old.double().numpy().reshape(10, -1)[[2, 5]].T).max() < 1e-6
    assert np.abs(new @ old.double().numpy().reshape(10, -1)[kept].T).max() > 1e-3
    assert np.linalg.norm(new, axis=1) == pytest.approx(np.linalg.norm(current, axis=1).mean(), rel=1e-5)


def test_filters_that_depend_on_one_another_leave_more_room():
    torch.manual_seed(0)
    for X, O in ((20, 20), (200, 20)):
        layer = nn.Linear(X, O)
        with torch.no_grad():
            layer.weight[5:] = layer.weight[torch.arange(15) % 5]
        before = rows(layer)
        NullSpace(scale="unit").reinitialise_(layer, [6, 7, 8, 9], seeded())
        new = rows(layer)[6:10]
        assert np.abs(new @ before.T).max() < 1e-6
        np.testing.assert_allclose(new @ new.T, np.eye(4), atol=1e-6)


def test_filters_of_zeros_take_no_room():
    layer = nn.Linear(6, 5)
    layer.weight.data.zero_()
    NullSpace(scale="unit").reinitialise_(layer, [0, 1, 2], seeded())
    np.testing.assert_allclose(rows(layer)[:3] @ rows(layer)[:3].T, np.eye(3), atol=1e-6)
    assert not rows(layer)[3:].any()


def first_layer():
    torch.manual_seed(0)
    return nn.Conv2d(3, 32, 3)  # 32 filters of 27 entries


def test_where_there_is_no_null_space():
    before = rows(first_layer())
    dropped = list(range(0, 32, 3))
    kept = [f for f in range(32) if f % 3]

    least = first_layer()
    NullSpace(scale="unit").reinitialise_(least, dropped, seeded())
    new = rows(least)[dropped]
    unit = before / np.linalg.norm(before, axis=1, keepdims=True)
    smallest = np.linalg.svd(unit)[2][::-1][: len(dropped)]
    np.testing.assert_allclose(np.abs((new * smallest).sum(axis=1)), 1, atol=1e-5)
    assert np.array_equal(rows(least)[kept], before[kept])

    drawn = first_layer()
    NullSpace(empty="random").reinitialise_(drawn, dropped, seeded())
    entries = rows(drawn)[dropped]
    assert 0.9 * 27**-0.5 < np.abs(entries).max() <= 27**-0.5
    assert abs(entries.mean()) < 0.02
    assert entries.std() == pytest.approx((27 * 3) ** -0.5, rel=0.1)

    stayed = first_layer()
    NullSpace(empty="keep").reinitialise_(stayed, dropped, seeded())
    assert np.array_equal(rows(stayed), before)


def test_more_dropped_filters_than_entries():
    torch.manual_seed(0)
    layer = nn.Linear(4, 12)
    before = rows(layer)
    NullSpace(scale="unit").reinitialise_(layer, range(6), seeded())
    new = rows(layer)[:6]
    np.testing.assert_allclose(np.linalg.norm(new, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(new[:4] @ new[:4].T, np.eye(4), atol=1e-6)
    assert np.array_equal(rows(layer)[6:], before[6:])


def test_equal_generators_give_equal_bits_and_the_gain_scales():
    def new(seed=0, **options):
        torch.manual_seed(0)
        layer = nn.Conv2d(16, 20, 3)
        state = torch.get_rng_state()
        NullSpace(**options).reinitialise_(layer, [1, 2, 3], seeded(seed))
        assert torch.equal(torch.get_rng_state(), state)
        return layer.weight.detach()

    assert torch.equal(new(), new())
    assert not torch.allclose(new(), new(seed=1))
    torch.testing.assert_close(new(gain=0.1)[1:4], 0.1 * new()[1:4])


def test_directions_have_no_preference():
    """Of new filters over many seeds, the mean outer product is the projection onto the null space, over its size."""
    torch.manual_seed(0)
    W = torch.randn(2, 5, dtype=torch.float64)
    drawn = torch.cat([NullSpace(scale="unit").drawn(W, [0], seeded(seed)) for seed in range(600)])
    A = W.numpy()
    projection = np.eye(5) - A.T @ np.linalg.inv(A @ A.T) @ A
    np.testing.assert_allclose((drawn.T @ drawn).numpy() / 600, projection / 3, atol=0.05)
    np.testing.assert_allclose(drawn.mean(dim=0), 0, atol=0.08)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: NullSpace(scale="old"), "scale='old' is not known"),
        (lambda: NullSpace(empty="zero"), "empty='zero' is not known"),
        (lambda: NullSpace(gain=0), "gain=0 is not a number above 0"),
        (lambda: NullSpace().reinitialise_(nn.Linear(4, 3), [3], seeded()), "the layer has 3, counted from 0"),
        (lambda: NullSpace().reinitialise_(nn.Linear(4, 3), [0, 1, 2], seeded()), "at least one is kept"),
    ],
)
def test_mistakes_are_told(make, told):
    with pytest.raises(ValueError, match=told):
        make()
