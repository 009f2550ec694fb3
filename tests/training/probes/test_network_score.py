import copy
import json

import pytest
import torch
from torch import nn

from lowrank_exp import factorize_, profile
from lowrank_exp.rank import Choice
from lowrank_exp.training import NetworkScore, evaluate


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.Flatten(), nn.Linear(192, 6)
    ).eval()


def batches():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, 8, 8, generator=generator)
    return [(x[:24], network()(x[:24]).argmax(1)), (x[24:], network()(x[24:]).argmax(1))]


EXAMPLE = torch.zeros(1, 3, 8, 8)


def by_factorize(ranks, decomposition="spatial_svd"):
    return evaluate(factorize_(network(), ranks, decomposition), batches())


def test_it_is_the_accuracy_of_the_factorized_network_in_whatever_order():
    model = network()
    before = copy.deepcopy(model.state_dict())
    score = NetworkScore(model, profile(model, EXAMPLE), batches())
    sets = [{"0": 2}, {"0": 2, "3": 3}, {"3": 3, "5": 1}, {}, {"0": 1, "3": 1, "5": 1}, {"0": 2, "5": None}]
    for ranks in [*sets, *reversed(sets)]:
        assert score(ranks) == by_factorize(ranks).accuracy
    assert score({}) == 1.0
    assert [type(module).__name__ for module in model] == [type(module).__name__ for module in network()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("decomposition", ["channel_svd", "tucker2", "tensor_train"])
def test_by_other_decompositions(decomposition):
    layers = profile(network(), EXAMPLE, decomposition)
    ranks = {name: layers[name].ranks[2] for name in ("0", "3")}
    score = NetworkScore(network(), layers, batches(), quality="loss")
    assert -torch.tensor(score(ranks)).log() == pytest.approx(by_factorize(ranks, decomposition).loss, rel=1e-5)


def test_a_choice_says_the_decomposition():
    layers = profile(network(), EXAMPLE, ["spatial_svd", "channel_svd"])
    score = NetworkScore(network(), layers, batches(), quality="loss")
    by_channel = score({"0": Choice(layers["0"].alternatives[1], 2)})
    assert -torch.tensor(by_channel).log() == pytest.approx(by_factorize({"0": 2}, "channel_svd").loss, rel=1e-5)
    assert score({"0": 2}) != by_channel


def test_scores_are_stored_one_by_one_and_not_measured_again(tmp_path, monkeypatch):
    layers = profile(network(), EXAMPLE)
    first = NetworkScore(network(), layers, batches(), folder=tmp_path)
    scores = [first({"0": 2}), first({"3": 4})]
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == 2
    assert {json.loads(file.read_text())["accuracy"] for file in files} == set(scores)

    measured = []
    monkeypatch.setattr(
        "lowrank_exp.training.probes.network_score.evaluate", lambda *args: measured.append(args) or evaluate(*args)
    )
    again = NetworkScore(network(), layers, batches(), folder=tmp_path)
    assert [again({"0": 2, "3": None}), again({"3": 4})] == scores
    assert not measured
    as_loss = NetworkScore(network(), layers, batches(), folder=tmp_path, quality="loss")
    assert -torch.tensor(as_loss({"0": 2})).log() == pytest.approx(by_factorize({"0": 2}).loss, rel=1e-5)
    assert not measured
    files[0].write_text('{"accuracy": ')  # killed while writing by another program
    assert {again({"0": 2}), again({"3": 4})} == set(scores)
    assert len(measured) == 1


def test_mistakes_are_told():
    layers = profile(network(), EXAMPLE)
    with pytest.raises(ValueError, match="quality='f1' is not known: accuracy or loss"):
        NetworkScore(network(), layers, batches(), quality="f1")
    score = NetworkScore(network(), layers, batches())
    with pytest.raises(ValueError, match="there is no layer 'conv1' to score"):
        score({"conv1": 2})
    with pytest.raises(ValueError, match="rank 100"):
        score({"0": 100})
