"""A decomposition of one's own: its class says its name, and everything knows it by that."""

import importlib
import sys

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp import allocate, factorize_, load, profile, save
from lowrank_exp.decomposition import (
    ChannelSVD,
    Decomposition,
    Decompositions,
    LinearSVD,
    SpatialSVD,
    SVDDecomposition,
    named,
)
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.decomposition.svd import two, wrong_kind
from lowrank_exp.job.layer_results import layer_results
from lowrank_exp.pruning import remove_
from lowrank_exp.rank import Plan
from lowrank_exp.reconstruct import check_fit
from lowrank_exp.surgery import recompose_
from lowrank_exp.svd_form import to_svd_
from lowrank_exp.svd_form.layout import names_with_form


class Halves(Decomposition):
    """A linear layer as a column of the first `rank` inputs' weights and the mean of the others."""

    name = "halves_of_linear"

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def options(self):
        return {"scale": self.scale}

    def refusal(self, layer):
        return wrong_kind(layer, self.name, (nn.Linear,))

    def full_rank(self, layer):
        return layer.in_features

    def skeleton(self, layer, rank, device=None):
        first = nn.Linear(layer.in_features, rank, bias=False, device=device)
        return two(first, nn.Linear(rank, layer.out_features, bias=layer.bias is not None, device=device))

    def factorize(self, layer, rank):
        chain = self.skeleton(layer, rank)
        with torch.no_grad():
            chain[0].weight.copy_(torch.eye(layer.in_features)[:rank] * self.scale)
            chain[1].weight.copy_(layer.weight[:, :rank] / self.scale)
            if layer.bias is not None:
                chain[1].bias.copy_(layer.bias)
        return chain

    def energies(self, layer, ranks):
        kept = layer.weight.detach().square().sum(0).cumsum(0).double().numpy()
        return (kept / kept[-1])[np.asarray(ranks) - 1]


class TransposedSVD(SVDDecomposition):
    """Linear SVD with the other side first: a matrix of its own order, so no layout of an SVD form is known."""

    name = "transposed_svd"

    def refusal(self, layer):
        return wrong_kind(layer, self.name, (nn.Linear,))

    def matrices(self, layer):
        return layer.weight[None]

    def unfold(self, layer, left_GMR, right_GRN):
        return right_GRN[0], left_GMR[0]

    def skeleton(self, layer, rank, device=None):
        first = nn.Linear(layer.in_features, rank, bias=False, device=device)
        return two(first, nn.Linear(rank, layer.out_features, bias=layer.bias is not None, device=device))


class DeclaredSVD(SVDDecomposition):
    """Linear SVD, written anew: the class declares a fit, the layout of a form with U, s and V, and a place in ALDS."""

    name = "declared_svd"
    fits = frozenset({"whitened", "response"})
    input_groups = 1

    def refusal(self, layer):
        return wrong_kind(layer, self.name, (nn.Linear,))

    def first_axes(self, layer):
        return ()

    def matrices(self, layer):
        return layer.weight.t()[None]

    def unfold(self, layer, left_GMR, right_GRN):
        return left_GMR[0].t(), right_GRN[0].t()

    def skeleton(self, layer, rank, device=None):
        first = nn.Linear(layer.in_features, rank, bias=False, device=device)
        return two(first, nn.Linear(rank, layer.out_features, bias=layer.bias is not None, device=device))


class PairsOfSVD(DeclaredSVD):
    """The same with every map twice, half as large: its class says what pruning has left of a rank."""

    name = "pairs_svd"

    def skeleton(self, layer, rank, device=None):
        return super().skeleton(layer, 2 * rank, device)

    def unfold(self, layer, left_GMR, right_GRN):
        first, last = super().unfold(layer, left_GMR, right_GRN)
        return torch.cat([first, first]), torch.cat([last, last], dim=1) / 2

    def rank_left(self, factors, rank):
        return super().rank_left(factors, rank) // 2


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 5))


X = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("own", [Halves(scale=2.0), TransposedSVD()], ids=lambda kind: kind.name)
def test_profiled_planned_replaced_saved_and_loaded(own, tmp_path):
    model, decomposition = net(), {"conv": "spatial_svd", "linear": own}
    plan = allocate(profile(model, X, decomposition), "uniform", weights=0.6)
    assert {plan.layers[name].decomposition for name in ("2", "4")} == {own.name}
    plan.write(tmp_path / "plan.yaml")
    factorize_(model, Plan.read(tmp_path / "plan.yaml"))
    assert isinstance(model[2], nn.Sequential)
    save(model, tmp_path / "small.pt")
    again = load(tmp_path / "small.pt", model=net())
    assert torch.equal(again(X), model(X))


def test_at_full_rank_it_computes_what_the_layer_did_and_is_recomposed():
    model = factorize_(net(), {"2": 64}, decomposition=Halves(4.0))
    torch.testing.assert_close(model(X), net()(X))
    torch.testing.assert_close(recompose_(model)[2].weight, net()[2].weight)


def test_it_goes_to_the_layers_that_it_takes():
    chosen = Decompositions.of(["channel_svd", Halves()])
    assert [kind.name for kind in chosen.conv] == ["channel_svd"]
    assert [kind.name for kind in chosen.linear] == ["halves_of_linear"]
    alone = Decompositions.of(TransposedSVD())
    assert (alone.conv, [kind.name for kind in alone.linear]) == ((), ["transposed_svd"])


def test_what_its_class_does_not_say_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"2 .*transposed_svd has no SVD form, its class says no first_axes"):
        to_svd_(net(), {"linear": TransposedSVD()}, layers=["2"])
    with pytest.raises(ValueError, match="halves_of_linear is not a decomposition by one SVD"):
        to_svd_(net(), {"linear": Halves()}, layers=["2"])
    with pytest.raises(ValueError, match="fc: there is no fit 'relu' for transposed_svd, which has: whitened"):
        check_fit("relu", "fc", TransposedSVD(), nn.Linear(4, 4, device="meta"))
    with pytest.raises(ValueError, match="alds compares channel SVDs of k input groups, got transposed_svd"):
        allocate(profile(net(), X, {"linear": TransposedSVD()}), "alds", weights=0.6)


def same_weights(model, other):
    states = model.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_what_its_class_declares_makes_it_equal_to_the_one_of_ours_that_declares_the_same():
    fitted = [
        factorize_(net(), {"2": 3}, {"linear": kind}, reconstruct="response", batches=[X, -X])
        for kind in (DeclaredSVD(), LinearSVD())
    ]
    assert same_weights(*fitted)
    forms = [to_svd_(net(), {"linear": kind}, layers=["2"]) for kind in (DeclaredSVD(), LinearSVD())]
    assert same_weights(*forms)
    assert "declared_svd" in names_with_form()
    ranks = [
        allocate(profile(net(), X, {"linear": kind}), "alds", weights=0.6).ranks
        for kind in (DeclaredSVD(), LinearSVD())
    ]
    assert ranks[0] == ranks[1]
    assert ranks[0]["2"] is not None


@pytest.mark.parametrize(("own", "keep", "left"), [(DeclaredSVD(), (0, 2, 3), 3), (PairsOfSVD(), (0, 1, 5, 6), 2)])
def test_it_is_pruned_and_reported_at_the_rank_that_is_left(own, keep, left):
    dense = net()
    model = factorize_(net(), {"2": 5}, {"linear": own})
    torch.testing.assert_close(model(X), factorize_(net(), {"2": 5}, {"linear": LinearSVD()})(X))
    remove_(model, {"2.0": keep}, X)
    rows = {row.name: row for row in layer_results(dense, model, X)}
    assert (rows["2"].decomposition, rows["2"].rank) == (own.name, left)
    assert rows["2"].weights_after == len(keep) * (64 + 12)
    assert rows["2"].reason == f"pruning left {len(keep)} filters of 2.0"


def test_a_file_of_ours_that_nothing_has_imported_is_found_by_the_name(monkeypatch):
    module = importlib.import_module("lowrank_exp.decomposition.spatial_svd")
    monkeypatch.setattr("lowrank_exp.decomposition.spatial_svd", module)  # so that it is back at the end
    monkeypatch.delitem(Decomposition._named, "spatial_svd")
    monkeypatch.delitem(sys.modules, "lowrank_exp.decomposition.spatial_svd")
    assert type(named("spatial_svd")).__name__ == "SpatialSVD"
    with pytest.raises(ValueError, match="unknown decomposition 'spatial'; known: biclustering, channel_svd, "):
        named("spatial")


def test_a_form_with_U_s_and_V_of_one_that_says_its_axes():
    class Own(SpatialSVD):
        name = "own_spatial_svd"

    model = to_svd_(net(), {"conv": Own(order="horizontal_first"), "linear": None})
    assert model[0].decomposition.name == "own_spatial_svd"
    torch.testing.assert_close(model(X), net()(X), rtol=1e-4, atol=1e-5)


def test_a_name_taken_twice_is_refused_and_the_same_class_again_is_not():
    with pytest.raises(ValueError, match=r"Thief has the name 'spatial_svd', which is that of lowrank_exp.*SpatialSVD"):

        class Thief(SpatialSVD):
            name = "spatial_svd"

    assert type(named("spatial_svd")) is SpatialSVD

    def made():
        class Again(ChannelSVD):
            name = "again_svd"

        return Again

    first, second = made(), made()
    assert first is not second
    assert type(named("again_svd")) is second
    assert Decompositions.of(first()).conv[0].name == "again_svd"  # made before its module ran again


def test_a_class_without_a_name_is_abstract_until_it_is_used():
    class Base(ChannelSVD):
        pass

    with pytest.raises(ValueError, match=r"Base has no name of its own \(got 'channel_svd'\).*name = 'my_svd'"):
        profile(net(), X, Base())

    class Finished(Base):
        name = "finished_svd"

    assert profile(net(), X, Finished())["0"].decomposition == "finished_svd"
    with pytest.raises(ValueError, match="the name of a decomposition is a word such as 'my_svd', got 5"):

        class Numbered(ChannelSVD):
            name = 5


def test_options_that_it_does_not_tell_are_refused():
    class Silent(Halves):
        name = "silent_halves"
        options = Decomposition.options

    with pytest.raises(ValueError, match=r"silent_halves .* takes scale, but does not tell them: its options\(\) must"):
        factorize_(net(), {"2": 3}, decomposition=Silent(3.0))


def test_a_file_whose_decomposition_is_not_imported_says_so(tmp_path, monkeypatch):
    lines = (
        "from lowrank_exp.decomposition import LinearSVD\n\n\nclass Elsewhere(LinearSVD):\n    name = 'elsewhere_svd'\n"
    )
    (tmp_path / "elsewhere_of_mine.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)
    kind = importlib.import_module("elsewhere_of_mine").Elsewhere
    save(factorize_(net(), {"2": 3}, decomposition={"linear": kind()}), tmp_path / "small.pt")
    monkeypatch.delitem(Decomposition._named, "elsewhere_svd")
    monkeypatch.delitem(sys.modules, "elsewhere_of_mine")
    with pytest.raises(ValueError, match=r"unknown decomposition 'elsewhere_svd'.* import the module that"):
        load(tmp_path / "small.pt", model=net())
    importlib.import_module("elsewhere_of_mine")
    assert load(tmp_path / "small.pt", model=net())[2][0].out_features == 3


def test_options_of_a_file_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"linear_svd .* cannot be made with the options \{'order': 1\}"):
        named("linear_svd", order=1)


def test_stored_svds_are_told_apart_by_their_matrices(tmp_path):
    def made(by):
        class Changed(LinearSVD):
            name = "changed_svd"

            def matrices(self, layer):
                return layer.weight.t()[None] * by

        return Changed()

    store, layer = SVDStore(tmp_path), net()[2]
    before, after = store(made(1.0), layer), store(made(2.0), layer)
    torch.testing.assert_close(after.S_GR, 2 * before.S_GR)
