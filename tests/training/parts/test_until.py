"""A fit that ends before its last epoch, by what is measured of the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.training.schedules import cosine
from support.fits import fit_by_options_


@dataclass(frozen=True)
class NormBelow:
    """Ends a fit at the first epoch whose weights are shorter than `limit`."""

    limit: float

    def measure(self, network: nn.Module) -> Mapping[str, float]:
        return {"norm": network[1].weight.norm().item()}

    def met(self, history: Sequence[Mapping[str, float]]) -> bool:
        return history[-1]["norm"] < self.limit


class KilledError(Exception):
    pass


def fit(until, checkpoint=None, on_epoch=None, epochs=8):
    draw = torch.Generator().manual_seed(1)
    images = TensorDataset(torch.randn(40, 6, generator=draw), torch.randint(0, 3, (40,), generator=draw))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.Dropout(0.2))
    history = fit_by_options_(
        network,
        DataLoader(images, batch_size=10, shuffle=True),
        None,
        epochs=epochs,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        schedule=cosine,
        seed=3,
        checkpoint=checkpoint,
        device="cpu",
        until=until,
        on_epoch=on_epoch,
        progress=False,
    )
    return network, [{name: value for name, value in line.items() if name != "seconds"} for line in history]


def limit():
    """A norm that the fit passes after its fifth epoch for the first time."""
    _, whole = fit(NormBelow(0.0))
    norms = [line["norm"] for line in whole]
    assert min(norms[:4]) > norms[4]
    return (min(norms[:4]) + norms[4]) / 2, whole


def test_it_ends_where_it_is_told_to_and_is_the_beginning_of_the_whole():
    bound, whole = limit()
    network, history = fit(NormBelow(bound))
    assert len(history) == 5
    assert history == whole[:5]
    assert network[1].weight.norm().item() == history[-1]["norm"]
    assert history[-1]["learning_rate"] == pytest.approx(0.1 * cosine(16 / 32), rel=1e-9)


@pytest.mark.parametrize("killed_after", [2, 5])
def test_going_on_ends_with_the_same_bits(tmp_path, killed_after):
    bound, _ = limit()
    alone, expected = fit(NormBelow(bound))
    seen = []

    def killer(metrics):
        seen.append(metrics["epoch"])
        if len(seen) == killed_after:
            raise KilledError

    with pytest.raises(KilledError):
        fit(NormBelow(bound), tmp_path / "last.ckpt", killer)
    again, history = fit(NormBelow(bound), tmp_path / "last.ckpt")
    assert history == expected
    assert torch.equal(again[1].weight, alone[1].weight)


def test_a_checkpoint_of_another_end_is_told_apart(tmp_path):
    fit(NormBelow(1.0), tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"until is NormBelow\(limit=1.0\) there and NormBelow\(limit=2.0\) here"):
        fit(NormBelow(2.0), tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"until is NormBelow\(limit=1.0\) there and None here"):
        fit(None, tmp_path / "last.ckpt")
