"""Indices of codebooks by an entropy coder: they come back bit by bit, and never take more than packed bits."""

import zlib

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp import factorize_, load, save
from lowrank_exp.artifact import index_bytes
from lowrank_exp.decomposition import ProductQuantization
from lowrank_exp.decomposition.codebook import index_bits, pack, unpack
from lowrank_exp.network_file.archive import archive_content
from lowrank_exp.network_file.coding import CODERS, Indices, coded, decoded
from support.cells import cells

FIRST = "0.parametrizations.weight.0.indices"


def drawn(size, count, skew, seed=0):
    """Indices of which the first come more often, by a power; 0 draws all alike."""
    shares = np.arange(1, size + 1.0) ** -skew
    return torch.from_numpy(np.random.default_rng(seed).choice(size, count, p=shares / shares.sum()))


def entropy(indices):
    shares = np.bincount(indices) / len(indices)
    shares = shares[shares > 0]
    return -(shares * np.log2(shares)).sum()


@cells(
    ("size", "skew"), [(2, 3.0), (16, 1.0), (200, 1.5), (256, 0.5), (1000, 1.0), (70_000, 1.2), (256, 0.0), (1, 0.0)]
)
def test_indices_come_back_and_take_no_more_than_packed_bits(size, skew):
    indices, bits = drawn(size, 5000, skew), index_bits(size)
    packed, how_many = pack(indices, bits), Indices(bits, 5000)
    entries, how = coded({"i": packed, "w": torch.ones(2)}, {"i": how_many})
    again = decoded(entries, how, 10**6)
    assert torch.equal(again["i"], packed)
    assert torch.equal(unpack(again["i"], *how_many), indices.int())
    assert len(packed) == how_many.packed == -(-5000 * bits // 8)
    assert len(entries["i"]) < len(packed) if how else torch.equal(entries["i"], packed)
    if 2 < size <= 256 and skew >= 1:  # far from alike: near the entropy, which no coder of single indices goes below
        assert 0.99 * entropy(indices) < 8 * len(entries["i"]) / 5000 < 1.06 * entropy(indices) + 0.1


def test_what_all_come_alike_stays_packed():
    packed = pack(drawn(256, 5000, 0), 8)
    entries, how = coded({"i": packed}, {"i": Indices(8, 5000)})
    assert how == {}
    assert entries["i"] is packed


def test_every_coder_gives_back_what_it_took():
    data = bytes(drawn(7, 999, 1).byte().numpy())
    for code, decode in CODERS.values():
        assert decode(code(data), 1000) == data
        assert len(decode(code(data), 10)) == 10  # no more than was asked for, whatever the bytes claim


def network(skewed=True):
    """Two layers with codebooks; half of the first weight is of one kernel, of the second none are alike."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 64, 3), nn.ReLU(), nn.Conv2d(64, 16, 3))
    with torch.no_grad():
        if skewed:
            model[0].weight[:48] = model[0].weight[0, 0]
    return factorize_(model, {"0": 32, "2": 16}, decomposition=ProductQuantization())


def test_a_file_is_smaller_by_what_its_indices_save_and_loads_as_before(tmp_path):
    model = network()
    save(model, tmp_path / "coded.pt")
    content = archive_content(tmp_path / "coded.pt")
    assert content["version"] == 3
    assert FIRST in content["coded"]
    packed = {f"{name}.parametrizations.weight.0.indices": one for name, one in (("0", 320), ("2", 512))}
    told = index_bytes(model, tmp_path / "coded.pt")
    assert told["indices_packed_bytes"] == sum(packed.values())
    assert told["indices_file_bytes"] == sum(content["state_dict"][name].numel() for name in packed)
    assert 0.3 * 320 < content["state_dict"][FIRST].numel() < 0.75 * 320
    plain = network(skewed=False)
    again = load(tmp_path / "coded.pt", model=nn.Sequential(nn.Conv2d(8, 64, 3), nn.ReLU(), nn.Conv2d(64, 16, 3)))
    for name, entry in model.state_dict().items():
        assert torch.equal(again.state_dict()[name].to(entry.dtype), entry)
    assert plain.state_dict()[FIRST].numel() == 320
    assert index_bytes(nn.Sequential(nn.Linear(2, 2)), tmp_path / "coded.pt") == {}


def test_a_file_of_before_and_one_that_gains_nothing_have_packed_bits(tmp_path):
    """Both are of version 2, which knows no coded entries."""
    model = factorize_(nn.Sequential(nn.Conv2d(4, 4, 3)), {"0": 4}, decomposition=ProductQuantization())
    save(model, tmp_path / "small.pt")
    content = archive_content(tmp_path / "small.pt")
    assert content["version"] == 2
    assert "coded" not in content
    assert torch.equal(content["state_dict"][FIRST], model.state_dict()[FIRST])
    again = load(tmp_path / "small.pt", model=nn.Sequential(nn.Conv2d(4, 4, 3)))
    assert torch.equal(again.state_dict()[FIRST], model.state_dict()[FIRST])
    told = index_bytes(model, tmp_path / "small.pt")
    assert told == {"indices_packed_bytes": 4, "indices_file_bytes": 4}


RECORD = {"coder": "deflate", "bits": 3, "count": 999}


def code(indices):
    return torch.frombuffer(bytearray(CODERS["deflate"][0](bytes(indices.byte().numpy()))), dtype=torch.uint8)


@cells(
    ("entry", "record", "message"),
    [
        (code(drawn(7, 998, 1)), RECORD, "'i' does not give the 999 indices"),
        (code(drawn(7, 1000, 1)), RECORD, "'i' does not give the 999 indices"),
        (code(drawn(9, 999, 0)), RECORD, "'i' has an index of more than 3 bits"),
        (torch.zeros(9, dtype=torch.uint8) + 255, RECORD, r"'i' is damaged \("),
        (torch.zeros(9), RECORD, "'i' is coded, but no row of bytes"),
        (code(drawn(7, 999, 1)), {"coder": "deflate", "bits": 3}, "'i' must have a coder, bits and count, got"),
        (code(drawn(7, 999, 1)), RECORD | {"coder": "zip"}, "'i' is coded by 'zip'; known: huffman, deflate, lzma"),
        (code(drawn(7, 999, 1)), RECORD | {"bits": 32}, "'i' must have 1 to 31 bits of at least one index"),
        (code(drawn(7, 999, 1)), RECORD | {"count": 10**9}, "'i' would have 1,000,000,000 bytes of indices, and the"),
    ],
)
def test_what_coded_does_not_write_is_refused(entry, record, message):
    with pytest.raises(ValueError, match=message):
        decoded({"i": entry}, {"i": record}, 2000)


def test_coded_entries_have_names_of_the_state():
    for how, message in (([], "must be a mapping of names"), ({"j": RECORD}, "'j' is coded, but no row of bytes")):
        with pytest.raises(ValueError, match=message):
            decoded({"i": code(drawn(7, 999, 1))}, how, 2000)
    bomb = torch.frombuffer(bytearray(zlib.compress(bytes(10**6), 9)[2:-4]), dtype=torch.uint8)
    with pytest.raises(ValueError, match="'i' does not give the 999 indices"):
        decoded({"i": bomb}, {"i": RECORD}, 2000)
