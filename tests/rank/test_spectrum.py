"""The singular values that a rank cuts, in plans and their files."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from lowrank_exp import allocate, profile
from lowrank_exp.rank import Plan
from lowrank_exp.rank.spectrum import MOST, spectrum_of


def test_long_spectra_are_thinned_to_their_first_and_last_value() -> None:
    (curve,) = spectrum_of([np.linspace(8.0, 1.0, 1000)[None]])
    assert len(curve) <= MOST
    assert (curve[0], curve[-1]) == ([1, 1.0], [1000, 0.125])
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(curve))


def test_groups_are_averaged_and_nothing_is_made_of_nothing() -> None:
    assert spectrum_of([np.array([[4.0, 2.0], [2.0, 1.0]]), np.zeros((1, 0))]) == [[[1, 1.0], [2, 0.5]]]
    assert spectrum_of([np.zeros((1, 3))]) == []


@pytest.mark.parametrize(("decomposition", "curves"), [("channel_svd", 1), ("tucker2", 2)])
def test_a_plan_keeps_what_its_ranks_cut(tmp_path: Path, decomposition: str, curves: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    plan = allocate(profile(model, torch.zeros(1, 6, 8, 8), decomposition=decomposition), "uniform", macs=0.5)
    plan.write(tmp_path / "plan.yaml")
    again = Plan.read(tmp_path / "plan.yaml")
    assert again == plan
    for name, layer in again.layers.items():
        assert layer.spectrum == plan.layers[name].spectrum
        assert layer.full_rank == plan.layers[name].full_rank
    cut = [layer for layer in again.layers.values() if layer.rank is not None]
    assert cut
    assert all(len(layer.spectrum) == curves for layer in cut)
    if curves == 1:
        weight = model[2].weight.detach().reshape(8, -1)
        values = torch.linalg.svdvals(weight)
        assert plan.layers["2"].full_rank == 8
        expected = [[k + 1, float(value / values[0])] for k, value in enumerate(values)]
        assert np.allclose(plan.layers["2"].spectrum[0], expected, rtol=1e-3)


def test_a_plan_without_numbers_has_no_spectrum_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    layer = {"rank": 2, "decomposition": "channel_svd"}
    path.write_text(yaml.safe_dump({"layers": {"conv": layer}}))
    plan = Plan.read(path)
    assert (plan.layers["conv"].spectrum, plan.layers["conv"].full_rank) == (None, None)
    plan.write(path)
    assert "spectrum" not in path.read_text()
    for wrong in ({"spectrum": [[1, 2]]}, {"spectrum": "x"}, {"full_rank": 0.5}, {"full_rank": []}):
        path.write_text(yaml.safe_dump({"layers": {"conv": layer | wrong}}))
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Plan.read(path)
