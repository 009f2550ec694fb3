import concurrent.futures
import copy
import json
import multiprocessing
import operator
import pickle
from dataclasses import asdict, fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import SpatialSVD
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.rank import profile
from support.cells import cells


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10),
    )


def example():
    return torch.zeros(5, 3, 9, 10)


def test_numbers_of_every_layer():
    layers = profile(network(), example(), "spatial_svd")
    assert list(layers) == ["0", "2", "4"]
    assert [p.kind for p in layers.values()] == ["conv", "conv", "linear"]
    assert [p.decomposition for p in layers.values()] == ["spatial_svd", "spatial_svd", "linear_svd"]
    assert [p.macs for p in layers.values()] == [8 * 3 * 9 * 90, 8 * 4 * 9 * 16, 1280]
    assert [p.weights for p in layers.values()] == [216, 288, 1280]
    assert [p.full_rank for p in layers.values()] == [9, 12, 10]
    # Factors 3 x 1 to R maps on 9 x 10, then 1 x 3 to 8; the second layer halves the height first, 4 x 10 then 4 x 4.
    assert layers["0"].rank_macs.tolist() == [r * (3 * 3 + 3 * 8) * 90 for r in range(1, 10)]
    assert layers["2"].rank_macs.tolist() == [2 * r * (4 * 3 * 40 + 3 * 4 * 16) for r in range(1, 13)]
    assert layers["4"].rank_macs.tolist() == [r * (128 + 10) for r in range(1, 11)]
    assert layers["2"].rank_weights.tolist() == [2 * r * (4 * 3 + 3 * 4) for r in range(1, 13)]
    # The rank with as many weights as dense: 216 / 33, 288 / 48, 1280 / 138.
    assert [p.r_max for p in layers.values()] == [7, 6, 9]


def test_r_max_is_at_least_one_and_at_most_the_full_rank():
    wide = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Linear(100, 1), nn.Conv2d(2, 40, 7))
    assert profile(wide[:1], torch.zeros(1, 1, 4, 4), "channel_svd")["0"].r_max == 1
    assert profile(nn.Sequential(wide[1]), torch.zeros(1, 100))["0"].r_max == 1
    layers = profile(nn.Sequential(wide[2]), torch.zeros(1, 2, 9, 9), "spatial_svd")
    assert layers["0"].full_rank == 14
    assert layers["0"].r_max == 13  # 3920 / 294


def test_energy_and_error_are_those_of_numpys_svd():
    model = network().double()
    weight = model[4].weight.detach().numpy()
    found = profile(model, example().double())["4"]
    values = np.linalg.svd(weight, compute_uv=False)
    np.testing.assert_allclose(found.singular_values, values[None], rtol=1e-10)
    np.testing.assert_allclose(found.energy, np.cumsum(values**2) / (weight**2).sum(), rtol=1e-10)
    U, S, V = np.linalg.svd(weight)
    lost = [((U[:, r:10] * S[r:]) @ V[r:10]) for r in range(1, 11)]
    np.testing.assert_allclose(found.error, [(e**2).sum() / (weight**2).sum() for e in lost], rtol=1e-8, atol=1e-14)
    assert found.error.min() >= 0
    assert found.error[-1] == 0


def test_the_model_is_not_changed():
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    profile(model, torch.randn(2, 3, 9, 10))
    assert model.training
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert str(model) == str(network())


def test_on_the_meta_device_costs_are_the_same_and_singular_values_one():
    real, meta = profile(network(), example()), profile(network().to("meta"), example())
    for name in real:
        assert meta[name].rank_macs.tolist() == real[name].rank_macs.tolist()
        assert meta[name].rank_weights.tolist() == real[name].rank_weights.tolist()
        assert meta[name].macs == real[name].macs
        assert meta[name].singular_values.tolist() == [[1.0] * real[name].full_rank]


def test_a_store_serves_profile_and_holds_the_same_values(tmp_path):
    plain, stored = profile(network(), example()), profile(network(), example(), store=SVDStore(tmp_path))
    again = profile(network(), example(), store=SVDStore(tmp_path))
    assert len(list(tmp_path.iterdir())) == 3
    for name in plain:
        np.testing.assert_allclose(stored[name].singular_values, plain[name].singular_values, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(stored[name].singular_values, again[name].singular_values)


def test_refused_layers_have_a_reason_and_no_ranks():
    model = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU())
    model[3].weight = model[2].weight
    layers = profile(model, torch.zeros(1, 1, 1, 2, 2), {"conv": SpatialSVD(), "linear": "linear_svd"})
    assert layers["0"].refusal == "spatial_svd takes Conv2d, Conv1d, ConvTranspose2d, ConvTranspose1d, not Conv3d"
    assert layers["2"].refusal == layers["3"].refusal == "its parameters are tied: 2.weight, 3.weight"
    assert [p.full_rank for p in layers.values()] == [0, 0, 0]
    assert [p.r_max for p in layers.values()] == [0, 0, 0]
    assert [p.macs for p in layers.values()] == [8, 64, 64]


def test_layers_that_are_never_called_and_kinds_without_a_decomposition():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.spare, self.fc = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(self.conv(x).mean((2, 3)))

    layers = profile(Spare(), torch.zeros(1, 1, 5, 5), {"conv": "channel_svd", "linear": None})
    assert layers["conv"].refusal is None
    assert layers["spare"].refusal == (
        "the network's forward pass does not call it: a parent reads its weight, or it is not used"
    )
    assert layers["spare"].macs == 0
    assert layers["fc"].refusal == "no decomposition is configured for linear layers"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    model = network()
    model[2].weight.data[0, 0, 0, 0] = value
    with pytest.raises(
        ValueError, match=r"^2: its weight has entries that are not finite, which spatial_svd cannot factor"
    ):
        profile(model, example())


def test_a_bare_layer_is_no_model():
    with pytest.raises(ValueError, match="the model is a bare Conv2d"):
        profile(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))


EVERY = ["channel_svd", "spatial_svd", "tucker2", "tucker1", "cp", "tensor_train", "biclustering", "monochromatic"]


@cells("decomposition", [*EVERY, "product_quantization", ["channel_svd", "tucker2"]])
def test_a_profile_comes_back_from_a_pickle(decomposition):
    net = network()
    net[0].register_forward_hook(lambda *_: None)  # cannot be pickled, and is not part of the numbers
    if decomposition == "product_quantization":
        net = net[2:4]
    layers = profile(net, example() if len(net) > 2 else torch.zeros(1, 8, 9, 10), decomposition)
    again = pickle.loads(pickle.dumps(layers))
    assert list(again) == list(layers)
    for name, layer in layers.items():
        assert again[name].ranks == layer.ranks
        if layer.refusal:
            assert again[name].refusal == layer.refusal
            continue
        for ours, theirs in zip(layer.alternatives, again[name].alternatives, strict=True):
            assert [theirs.cost(rank) for rank in ours.ranks] == [ours.cost(rank) for rank in ours.ranks]
            off = replace(theirs, offers=(replace(theirs.offer, ranks=()),))  # no ladder: from the layer's shape alone
            assert [off.cost(rank) for rank in ours.ranks] == [ours.cost(rank) for rank in ours.ranks]
            np.testing.assert_array_equal(theirs.energy, ours.energy)
            np.testing.assert_array_equal(theirs.energy_at(list(ours.ranks)), ours.energy_at(list(ours.ranks)))
            np.testing.assert_allclose(ours.energy_at(list(ours.ranks)), ours.energy, rtol=0, atol=1e-12)


PLAIN = (str, bool, int, float, type(None), range, np.ndarray)


def parts(value, path=""):
    """Every plain value in a profile, by where it lies; what is neither a record, a container nor plain fails."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {key: one for name, of in value.items() for key, one in parts(of, f"{path}.{name}").items()}
    if isinstance(value, tuple | list):
        return {key: one for place, of in enumerate(value) for key, one in parts(of, f"{path}[{place}]").items()}
    assert type(value) in PLAIN, f"{path} is a {type(value)}"
    return {path: value}


@pytest.mark.parametrize("decomposition", [*EVERY, EVERY])
def test_a_profile_is_plain_data_that_comes_back_equal_and_can_be_written_down(decomposition):
    net = network()
    layers = profile(net, example(), decomposition)
    now, again = parts(layers), parts(pickle.loads(pickle.dumps(layers)))
    assert now.keys() == again.keys()
    arrays = [one for one in now.values() if isinstance(one, np.ndarray)]
    assert len(arrays) > 10
    for path, value in now.items():
        np.testing.assert_array_equal(again[path], value, err_msg=path)
    weights = [parameter.detach().numpy() for parameter in net.parameters()]
    assert not any(np.shares_memory(one, weight) for one in arrays for weight in weights)
    records = {name: asdict(layer) for name, layer in layers.items()}
    written = json.dumps(records, default=lambda one: np.asarray(one).tolist())
    assert {name: len(one["offers"]) for name, one in json.loads(written).items()} == {
        name: len(layer.offers) for name, layer in layers.items()
    }


def test_a_pickled_profile_is_smaller_than_the_weights():
    net = nn.Sequential(nn.Conv2d(64, 64, 3))
    x = torch.zeros(1, 64, 4, 4)
    sizes = {name: len(pickle.dumps(profile(net, x, name))) for name in ("channel_svd", "tucker2")}
    weight = 4 * net[0].weight.numel()
    assert sizes["channel_svd"] < weight / 10
    assert 8 * 64 * 64 < sizes["tucker2"] < weight / 3  # the shares that every pair of ranks keeps


@pytest.mark.slow
def test_another_process_reads_ranks_off_the_ladder_of_a_profile():
    net = nn.Sequential(nn.Conv2d(8, 8, 3))
    layer = profile(net, torch.zeros(1, 8, 5, 5), "tucker2")["0"]
    off = next((a, b) for a in range(1, 9) for b in range(1, 9) if (a, b) not in layer.ranks)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        cost = pool.submit(operator.methodcaller("cost", off), layer).result()
        energy = pool.submit(operator.methodcaller("energy_at", [off]), layer).result()
    assert cost == layer.cost(off)
    assert cost.weights == 8 * off[0] + 9 * off[0] * off[1] + 8 * off[1]
    np.testing.assert_allclose(energy, layer.energy_at([off]), rtol=1e-6)


def test_costs_of_several_ranks_are_those_of_each():
    layer = profile(nn.Sequential(nn.Conv2d(24, 32, 3)), torch.zeros(1, 24, 9, 9), "tucker2")["0"]
    for ranks in ([*layer.ranks[:2]], [(8, 8), (24, 32), (3, 5)]):
        several = layer.costs_at(ranks)
        assert [several.at(place) for place in range(len(ranks))] == [layer.cost(rank) for rank in ranks]
