import pytest
from torch import nn

from lowrank_exp.decomposition import ChannelSVD, Decompositions, LinearSVD, SpatialSVD, named
from support.cells import cells

CONV, LINEAR = nn.Conv2d(1, 1, 1), nn.Linear(1, 1)


def kinds(given):
    chosen = Decompositions.of(given).by_layer({"conv": CONV, "linear": LINEAR})
    return [type(chosen[name]) for name in ("conv", "linear")]


@cells(
    ("given", "wanted"),
    [
        ("spatial_svd", [SpatialSVD, LinearSVD]),
        (ChannelSVD(), [ChannelSVD, LinearSVD]),
        ("linear_svd", [type(None), LinearSVD]),
        ({"conv": "channel_svd"}, [ChannelSVD, LinearSVD]),
        ({"conv": SpatialSVD(), "linear": None}, [SpatialSVD, type(None)]),
        ({"linear": "linear_svd"}, [type(None), LinearSVD]),
        (Decompositions((ChannelSVD(),), ()), [ChannelSVD, type(None)]),
        ({"conv": "spatial_svd", "layers": {"re:c.*": "channel_svd"}}, [ChannelSVD, LinearSVD]),
        ({"conv": "spatial_svd", "layers": {"linear": None}}, [SpatialSVD, type(None)]),
    ],
)
def test_what_convolutions_and_linear_layers_get(given, wanted):
    assert kinds(given) == wanted


@pytest.mark.parametrize("name", ["channel_svd", "spatial_svd", "linear_svd"])
def test_named_by_what_a_file_says(name):
    assert (named(name).name, named(name).options()) == (name, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tucker", r"unknown decomposition 'tucker'; known: .*biclustering, .*channel_svd, cp, .*tucker1, tucker2"),
        ({"convolution": "channel_svd"}, r"takes the keys conv, linear and layers, got \['convolution'\]"),
        (3, "a name, a Decomposition or a list of them, got 3"),
        ({"conv": ["spatial_svd", 3]}, "a name, a Decomposition or a list of them, got 3"),
        (["spatial_svd", "tucker2", "spatial_svd"], r"spatial_svd with the options \{\} is listed twice"),
    ],
)
def test_what_is_no_decomposition_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Decompositions.of(given)
