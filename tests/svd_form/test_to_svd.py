"""Networks put into SVD form, saved, loaded and resumed."""

import copy

import pytest
import torch
from torch import nn

from lowrank_exp import allocate, load, profile, save
from lowrank_exp.decomposition import SpatialSVD
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.edits import ToSVD, edits_of
from lowrank_exp.models import cifar_resnet
from lowrank_exp.network.shapes import meta_copy
from lowrank_exp.network_file.edit_records import from_records, to_records
from lowrank_exp.surgery import factorize_, replay_
from lowrank_exp.svd_form import SVDConv2d, SVDLinear, dense_copy, forms_of, profile_svd, to_svd_, truncate_
from support.layer_cases import filled, relative


def network():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, groups=2, bias=False),
        nn.Flatten(),
        nn.Linear(12 * 9, 5),
    )
    return filled(net, dtype=torch.float32).eval()


def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("decomposition", ["channel_svd", "spatial_svd", SpatialSVD(order="horizontal_first")])
def test_network_computes_what_it_did(decomposition):
    net, x = network(), images()
    wanted = net(x).detach()
    got = to_svd_(net, decomposition)
    assert got is net
    assert [type(net[i]) for i in (0, 3, 5)] == [SVDConv2d, SVDConv2d, SVDLinear]
    assert relative(net(x).detach(), wanted) <= 1e-5
    assert relative(dense_copy(net)(x).detach(), wanted) <= 1e-5


def test_ranks_by_number_fraction_and_name():
    # Full ranks: 8 of 27 x 8, 6 of 36 x 6, 5 of 108 x 5.
    wanted = {None: [8, 6, 5], 3: [3, 3, 3], 0.5: [4, 3, 2], 1.0: [8, 6, 5], 0.01: [1, 1, 1]}
    for rank, expected in wanted.items():
        assert [form.rank for form in forms_of(to_svd_(network(), rank=rank)).values()] == expected
    net = to_svd_(network(), rank={"0": 2, "re:[35]": 0.4}, layers=["0", "3", "5"])
    assert [form.rank for form in forms_of(net).values()] == [2, 2, 2]
    net = to_svd_(network(), rank={"0": 2})
    assert [form.rank for form in forms_of(net).values()] == [2, 6, 5]


def test_only_the_layers_asked_for():
    net = to_svd_(network(), {"conv": "channel_svd", "linear": None})
    assert list(forms_of(net)) == ["0", "3"]
    net = to_svd_(network(), layers=["3"])
    assert list(forms_of(net)) == ["3"]
    assert edits_of(net) == [ToSVD("3", "channel_svd", 6, {})]


def test_mistakes_leave_the_network_alone():
    net = network()
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    broken = network()
    broken[5].weight.data[0, 0] = torch.inf
    for one, options, message in (
        (net, {"rank": 9}, "0: rank 9 is above the full rank 8"),
        (net, {"rank": 0}, "rank 0 is below 1"),
        (net, {"rank": 1.5}, r"fraction of the full rank, in \(0, 1\], got 1.5"),
        (net, {"rank": {"7": 1}}, "rank names the layer '7'"),
        (net, {"layers": ["conv1"]}, "layers names the layer 'conv1'"),
        (net, {"decomposition": "cp"}, "0 cannot be put into SVD form: cp is not a decomposition by one SVD"),
        (net, {"decomposition": "tucker1"}, "0 cannot be put into SVD form: tucker1 has no SVD form"),
        (net, {"decomposition": {"conv": None, "linear": None}}, "none of the layers"),
        (tied, {}, "its parameters are tied"),
        (broken, {}, "5: its weight has entries that are not finite"),
    ):
        before = str(one)
        with pytest.raises(ValueError, match=message):
            to_svd_(one, **options)
        assert str(one) == before
        assert edits_of(one) == []


def test_svds_come_from_the_store(tmp_path):
    store = SVDStore(tmp_path)
    first = to_svd_(network(), rank=0.5, store=store)
    assert len(list(tmp_path.iterdir())) == 3
    again = to_svd_(network(), rank=0.5, store=store)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in first.state_dict().items())
    assert relative(first(images()).detach(), to_svd_(network(), rank=0.5)(images()).detach()) <= 1e-5


def test_file_of_a_network_in_svd_form(tmp_path):
    x = images()
    for decomposition, rank in (("channel_svd", None), (SpatialSVD(order="horizontal_first"), 0.5)):
        net = to_svd_(network(), decomposition, rank)
        save(net, tmp_path / "net.pt")
        again = load(tmp_path / "net.pt", model=network())
        assert edits_of(again) == edits_of(net)
        assert [type(layer) for layer in again] == [type(layer) for layer in net]
        assert torch.equal(again(x), net(x))
        for name, tensor in net.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor)


def test_file_of_a_truncated_network(tmp_path):
    x = images()
    net = to_svd_(network())
    plan = truncate_(net, {"0": 2, "3": None, "5": 3}, example_input=x)
    assert [edit.layer for edit in edits_of(net)] == ["0", "5"]
    save(net, tmp_path / "net.pt")
    again = load(tmp_path / "net.pt", model=network())
    assert torch.equal(again(x), net(x))
    assert type(again[3]) is nn.Conv2d
    assert plan.ranks == {"0": 2, "3": None, "5": 3}
    # What was truncated can be put into SVD form again, and saved again.
    to_svd_(net, layers=["0.0", "3"])
    save(net, tmp_path / "net.pt")
    assert torch.equal(load(tmp_path / "net.pt", model=network())(x), net(x))


def test_file_of_a_network_of_the_zoo(tmp_path):
    net = to_svd_(cifar_resnet(depth=8, shortcut="b"), "spatial_svd", 0.5).eval()
    save(net, tmp_path / "net.pt")
    assert torch.equal(load(tmp_path / "net.pt")(images()), net(images()))


def test_edits_replay_on_shapes_alone():
    net = to_svd_(factorize_(network(), {"0": 4}, "channel_svd"), layers=["0.0", "5"])
    shapes = replay_(meta_copy(network()), from_records(to_records(edits_of(net))))
    assert {n: t.shape for n, t in shapes.state_dict().items()} == {n: t.shape for n, t in net.state_dict().items()}
    assert shapes(torch.zeros(1, 3, 8, 8, device="meta")).shape == (1, 5)
    on_meta = to_svd_(meta_copy(network()))
    assert truncate_(on_meta, {"0": 2}, example_input=images()).ranks["0"] == 2
    assert on_meta(torch.zeros(1, 3, 8, 8, device="meta")).shape == (1, 5)


def test_copies_train_alike():
    net = to_svd_(network()).train()
    other, x = copy.deepcopy(net), images()
    for one in (net, other):
        optimizer = torch.optim.SGD(one.parameters(), lr=1e-6, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            one(x).square().mean().backward()
            optimizer.step()
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("by", ["resvd", "by_s"])
def test_profile_is_that_of_the_dense_network(by):
    x = images()
    wanted = profile(network(), x, "channel_svd")
    got = profile_svd(to_svd_(network()), x, by)
    assert list(got) == list(wanted)
    for name, layer in wanted.items():
        assert (got[name].macs, got[name].weights, got[name].bytes) == (layer.macs, layer.weights, layer.bytes)
        assert (got[name].rank_macs == layer.rank_macs).all()
        assert (got[name].rank_weights == layer.rank_weights).all()
        assert relative(got[name].singular_values, layer.singular_values) <= 1e-5
        assert relative(got[name].energy, layer.energy) <= 1e-5
    plans = [allocate(layers, "knapsack", macs=0.5) for layers in (wanted, got)]
    assert plans[0].ranks == plans[1].ranks


@pytest.mark.parametrize("policy", ["evbmf", "stable_rank"])
def test_policies_of_spectra_plan_a_form_without_numbers(policy):
    net = meta_copy(to_svd_(network()))
    layers = profile_svd(net, torch.empty_like(images(), device="meta"))
    assert allocate(layers, policy).ranks == {"0": 4, "3": 3, "5": 3}  # the middle of those that are cheaper than dense


def test_profile_ends_at_the_rank_of_the_form():
    x = images()
    net = to_svd_(network(), rank={"0": 3}, layers=["0", "5"])
    net[0].s.data = torch.tensor([[1.0, -5.0, 2.0]])
    layers = profile_svd(net, x, "by_s")
    assert layers["0"].full_rank == 3
    assert layers["0"].singular_values.tolist() == [[5.0, 2.0, 1.0]]
    assert layers["0"].energy.tolist() == pytest.approx([25 / 30, 29 / 30, 1])
    assert layers["0"].energy_at([2]).tolist() == pytest.approx([29 / 30])
    assert layers["3"].refusal == "it is not in SVD form"
    plan = allocate(layers, "energy", macs=0.611)
    done = truncate_(net, plan, by="by_s", example_input=x)
    assert done.ranks == plan.ranks
    assert done.policy == "energy"
    assert done.remaining("macs") == plan.remaining("macs")
    assert forms_of(net) == {}
    with pytest.raises(ValueError, match="no layer of this network is in SVD form"):
        profile_svd(net, x)
