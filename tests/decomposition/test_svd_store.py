import copy

import numpy as np
import pytest
import torch
from torch import nn

from lowrank_exp.decomposition import ChannelSVD, LinearSVD, SpatialSVD
from lowrank_exp.decomposition.store import SVDStore
from support.layer_cases import filled


@pytest.fixture
def layer():
    return filled(nn.Conv2d(4, 6, 3), dtype=torch.float32)


class Counted(ChannelSVD):
    def __init__(self):
        super().__init__()
        self.computed = 0

    def svd(self, layer, rank=None):
        self.computed += 1
        return super().svd(layer, rank)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_computed_once_and_read_afterwards(tmp_path, layer):
    kind = Counted()
    first = SVDStore(tmp_path)(kind, layer)
    again = SVDStore(tmp_path)(kind, copy.deepcopy(layer))
    assert kind.computed == 1
    assert same(first, again)
    assert same(first, ChannelSVD().svd(layer))
    assert [path.suffix for path in tmp_path.iterdir()] == [".pt"]


def test_without_a_folder_nothing_is_kept(layer):
    kind = Counted()
    assert same(SVDStore()(kind, layer), SVDStore()(kind, layer))
    assert kind.computed == 2


def test_another_weight_decomposition_or_grouping_has_an_entry_of_its_own(tmp_path):
    store = SVDStore(tmp_path)
    layers = [
        (ChannelSVD(), filled(nn.Conv2d(4, 6, 3))),
        (SpatialSVD(), filled(nn.Conv2d(4, 6, 3))),
        (ChannelSVD(), filled(nn.Conv2d(4, 6, 3), seed=5)),
        (ChannelSVD(), filled(nn.Conv2d(4, 6, 3), dtype=torch.float32)),
        (ChannelSVD(), filled(nn.Conv2d(8, 6, 3, groups=2))),
        (ChannelSVD(), filled(nn.ConvTranspose2d(6, 4, 3))),
        (LinearSVD(), filled(nn.Linear(4, 6))),
    ]
    for kind, layer in layers:
        assert same(store(kind, layer), kind.svd(layer))
    assert len(list(tmp_path.iterdir())) == len(layers)
    for kind, layer in layers:
        assert same(store(kind, layer), kind.svd(layer))


def test_stride_and_bias_share_an_entry(tmp_path, layer):
    strided = nn.Conv2d(4, 6, 3, stride=2, bias=False)
    strided.weight.data = layer.weight.data
    assert same(SVDStore(tmp_path)(ChannelSVD(), layer), SVDStore(tmp_path)(ChannelSVD(), strided))
    assert len(list(tmp_path.iterdir())) == 1


BROKEN = {
    "empty": b"",
    "text": b"not a file of torch",
    "truncated": None,
    "flipped": "flipped",
    "another object": {"a": 1},
    "two tensors": [torch.zeros(2), torch.zeros(3)],
    "no tensors": [1, 2, 3],
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_cannot_be_read_is_computed_again(tmp_path, layer, broken, caplog):
    kind = Counted()
    wanted = SVDStore(tmp_path)(kind, layer)
    (path,) = tmp_path.iterdir()
    if broken is None:
        path.write_bytes(path.read_bytes()[:-100])
    elif broken == "flipped":
        content = bytearray(path.read_bytes())
        content[content.index(wanted.S_GR.numpy().tobytes())] ^= 1
        path.write_bytes(content)
    elif isinstance(broken, bytes):
        path.write_bytes(broken)
    else:
        torch.save(broken, path)
    assert same(SVDStore(tmp_path)(kind, layer), wanted)
    assert [f"{path} is damaged" in record.message for record in caplog.records] == [True]
    assert kind.computed == 2
    assert same(SVDStore(tmp_path)(kind, layer), wanted)
    assert kind.computed == 2


def test_half_precision_weights_have_a_key(tmp_path):
    layer = filled(nn.Linear(4, 3), dtype=torch.bfloat16)
    values = SVDStore(tmp_path)(LinearSVD(), layer).S_GR.numpy()
    np.testing.assert_allclose(
        values[0], np.linalg.svd(layer.weight.detach().double().numpy(), compute_uv=False), rtol=1e-5
    )
    assert len(list(tmp_path.iterdir())) == 1


def test_meta_layers_are_not_stored(tmp_path):
    layer = nn.Linear(4, 3, device="meta")
    assert SVDStore(tmp_path)(LinearSVD(), layer).S_GR.shape == (1, 3)
    assert list(tmp_path.iterdir()) == []
