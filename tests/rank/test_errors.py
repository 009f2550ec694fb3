"""Errors of the weights and of the responses, as the factors reach them."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp import allocate, factorize_, profile, with_errors
from lowrank_exp.decomposition import CP, ChannelSVD, SpatialSVD, TensorTrain, Tucker2, recompose
from lowrank_exp.rank import errors, reached_ladder
from lowrank_exp.rank.multiples import at_multiples
from lowrank_exp.reconstruct import patch_moments
from support.profiles import by_hand
from support.profiles import joined as of_all

KINDS = [SpatialSVD(), ChannelSVD(), Tucker2(), TensorTrain(), CP("merged", max_iterations=5)]
IMAGE = torch.zeros(1, 4, 8, 8)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 10, 3, padding=1, bias=False),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 8, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 5),
    ).eval()


def images(count=20, size=8):
    generator = torch.Generator().manual_seed(1)
    every = torch.randn(count, 4, 8, 8, generator=generator) + 0.3
    return list(every.split(size))


def responses(model, name, chain=None):
    """The outputs of a layer, or of factors in its place, on all images; and its bias."""
    model, seen = copy.deepcopy(model), []
    if chain is not None:
        model.set_submodule(name, chain)
    model.get_submodule(name).register_forward_hook(lambda layer, x, y: seen.append(y.detach().double()))
    with torch.no_grad():
        for batch in images():
            model(batch)
    return torch.cat(seen)


def by_hand_response(model, name, chain):
    """E||y - y^||^2 / E||y - b||^2 on the images themselves."""
    layer = model.get_submodule(name)
    y = responses(model, name)
    bias = 0 if layer.bias is None else layer.bias.detach().double().reshape(1, -1, *[1] * (y.dim() - 2))
    return float((y - responses(model, name, chain)).square().sum() / (y - bias).square().sum())


def test_errors_of_weights_are_those_of_the_factors():
    model = network()
    layers = profile(model, IMAGE, {"conv": KINDS})
    reached = with_errors(layers, model)
    assert list(reached) == list(layers)
    estimates_off = 0.0
    for name, layer in reached.items():
        weight = model.get_submodule(name).weight.detach().double()
        for kind, one, before in zip(
            KINDS if name != "6" else [None], layer.alternatives, layers[name].alternatives, strict=True
        ):
            assert one.offer.responses.shape == (0,)
            assert one.error.shape == (one.rungs,)
            assert one.error[-1] == pytest.approx(0.0, abs=1e-6)
            for place in (
                range(one.rungs)
                if one.rungs <= reached_ladder.FEW
                else [r - 1 for r in reached_ladder.measured_rungs(one, 12)]
            ):
                if kind is None:
                    kept = np.linalg.svd(weight.numpy(), compute_uv=False) ** 2
                    wanted = 1 - kept[: place + 1].sum() / kept.sum()
                else:
                    made = recompose(kind.factorize(model.get_submodule(name), one.ranks[place])).weight.detach()
                    wanted = float((made.double() - weight).square().sum() / weight.square().sum())
                assert one.error[place] == pytest.approx(wanted, rel=1e-4, abs=1e-6), (name, one.decomposition, place)
                estimates_off = max(estimates_off, abs(before.error[place] - wanted))
    assert estimates_off > 0.02  # of CP and the tensor train


@pytest.mark.parametrize("fit", [None, "whitened", "response"])
def test_response_errors_are_those_of_the_outputs_on_the_images(fit):
    model = network()
    few = {"conv": [SpatialSVD(), ChannelSVD(), Tucker2()]}
    layers = {
        name: at_multiples(layer, 4) if name != "3" else layer for name, layer in profile(model, IMAGE, few).items()
    }
    reached = with_errors(layers, model, images(), fit=fit, fits=None)
    lowered = 0.0
    for name, layer in reached.items():
        for one in layer.alternatives:
            for place in np.flatnonzero(one.rank_macs < one.macs)[:: max(1, one.rungs // 3)]:
                alone = allocate({name: one}, "fixed", ranks={name: one.ranks[place]})
                kind_fits = fit == "whitened" or one.decomposition in ("channel_svd", "linear_svd")
                how = {"reconstruct": fit, "batches": images()} if fit and kind_fits else {}
                chain = factorize_(copy.deepcopy(model), alone, **how).get_submodule(name)
                wanted = by_hand_response(model, name, chain)
                assert one.response[place] == pytest.approx(wanted, rel=1e-6, abs=1e-9), (
                    name,
                    one.decomposition,
                    place,
                )
                if how:
                    plain = factorize_(copy.deepcopy(model), alone).get_submodule(name)
                    lowered = max(lowered, by_hand_response(model, name, plain) - wanted)
    assert (lowered > 0.01) == (fit is not None)


def test_a_bound_on_memory_takes_more_passes_and_tells_the_same():
    model = network()
    layers = profile(model, IMAGE, ["tucker2", "channel_svd"])
    every, little = (with_errors(layers, model, images(), memory=memory) for memory in (2**31, 90_000))
    for name in layers:
        for one, other in zip(every[name].offers, little[name].offers, strict=True):
            assert np.array_equal(one.responses, other.responses)


def test_fits_in_closed_form_tell_their_error_at_every_rank_from_the_responses_alone(monkeypatch):
    """A long ladder, of which others are measured at some rungs; no patch is looked at."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 48, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(48 * 36, 20)).eval()
    layers = profile(model, IMAGE, "channel_svd")
    assert [layer.rungs for layer in layers.values()] == [18, 20]
    monkeypatch.setattr(patch_moments, "patch_sums", None)
    for fit in ("whitened", "response"):
        reached = with_errors(layers, model, images(), fit=fit)
        monkeypatch.undo()
        for name, layer in reached.items():
            # The rounding of the factors, which are float32, is left where next to nothing is lost.
            for rank in range(1, layer.rungs + 1, 3):
                chain = factorize_(
                    copy.deepcopy(model), {name: rank}, "channel_svd", reconstruct=fit, batches=images()
                ).get_submodule(name)
                wanted = by_hand_response(model, name, chain)
                assert layer.response[rank - 1] == pytest.approx(wanted, rel=1e-6, abs=1e-10), (fit, name, rank)
            assert layer.response[0] > 0.1
            assert (np.diff(layer.response) < 1e-15).all()


def test_between_measured_rungs_the_error_is_near_to_the_one_reached():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(20, 24, 3))
    with torch.no_grad():
        model[0].weight *= torch.linspace(1, 0.05, 24)[:, None, None, None]
    layers = profile(model, torch.zeros(1, 20, 8, 8), [Tucker2(), CP("merged", max_iterations=10)])
    measured = with_errors(layers, model)["0"].alternatives
    every = with_errors(layers, model, rungs=400)["0"].alternatives
    for one, exact in zip(measured, every, strict=True):
        share = one.rank_macs / one.macs
        inside = (share >= reached_ladder.LEAST) & (share < 1)
        assert len(reached_ladder.measured_rungs(one, 12)) <= 13 < inside.sum() / 1.5
        assert (np.diff(one.error) <= 1e-9).all()
        off = np.abs(one.error - exact.error)[inside]
        assert off.max() <= 0.03
        assert 0 < off.mean() <= 0.005  # they are not all measured


def test_what_few_fits_leave_is_carried_to_the_other_rungs():
    model = network()
    layers = {"0": profile(model, IMAGE, SpatialSVD())["0"]}
    some, plain = (with_errors(layers, model, images(), fit=fit, fits=4)["0"] for fit in ("whitened", None))
    assert (some.rungs, np.array_equal(some.error, plain.error)) == (12, True)
    fitted = [0, 3, 7, 10]
    for place in fitted:
        wanted = factorize_(
            copy.deepcopy(model), {"0": place + 1}, SpatialSVD(), reconstruct="whitened", batches=images()
        )
        assert some.response[place] == pytest.approx(by_hand_response(model, "0", wanted[0]), rel=1e-3)
    left = np.log(some.response[fitted] / plain.response[fitted])
    assert -0.2 < left.min() < left.max() < -0.03
    carried = np.interp(np.log(np.arange(1, 12)), np.log(np.array(fitted) + 1), left)
    assert some.response[:11] == pytest.approx(plain.response[:11] * np.exp(carried), rel=1e-9)
    assert some.response[11] == 0


def test_the_knapsack_takes_what_is_reached_and_not_what_is_estimated():
    """By its estimate CP loses 0.33, and reaches 0.25, less than the 0.3 of channel SVD at the same cost."""
    costs = np.array([40, 100])
    svd = by_hand("a", "conv", 100, 100, "channel_svd", costs, costs, np.zeros((1, 0)), kept=np.array([0.7, 1.0]))
    cp = by_hand("a", "conv", 100, 100, "cp", costs, costs, np.zeros((1, 0)), kept=np.array([0.67, 1.0]))
    reached = by_hand(
        "a",
        "conv",
        100,
        100,
        "cp",
        costs,
        costs,
        np.zeros((1, 0)),
        kept=np.array([0.67, 1.0]),
        errors=np.array([0.25, 0.0]),
        responses=np.array([0.4, 0.0]),
    )
    seen = by_hand(
        "a",
        "conv",
        100,
        100,
        "channel_svd",
        costs,
        costs,
        np.zeros((1, 0)),
        kept=np.array([0.7, 1.0]),
        errors=np.array([0.3, 0.0]),
        responses=np.array([0.35, 0.0]),
    )
    chosen = {
        (told, metric): allocate({"a": of_all(*pair)}, "knapsack", macs=0.4, metric=metric).layers["a"].decomposition
        for told, pair, metric in (
            ("estimated", (svd, cp), "error"),
            ("reached", (seen, reached), "error"),
            ("reached", (seen, reached), "response"),
        )
    }
    assert chosen == {
        ("estimated", "error"): "channel_svd",
        ("reached", "error"): "cp",
        ("reached", "response"): "channel_svd",
    }
    with pytest.raises(ValueError, match="a: its profile has no response errors; take another metric"):
        allocate({"a": svd}, "knapsack", macs=0.4, metric="response")


def test_what_was_killed_goes_on_and_nothing_is_measured_twice(tmp_path, monkeypatch, caplog):
    model = network()
    layers = profile(model, IMAGE, {"conv": [Tucker2(), ChannelSVD()], "linear": None})
    wanted = with_errors(layers, model, images(), fit="response")
    asked = []

    def killed_after(count, original=reached_ladder.weight_error):
        def measure(*given):
            if len(asked) >= count:
                raise KeyboardInterrupt
            asked.append(1)
            return original(*given)

        return measure

    monkeypatch.setattr(reached_ladder, "weight_error", killed_after(15))
    with pytest.raises(KeyboardInterrupt):
        with_errors(layers, model, images(), fit="response", folder=tmp_path)
    monkeypatch.setattr(reached_ladder, "weight_error", killed_after(10_000))
    again = with_errors(layers, model, images(), fit="response", folder=tmp_path)
    ladders = [layer.alternatives[0] for layer in layers.values()]  # the fits of channel SVD are in closed form
    every = sum(rung < one.rungs for one in ladders for rung in reached_ladder.measured_rungs(one, 12))
    assert len(asked) == every
    monkeypatch.setattr(errors, "patch_moments", lambda model, missing, batches, **how: iter(missing.items()))
    third = with_errors(layers, model, images(), fit="response", folder=tmp_path)
    assert len(asked) == every
    for name, layer in layers.items():
        for which in range(len(layer.offers)):
            found = [one[name].offers[which].responses for one in (wanted, again, third)]
            assert np.array_equal(found[0], found[1])
            assert np.array_equal(found[0], found[2])
    monkeypatch.undo()
    # Other images, another fit, another weight: nothing is taken from the store.
    monkeypatch.setattr(reached_ladder, "weight_error", killed_after(every))
    for other in (
        {"batches": images(19), "fit": "response"},
        {"batches": images(), "fit": None},
    ):
        with pytest.raises(KeyboardInterrupt):
            with_errors(layers, model, **other, folder=tmp_path)
    changed = network()
    with torch.no_grad():
        changed[1].weight.mul_(2)
    with pytest.raises(KeyboardInterrupt):
        with_errors(layers, changed, images(), fit="response", folder=tmp_path)
    monkeypatch.undo()
    # A file that somebody changed is measured anew.
    path = sorted(tmp_path.glob("*.json"))[0]
    record = json.loads(path.read_text())
    record["errors"][next(iter(record["errors"]))] = [0.5, 0.5]
    path.write_text(json.dumps(record))
    fourth = with_errors(layers, model, images(), fit="response", folder=tmp_path)
    assert "is damaged and is made anew" in caplog.text
    for name, layer in layers.items():
        for which in range(len(layer.offers)):
            assert np.array_equal(fourth[name].offers[which].responses, wanted[name].offers[which].responses)


def test_multiples_take_the_errors_along():
    model = network()
    layers = profile(model, IMAGE, {"conv": [CP("merged", max_iterations=20), Tucker2(iterations=0)], "linear": None})
    reached = with_errors(layers, model, images())
    cut = {name: at_multiples(layer, 2) for name, layer in reached.items()}
    cp, tucker = cut["0"].alternatives
    of_cp, of_tucker = reached["0"].alternatives
    places = [of_cp.ranks.index(rank) for rank in cp.ranks]
    assert np.array_equal(cp.error, of_cp.error[places])
    assert np.array_equal(cp.response, of_cp.response[places])
    weight = model[0].weight.detach().double()
    for place, rank in enumerate(tucker.ranks):  # pairs off the ladder: the estimate of HOSVD is its error
        made = recompose(Tucker2(iterations=0).factorize(model[0], rank)).weight.detach().double()
        wanted = float((made - weight).square().sum() / weight.square().sum())
        assert tucker.error[place] == pytest.approx(wanted, rel=0.05, abs=1e-5)
    assert any(rank not in of_tucker.ranks for rank in tucker.ranks)


def test_the_last_rank_of_a_ladder_that_was_cut_is_measured():
    """The estimate for CP is that nothing is lost at rank 35 of 36; five sweeps lose something."""
    model, cp = network(), CP("merged", max_iterations=5)
    layers = {"0": at_multiples(profile(model, IMAGE, cp)["0"], 7)}
    assert (layers["0"].ranks, layers["0"].error[-1]) == ((7, 14, 21, 28, 35), 0)
    reached = with_errors(layers, model)["0"].error
    for rank, error in zip(layers["0"].ranks, reached, strict=True):
        assert error == pytest.approx(cp.fit(model[0], rank).relative_error ** 2, rel=1e-4)
    assert 1e-9 < reached[-1] < 0.01


def test_what_cannot_be_measured_is_refused():
    model = network()
    layers = profile(model, IMAGE, "channel_svd")
    for message, arguments in (
        ("fit='whitened' is a fit to data: pass batches", {"fit": "whitened"}),
        (
            "fit='relu' is not one whose errors are measured: None, whitened or response",
            {"fit": "relu", "batches": images()},
        ),
        ("batches can be iterated only once", {"batches": iter(images())}),
        ("rungs=1 is not a number of ranks to measure: at least 2", {"rungs": 1}),
        ("fits=1 must be a whole number of at least 2", {"batches": images(), "fits": 1}),
        ("memory=0 must be a whole number of at least 1", {"batches": images(), "memory": 0}),
        ("0: the images reach it never, so the errors", {"batches": []}),
        ("0: the images reach it with numbers that are not finite", {"batches": [IMAGE * torch.nan]}),
    ):
        with pytest.raises(ValueError, match=message):
            with_errors(layers, model, **arguments)
