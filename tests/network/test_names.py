import pytest

from lowrank_exp.network.names import by_layer
from support.cells import cells

LAYERS = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "fc"]


@cells(
    ("given", "wanted"),
    [
        ({}, {}),
        ({"fc": 3}, {"fc": 3}),
        ({"re:.*": 1}, dict.fromkeys(LAYERS, 1)),
        # An exact name wins over a pattern, wherever it stands.
        ({"re:.*conv1": 2, "conv1": 7}, {"conv1": 7, "layer1.0.conv1": 2, "layer2.0.conv1": 2}),
        ({"conv1": 7, "re:.*conv1": 2}, {"conv1": 7, "layer1.0.conv1": 2, "layer2.0.conv1": 2}),
        # Of several patterns the first one counts.
        (
            {"re:layer1.*": 1, "re:layer.*": 2},
            {"layer1.0.conv1": 1, "layer1.0.conv2": 1, "layer2.0.conv1": 2},
        ),
        (
            {"re:layer.*": 2, "re:layer1.*": 1},
            {"layer1.0.conv1": 2, "layer1.0.conv2": 2, "layer2.0.conv1": 2},
        ),
        # A pattern matches whole names.
        ({"re:conv1": 5}, {"conv1": 5}),
        ({"re:fc|conv1": None}, {"conv1": None, "fc": None}),
    ],
)
def test_settings_go_to_the_layers_they_name_in_network_order(given, wanted):
    found = by_layer(given, LAYERS, "ranks")
    assert found == wanted
    assert list(found) == [name for name in LAYERS if name in wanted]


@cells(
    ("given", "message"),
    [
        (
            {"layer1.0.conv3": 1},
            r"^ranks names the layer 'layer1.0.conv3', which does not exist. Did you mean 'layer1.0",
        ),
        ({"zzz": 1}, r"'zzz', which does not exist. The layers are: conv1, layer1.0.conv1, .*, fc; a pattern starts"),
        ({"layer1.*": 1}, r"'layer1.\*', which does not exist. .*a pattern starts with re:$"),
        ({0: 1}, r"the layer 0, which does not exist"),
        ({"": 1}, r"the layer '', which does not exist"),
        ({"re:bn.*": 1}, r"^ranks: 're:bn.\*' matches no layer. The layers are: conv1, "),
        ({"re:layer1": 1}, r"'re:layer1' matches no layer"),
        ({"re:(conv": 1}, r"^ranks: 're:\(conv' is not a regular expression: missing \)"),
        ({"re:": 1}, r"'re:' matches no layer"),
    ],
)
def test_what_names_no_layer_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        by_layer({"fc": 2, **given}, LAYERS, "ranks")


def test_the_nearest_names_come_first():
    with pytest.raises(ValueError, match=r"Did you mean 'conv1' or 'conv12'\? The layers are"):
        by_layer({"conv": 1}, ["fc", "conv12", "layer1.0.norm", "conv1"], "rules")


def test_a_long_list_of_layers_is_cut():
    names = [f"block{i}" for i in range(31)]
    with pytest.raises(ValueError, match=r"block29 \.\.\. \(31 in all\)"):
        by_layer({"q": 1}, names, "ranks")
    with pytest.raises(ValueError, match=r"block29; a pattern"):
        by_layer({"q": 1}, names[:30], "ranks")
