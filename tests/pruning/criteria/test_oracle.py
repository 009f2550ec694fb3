import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu

from lowrank_exp.pruning.correlation import measure_agreement
from lowrank_exp.pruning.criteria import L1, Oracle, Taylor, WeightedSum, filter_scores, oracle

LAYERS = ["0", "3"]


def small_network():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), nn.Flatten()),
        nn.Linear(2 * 4, 3),
    )
    nn.init.uniform_(network[1].bias, 0.5, 1)
    return network.double().eval()


IMAGES = torch.randn(7, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(7) % 3


def loss_of(network):
    with torch.no_grad():
        return float(cross_entropy(network(IMAGES), LABELS))


def written_out(network, f=None, g=None, layer_only=False):
    """The loss with map f of the first and map g of the second convolution at zero."""
    z = network[0](IMAGES)
    if f is not None and layer_only:
        z = z * (torch.arange(3) != f).view(-1, 1, 1)
    z = relu(network[1](z))
    if f is not None and not layer_only:
        z = z * (torch.arange(3) != f).view(-1, 1, 1)
    z = network[3](z)
    if g is not None:
        z = z * (torch.arange(2) != g).view(-1, 1, 1)
    return cross_entropy(network[5](z.flatten(1)), LABELS).item()


@pytest.mark.parametrize("at", ["relu", "layer"])
def test_it_is_the_change_of_the_loss_without_one_map(at):
    network = small_network()
    signed = oracle(network, LAYERS, loss_of, absolute=False, at=at)
    whole = written_out(network)
    first = [written_out(network, f=f, layer_only=at == "layer") - whole for f in range(3)]
    assert signed["0"].tolist() == pytest.approx(first, abs=1e-12)
    assert signed["3"].tolist() == pytest.approx([written_out(network, g=g) - whole for g in range(2)], abs=1e-12)
    assert min(map(abs, first)) > 1e-4
    absolute = oracle(network, LAYERS, loss_of, at=at)
    assert all(torch.equal(absolute[name], signed[name].abs()) for name in LAYERS)
    assert loss_of(network) == pytest.approx(whole, abs=1e-12)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_score_that_copies_the_network_gives_the_same():
    network = small_network()
    expected = oracle(network, LAYERS, loss_of)
    got = oracle(network, LAYERS, lambda network: loss_of(copy.deepcopy(network)))
    assert all(torch.equal(got[name], expected[name]) for name in LAYERS)


class KilledError(Exception):
    pass


def counting(limit=None):
    calls = []

    def score(network):
        if limit is not None and len(calls) == limit:
            raise KilledError
        calls.append(1)
        return loss_of(network)

    return score, calls


@pytest.mark.parametrize("torn", [b"", b'{"layer": "0", "fil'])
def test_a_killed_oracle_goes_on(tmp_path, torn):
    network, path = small_network(), tmp_path / "runs" / "oracle.jsonl"
    expected = oracle(network, LAYERS, loss_of)
    killed, _ = counting(limit=3)
    with pytest.raises(KilledError):
        oracle(network, LAYERS, killed, path=path)
    assert not any(module._forward_hooks for module in network.modules())
    assert len(path.read_text().splitlines()) == 3  # heading, two filters
    path.write_bytes(path.read_bytes() + torn)
    score, calls = counting()
    got = oracle(network, LAYERS, score, path=path)
    assert len(calls) == 1 + 3  # the whole network, three filters
    assert all(torch.equal(got[name], expected[name]) for name in LAYERS)
    again, calls = counting()
    signed = oracle(network, LAYERS, again, path=path, absolute=False)
    assert len(calls) == 1
    assert all(torch.equal(signed[name].abs(), expected[name]) for name in LAYERS)
    assert [json.loads(line).get("layer") for line in path.read_text().splitlines()] == [None, "0", "0", "0", "3", "3"]


def test_a_file_of_something_else_is_refused(tmp_path):
    network, path = small_network(), tmp_path / "oracle.jsonl"
    oracle(network, ["0"], loss_of, path=path)
    with pytest.raises(ValueError, match="other layers"):
        oracle(network, LAYERS, loss_of, path=path)
    with pytest.raises(ValueError, match="other layers, or of another `at`"):
        oracle(network, ["0"], loss_of, path=path, at="layer")
    with pytest.raises(ValueError, match="another network or other images"):
        oracle(network, ["0"], lambda network: 2 * loss_of(network), path=path)


def test_mistakes_are_told():
    network = small_network()
    with pytest.raises(ValueError, match="'1' is a BatchNorm2d"):
        oracle(network, ["1"], loss_of)
    with pytest.raises(ValueError, match="at='norm' is not known"):
        oracle(network, ["0"], loss_of, at="norm")
    with pytest.raises(ValueError, match="the loss of the whole network is nan"):
        oracle(network, ["0"], lambda network: float("nan"))


def test_taylor_with_sign_is_the_first_order_of_the_oracle():
    """Maps that are scaled down have less to lose: the change is linear in them, to second order."""
    network = small_network()
    network[3].weight.data *= 1e-3
    network[3].bias.data.zero_()
    taylor = filter_scores(network, ["3"], Taylor(absolute="none", positions="sum"), [(IMAGES, LABELS)])
    signed = oracle(network, ["3"], loss_of, absolute=False)
    torch.testing.assert_close(signed["3"], -taylor["3"], rtol=1e-2, atol=1e-9)
    assert measure_agreement({"3": -taylor["3"]}, signed).raw == pytest.approx(1.0)


BATCHES = [(IMAGES[:4].clone(), LABELS[:4]), (IMAGES[4:].clone(), LABELS[4:])]


def hits(network, f=None, g=None):
    """How many images are right with map f of the first and map g of the second convolution at zero."""
    with torch.no_grad():
        z = relu(network[1](network[0](IMAGES)))
        z = z if f is None else z.index_fill(1, torch.tensor(f), 0)
        z = network[3](z)
        z = z if g is None else z.index_fill(1, torch.tensor(g), 0)
        return int((network[5](z.flatten(1)).argmax(1) == LABELS).sum())


@pytest.mark.parametrize("absolute", [True, False])
def test_as_a_criterion_it_is_the_same_change_of_the_loss(absolute):
    network = small_network().train()
    before = copy.deepcopy(network.state_dict())
    got = filter_scores(network, LAYERS, Oracle(absolute=absolute), iter(BATCHES))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    expected = oracle(network.eval(), LAYERS, loss_of, absolute=absolute)
    for name in LAYERS:
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-12)


def test_by_accuracy_it_is_the_share_of_images_that_are_missed_then():
    network = small_network()
    network[5].weight.data *= -3
    got = filter_scores(network, LAYERS, Oracle(measure="accuracy", absolute=False), BATCHES)
    whole = hits(network)
    first = [(whole - hits(network, f=f)) / 7 for f in range(3)]
    second = [(whole - hits(network, g=g)) / 7 for g in range(2)]
    assert got["0"].tolist() == pytest.approx(first, abs=1e-12)
    assert got["3"].tolist() == pytest.approx(second, abs=1e-12)
    assert len({*first, *second}) > 1


def test_the_criterion_measures_nothing_again_that_its_file_has(tmp_path):
    network, path = small_network(), tmp_path / "oracle.jsonl"
    expected = filter_scores(network, LAYERS, Oracle(), BATCHES, path=path)
    lines = path.read_text().splitlines()
    altered = [json.dumps({**json.loads(line), "loss": 9.0}) for line in lines[1:2]]
    path.write_text("\n".join([lines[0], *altered, *lines[2:]]) + "\n")
    got = filter_scores(network, LAYERS, Oracle(), BATCHES, path=path)
    assert got["0"][0].item() == pytest.approx(9.0 - loss_of(network), abs=1e-12)
    assert torch.equal(got["0"][1:], expected["0"][1:])
    assert torch.equal(got["3"], expected["3"])


def test_mistakes_of_the_criterion_are_told():
    network = small_network()
    with pytest.raises(ValueError, match="Oracle: measure='error' is not known: loss or accuracy"):
        Oracle(measure="error")
    with pytest.raises(ValueError, match="Oracle: at='norm' is not known"):
        Oracle(at="norm")
    with pytest.raises(ValueError, match="Oracle: absolute='yes' is neither true nor false"):
        Oracle(absolute="yes")
    with pytest.raises(ValueError, match="Oracle looks at images: give batches"):
        filter_scores(network, LAYERS, Oracle())
    with pytest.raises(ValueError, match="Oracle looks at images, and the batches gave none"):
        filter_scores(network, LAYERS, Oracle(), [])
    with pytest.raises(ValueError, match="WeightedSum: second is a Oracle, not a single criterion"):
        WeightedSum({"first": L1(), "second": Oracle()}, {"first": 1.0, "second": 1.0})
