import copy

import pytest
import torch
import torchvision
from torch import nn

from lowrank_exp.artifact import load, save
from lowrank_exp.decomposition import ChannelSVD, SpatialSVD
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.models import cifar_resnet
from lowrank_exp.network.shapes import meta_copy
from lowrank_exp.network_file.edit_records import from_records, to_records
from lowrank_exp.rank import Plan, PlannedLayer, allocate, profile
from lowrank_exp.surgery import (
    Bias,
    Factorize,
    edits_of,
    factorize_,
    recompose_,
    replay_,
    replay_to_plan_,
)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=(1, 2)),
        nn.BatchNorm2d(8),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False)),
        nn.Flatten(),
        nn.Linear(4 * 6 * 2, 5),
    )


def images(count=2, seed=1):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def relative(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


def same_state(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


RANKS = {"0": 9, "2.0": 12, "2.2": 4, "4": 5}  # the full ranks by spatial SVD


def test_full_ranks_keep_the_output():
    model = network().eval()
    wanted = model(images())
    assert factorize_(model, RANKS) is model
    assert relative(model(images()), wanted) < 1e-5
    assert [type(model.get_submodule(name)) for name in RANKS] == [nn.Sequential] * 4
    assert edits_of(model) == [
        Factorize("0", "spatial_svd", 9),
        Factorize("2.0", "spatial_svd", 12),
        Factorize("2.2", "spatial_svd", 4),
        Factorize("4", "linear_svd", 5),
    ]


@pytest.mark.parametrize(
    ("name", "decomposition", "image"),
    [
        pytest.param("resnet18", {"conv": "spatial_svd", "linear": "linear_svd"}, 64, marks=pytest.mark.slow),
        pytest.param("vgg16", {"conv": "channel_svd", "linear": None}, 32, marks=pytest.mark.slow),
        pytest.param("alexnet", {"conv": "spatial_svd", "linear": None}, 96, marks=pytest.mark.slow),
    ],
)
def test_networks_people_have_keep_their_output_at_full_rank(name, decomposition, image):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)().eval()
    x = torch.randn(1, 3, image, image)
    layers = profile(meta_copy(model), x, decomposition)
    full = {layer.name: layer.full_rank for layer in layers.values() if layer.refusal is None}
    assert len(full) == {"resnet18": 21, "vgg16": 13, "alexnet": 5}[name]
    with torch.no_grad():
        wanted = model(x)
        factorize_(model, full, decomposition)
        assert relative(model(x), wanted) < 1e-4


def test_replayed_shapes_with_loaded_weights_give_the_same_output():
    model = factorize_(network(), {"0": 3, "2.0": 2, "4": 2}).eval()
    again = replay_(network(seed=7), from_records(to_records(edits_of(model)))).eval()
    assert str(again) == str(model)
    assert edits_of(again) == edits_of(model)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(images()), model(images()), rtol=0, atol=0)


def test_replay_computes_no_weights(monkeypatch):
    monkeypatch.setattr(torch.linalg, "svd", None)
    model = replay_(network().to("meta"), [Factorize("0", "channel_svd", 3), Factorize("4", "linear_svd", 2)])
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model[0][0].out_channels == 3


def test_decomposed_twice():
    model = network().eval()
    factorize_(model, {"0": 9})
    wanted = model(images())
    # The vertical factor 3 x 1 of 9 maps, once more by channel SVD at its full rank.
    factorize_(model, {"0.0": 9, "4": 5}, "channel_svd")
    assert relative(model(images()), wanted) < 1e-5
    assert [(edit.layer, edit.decomposition) for edit in edits_of(model)] == [
        ("0", "spatial_svd"),
        ("0.0", "channel_svd"),
        ("4", "linear_svd"),
    ]
    again = replay_(network(seed=3), edits_of(model)).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(images()), model(images()), rtol=0, atol=0)


def test_a_mapping_takes_patterns_and_null():
    model = factorize_(network(), {"re:2.*": 2, "2.2": None, "re:[04]": 3}, "channel_svd")
    assert [(edit.layer, edit.decomposition, edit.rank) for edit in edits_of(model)] == [
        ("0", "channel_svd", 3),
        ("2.0", "channel_svd", 2),
        ("4", "linear_svd", 3),
    ]
    assert isinstance(model[2][2], nn.Conv2d)


def test_each_kind_of_layer_may_have_its_own_decomposition():
    model = factorize_(network(), {"0": 2, "4": 2}, {"conv": ChannelSVD(), "linear": "linear_svd"})
    assert [edit.decomposition for edit in edits_of(model)] == ["channel_svd", "linear_svd"]
    with pytest.raises(ValueError, match="4 has rank 2, but no decomposition is given for layers of its kind"):
        factorize_(network(), {"0": 2, "4": 2}, {"conv": SpatialSVD(), "linear": None})


def test_a_plan_carries_its_decompositions():
    plan = Plan(
        {
            "0": PlannedLayer(2, "channel_svd", ""),
            "2.0": PlannedLayer(None, None, "left alone"),
            "2.2": PlannedLayer(3, "spatial_svd", ""),
        }
    )
    model = factorize_(network(), plan, "spatial_svd")
    assert edits_of(model) == [Factorize("0", "channel_svd", 2), Factorize("2.2", "spatial_svd", 3)]
    shapes = replay_to_plan_(network().to("meta"), plan)
    assert str(shapes) == str(model)
    assert edits_of(shapes) == edits_of(model)


def test_plans_of_a_real_network_are_carried_out_as_planned():
    torch.manual_seed(0)
    model = cifar_resnet(depth=20)
    plan = allocate(profile(model, torch.zeros(1, 3, 32, 32)), "energy", macs=0.5)
    factorize_(model, plan)
    after = profile(model, torch.zeros(1, 3, 32, 32))
    assert sum(layer.macs for layer in after.values()) == sum(p.macs_after for p in plan.layers.values())
    assert sum(layer.weights for layer in after.values()) == sum(p.weights_after for p in plan.layers.values())
    assert [edit.layer for edit in edits_of(model)] == [name for name, rank in plan.items() if rank is not None]


def test_device_mode_and_gradients_stay():
    model = network().double().eval()
    model[0].weight.requires_grad_(False)
    factorize_(model, {"0": 2, "4": 2})
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert [module.training for module in model.modules()] == [False] * len(list(model.modules()))
    assert [p.requires_grad for p in model[0].parameters()] == [False, False, True]
    assert all(p.requires_grad for p in model[4].parameters())
    again = replay_(network().double().eval(), edits_of(model))
    assert not any(module.training for module in again.modules())
    assert {p.dtype for p in again.parameters()} == {torch.float64}


MISTAKES = {
    "unknown name": ({"0": 2, "5": 2}, "the mapping of ranks names the layer '5', which does not exist"),
    "not a layer": ({"0": 2, "1": 2}, "names the layer '1', which does not exist"),
    "pattern": ({"0": 2, "re:fc.*": 2}, "'re:fc.*' matches no layer"),
    "rank too high": ({"0": 2, "4": 6}, "4: rank 6 is above the full rank 5; linear_svd takes ranks 1 to 5"),
    "rank zero": ({"0": 2, "4": 0}, "4: rank 0 is below 1"),
    "rank a fraction": ({"0": 2, "4": 0.5}, "4: rank must be an integer from 1 to 5 .*, got 0.5"),
    "not finite": ({"0": 2, "2.2": 2}, r"2\.2: its weight has entries that are not finite"),
}


@pytest.mark.parametrize(("ranks", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_leaves_the_model_as_it_was(ranks, message):
    model = network()
    model[2][2].weight.data[0, 0] = float("nan")
    modules, state = list(model.modules()), copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        factorize_(model, ranks)
    assert list(model.modules()) == modules
    assert edits_of(model) == []
    del state["2.2.weight"]
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_an_svd_that_fails_half_way_leaves_the_model_as_it_was():
    class Failing(SVDStore):
        def __call__(self, decomposition, layer):
            if isinstance(layer, nn.Linear):
                raise torch.linalg.LinAlgError("it did not converge")
            return super().__call__(decomposition, layer)

    model = network()
    modules = list(model.modules())
    with pytest.raises(RuntimeError, match="it did not converge"):
        factorize_(model, {"0": 2, "4": 2}, store=Failing())
    assert list(model.modules()) == modules
    assert edits_of(model) == []


def test_a_store_gives_the_same_factors(tmp_path):
    plain = factorize_(network(), {"0": 3, "4": 2})
    for _ in range(2):
        stored = factorize_(network(), {"0": 3, "4": 2}, store=SVDStore(tmp_path))
        assert same_state(stored.state_dict(), plain.state_dict())
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Factorize("7", "spatial_svd", 2), "the edit of '7' fits no layer of this network"),
        (Factorize("1", "spatial_svd", 2), "the edit of '1' does not fit: .* not BatchNorm2d"),
        (Factorize("", "spatial_svd", 2), "the edit of '' does not fit: .* not Sequential"),
        (Factorize("4", "spatial_svd", 2), "the edit of '4' does not fit: .* not Linear"),
        (Factorize("4", "linear_svd", 6), "4: rank 6 is above the full rank 5"),
        (Factorize("4", "tucker", 2), "unknown decomposition 'tucker'"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit, message):
    with pytest.raises(ValueError, match=message):
        replay_(network(), [edit])


def test_records_are_plain_and_come_back():
    edits = [Factorize("0", "spatial_svd", 3), Factorize("4", "linear_svd", 2, {"a": 1})]
    records = to_records(edits)
    assert records == [
        {"edit": "Factorize", "layer": "0", "decomposition": "spatial_svd", "rank": 3, "options": {}},
        {"edit": "Factorize", "layer": "4", "decomposition": "linear_svd", "rank": 2, "options": {"a": 1}},
    ]
    assert from_records(records) == edits


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"edit": "Quantize", "layer": "0"}, "unknown edit 'Quantize'; this version knows Factorize"),
        ({"layer": "0", "decomposition": "spatial_svd", "rank": 1}, "unknown edit None"),
        ({"edit": "Factorize", "layer": "0"}, "the edit {'layer': '0'} is not one of this version"),
        (
            {"edit": "Factorize", "layer": "0", "decomposition": "x", "rank": 1, "seed": 3},
            "is not one of this version: .*seed",
        ),
    ],
)
def test_records_of_another_version_are_refused(record, message):
    with pytest.raises(ValueError, match=message):
        from_records([record])


def test_meta_copy_has_the_shapes_and_ties_and_leaves_the_original():
    model = nn.Sequential(network(), nn.Linear(5, 5), nn.Linear(5, 5))
    model[2].weight = model[1].weight
    model[1].bias.requires_grad_(False)
    factorize_(model, {"0.0": 3})
    before = copy.deepcopy(model.state_dict())
    copied = meta_copy(model)
    assert all(tensor.is_meta for tensor in copied.parameters())
    assert {n: b.is_meta for n, b in copied.named_buffers()} == {
        n: b.is_floating_point() for n, b in model.named_buffers()
    }
    assert copied[2].weight is copied[1].weight
    assert str(copied) == str(model)
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in model.parameters()]
    assert edits_of(copied) == edits_of(model)
    factorize_(copied[0], {"4": 2})
    copied.eval()

    assert model.training
    assert isinstance(model[0][4], nn.Linear)
    assert edits_of(model[0]) == [Factorize("0", "spatial_svd", 3)]
    assert edits_of(copied[0]) == [Factorize("0", "spatial_svd", 3), Factorize("4", "linear_svd", 2)]
    assert same_state(model.state_dict(), before)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_edits_travel_with_a_copy():
    model = factorize_(network(), {"0": 3})
    copied = copy.deepcopy(model)
    factorize_(copied, {"4": 2})
    assert [edit.layer for edit in edits_of(copied)] == ["0", "4"]
    assert [edit.layer for edit in edits_of(model)] == ["0"]


def test_a_factorized_layer_goes_back_and_is_factorized_again():
    model = factorize_(network(), {"0": 4, "2.0": [2, 2]}, {"conv": "spatial_svd", "layers": {"2.0": "tucker2"}}).eval()
    wanted = model(images())
    assert edits_of(model)[1].rank == (2, 2)
    recompose_(model)
    assert relative(model(images()), wanted) < 1e-6
    assert str(model) == str(network().eval())
    assert edits_of(model) == []
    factorize_(model, {"0": 4})
    assert relative(model(images()), wanted) < 1e-5
    assert edits_of(model) == [Factorize("0", "spatial_svd", 4)]


def test_layers_to_recompose_are_named():
    model = factorize_(network(), {"0": 4, "2.0": 2, "4": 2})
    factorize_(model, {"0.1": 3}, "channel_svd")
    recompose_(model, ["0", "re:4"])
    assert edits_of(model) == [Factorize("2.0", "spatial_svd", 2)]
    assert type(model[0]) is nn.Conv2d
    with pytest.raises(ValueError, match=r"recompose names the layer '0', which does not exist. .*2\.0"):
        recompose_(model, ["0"])
    with pytest.raises(ValueError, match="no layer of this network is factorized"):
        recompose_(network())


def test_a_fit_to_responses_gives_a_bias_that_files_know_of(tmp_path):
    calibration = [images(count=16, seed=5)]
    model = factorize_(network().eval(), {"2.2": 2, "0": 3}, "channel_svd", reconstruct="response", batches=calibration)
    assert edits_of(model) == [
        Bias("2.2"),
        Factorize("2.2", "channel_svd", 2),
        Factorize("0", "channel_svd", 3),
    ] or edits_of(model) == [
        Factorize("0", "channel_svd", 3),
        Bias("2.2"),
        Factorize("2.2", "channel_svd", 2),
    ]
    save(model, tmp_path / "small.pt")
    again = load(tmp_path / "small.pt", model=network(seed=4))
    assert torch.equal(again(images()), model(images()))
    assert again[2][2][1].bias.abs().sum() > 0
    plain = factorize_(network().eval(), {"2.2": 2, "0": 3}, "channel_svd")
    wanted = network().eval()(calibration[0])
    assert relative(model(calibration[0]), wanted) < relative(plain(calibration[0]), wanted)

    recompose_(model)
    assert edits_of(model) == [Bias("2.2")]
    assert torch.allclose(model(images()), again(images()), atol=1e-6)


def test_fits_to_data_say_what_they_need():
    with pytest.raises(ValueError, match="reconstruct='whitened' fits to data: pass batches"):
        factorize_(network(), {"0": 2}, reconstruct="whitened")
    with pytest.raises(ValueError, match="got batches without a fit to data: pass reconstruct"):
        factorize_(network(), {"0": 2}, batches=[images()])
    with pytest.raises(ValueError, match=r"^0: there is no fit 'relu' for spatial_svd"):
        factorize_(network(), {"0": 2}, reconstruct="relu", batches=[images()])


def test_a_layer_decomposed_twice_with_a_bias_inside_goes_back():
    calibration = [images(count=16, seed=5)]
    model = factorize_(network().eval(), {"0": 6}, "channel_svd")
    factorize_(model, {"0.0": 2}, "channel_svd", reconstruct="response", batches=calibration)
    assert model[0][0][1].bias.abs().min() > 0
    with torch.no_grad():
        wanted = model(images())
        model[0][0][1].bias.mul_(2)
        assert relative(model(images()), wanted) > 1e-3  # so the bias tells
        model[0][0][1].bias.div_(2)
        recompose_(model, ["0"])
        assert relative(model(images()), wanted) < 1e-5
    assert str(model[0]) == str(network()[0])
    assert edits_of(model) == [Bias("0")]
    again = replay_(network().eval(), edits_of(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images()), model(images()))


def test_a_bias_before_zero_padding_does_not_go_back():
    model = factorize_(network().eval(), {"0": 6}, "spatial_svd")
    factorize_(model, {"0.0": 3}, "channel_svd", reconstruct="response", batches=[images(count=16, seed=5)])
    before, wanted = edits_of(model), model(images())
    with pytest.raises(ValueError, match=r"^0 cannot be recomposed: a bias .*zero padding of Conv2d\(6, 8.*behind it"):
        recompose_(model)
    assert edits_of(model) == before
    assert torch.equal(model(images()), wanted)


def test_edits_are_not_replayed_onto_layers_that_cannot_be_replaced():
    model = network()
    model[4].forward = lambda x: x
    with pytest.raises(ValueError, match="the edit of '4' does not fit: its forward was replaced"):
        replay_(model, [Factorize("4", "linear_svd", 2)])
