"""A fit that is stopped between two layers goes on with the next one, and ends with equal bits."""

import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import ChannelSVD, SpatialSVD
from lowrank_exp.reconstruct import ChainStore, fit_to_data
from support.cells import cells
from support.layer_cases import filled, images
from support.method_jobs import KilledError, fitted_layers
from support.small_networks import conv


def network():
    net = nn.Sequential(conv(3, 6, 3), nn.ReLU(), conv(6, 6, 3), nn.ReLU(), conv(6, 5, 3), nn.Flatten())
    for name in "024":
        net.set_submodule(name, filled(net.get_submodule(name)))
    net[2].weight.requires_grad_(False)
    return net.eval()


def equal(chains, others):
    assert list(chains) == list(others)
    for name, chain in chains.items():
        state, other = chain.state_dict(), others[name].state_dict()
        assert state.keys() == other.keys()
        assert all(torch.equal(tensor, other[key]) for key, tensor in state.items())
        assert [p.requires_grad for p in chain.parameters()] == [p.requires_grad for p in others[name].parameters()]
        assert chain.training == others[name].training


@cells(
    ("fit", "kind", "asymmetric", "left"),
    [
        ("whitened", SpatialSVD(), True, "24"),
        ("whitened", SpatialSVD(), False, "24"),
        ("relu", ChannelSVD(), True, "24"),
        ("response", ChannelSVD(), False, "24"),
    ],
)
def test_it_goes_on_with_the_next_layer(fit, kind, asymmetric, left, tmp_path, monkeypatch):
    net, x = network(), images((20, 3, 6, 6))
    folder = tmp_path / f"{fit}-{asymmetric}"
    how = (net, dict.fromkeys("024", (kind, 2)), x.split(8), fit, asymmetric)
    alone = fit_to_data(*how)
    with monkeypatch.context() as patched:
        fitted_layers(patched, killed_at="2")
        with pytest.raises(KilledError):
            fit_to_data(*how, kept=ChainStore(folder))
    with monkeypatch.context() as patched:
        names = fitted_layers(patched)
        equal(fit_to_data(*how, kept=ChainStore(folder)), alone)
        assert "".join(names) == left
        equal(fit_to_data(*how, kept=ChainStore(folder)), alone)
        assert "".join(names) == left
    assert len(list(folder.iterdir())) == 3


def test_what_decides_a_chain_is_its_key(monkeypatch):
    net, x, store = network(), images((20, 3, 6, 6)), ChainStore()
    names = fitted_layers(monkeypatch)

    def fitted(asymmetric=True, net=net, **ranks):
        names.clear()
        wanted = {name: (SpatialSVD(), ranks.get(f"r{name}", 2)) for name in "024"}
        chains = fit_to_data(net, wanted, [x], "whitened", asymmetric, kept=store)
        return "".join(names), chains

    assert fitted()[0] == "024"
    assert fitted()[0] == ""
    changed, chains = fitted(r2=3)  # what comes behind it sees other inputs
    assert changed == "24"
    equal(chains, fit_to_data(net, {n: (SpatialSVD(), 3 if n == "2" else 2) for n in "024"}, [x], "whitened", True))
    assert fitted(asymmetric=False)[0] == "024"
    assert fitted(asymmetric=False, r2=3)[0] == "2"
    other = network()
    other[4].bias.data += 1
    assert fitted(net=other)[0] == "024"


def test_a_file_that_is_damaged_is_fitted_anew(tmp_path, caplog):
    net, x = network(), images((20, 3, 6, 6))
    how = (net, {"0": (SpatialSVD(), 2)}, [x], "whitened", True)
    alone = fit_to_data(*how, kept=ChainStore(tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:200])
    equal(fit_to_data(*how, kept=ChainStore(tmp_path)), alone)
    assert f"{path} is damaged and is fitted anew" in caplog.text
