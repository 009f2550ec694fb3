"""Which channels go together: groups known by hand, and what is left alone, with its reason."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, pad, relu

from lowrank_exp import factorize_, models
from lowrank_exp.decomposition import ChannelSVD, ProductQuantization
from lowrank_exp.pruning import channel_groups, couple, remove_
from lowrank_exp.svd_form import to_svd_
from support.cells import cells
from support.small_networks import Net, conv

IMAGE = torch.zeros(1, 3, 8, 8)


def one_each(*entries):
    return tuple((entry,) for entry in entries)


def test_a_chain_of_layers():
    net = nn.Sequential(conv(3, 2), nn.BatchNorm2d(2), nn.ReLU(), conv(2, 4), nn.Flatten(), nn.Linear(256, 5))
    first, second = channel_groups(net, IMAGE)
    assert (first.name, first.channels, first.producers) == ("0", 2, {"0": one_each(0, 1)})
    assert (first.norms, first.consumers) == ({"1": one_each(0, 1)}, {"3": one_each(0, 1)})
    assert first.own_norms == {"0": {"1": one_each(0, 1)}}
    assert (second.name, second.norms, second.own_norms, second.blocks) == ("3", {}, {}, ())
    assert second.consumers == {"5": tuple(tuple(range(64 * c, 64 * c + 64)) for c in range(4))}


def test_a_residual_addition_couples_its_producers_and_their_norms_stay_apart():
    net = Net(
        lambda m, x: m.last(m.after((h := relu(m.first(x))) + m.norm(m.second(h)))),
        first=conv(3, 2),
        second=conv(2, 2),
        norm=nn.BatchNorm2d(2),
        after=nn.BatchNorm2d(2),
        last=conv(2, 1),
    )
    (group,) = channel_groups(net, IMAGE)
    assert group.producers == {"first": one_each(0, 1), "second": one_each(0, 1)}
    assert group.consumers == {"second": one_each(0, 1), "last": one_each(0, 1)}
    assert group.norms == {"norm": one_each(0, 1), "after": one_each(0, 1)}
    assert group.own_norms == {"second": {"norm": one_each(0, 1)}}  # `after` sees the sum


def test_a_concatenation_moves_channels():
    net = Net(
        lambda m, x: m.last(m.norm(torch.cat([m.a(x), x, m.b(x)], 1))),
        a=conv(3, 2),
        b=conv(3, 2),
        norm=nn.BatchNorm2d(7),
        last=conv(7, 1),
    )
    a, b = channel_groups(net, IMAGE)
    assert (a.consumers, b.consumers) == ({"last": one_each(0, 1)}, {"last": one_each(5, 6)})
    assert (a.own_norms, b.own_norms) == ({"a": {"norm": one_each(0, 1)}}, {"b": {"norm": one_each(5, 6)}})


def test_an_addition_to_a_concatenation_makes_one_group_of_three_layers():
    net = Net(
        lambda m, x: m.last(torch.cat([m.a(x), m.b(x)], 1) + m.both(x)),
        a=conv(3, 1),
        b=conv(3, 2),
        both=conv(3, 3),
        last=conv(3, 1),
    )
    (group,) = channel_groups(net, IMAGE)
    assert group.producers == {"a": ((0,), (), ()), "b": ((), (0,), (1,)), "both": one_each(0, 1, 2)}


@pytest.mark.parametrize("each", [1, 2])
def test_a_depthwise_convolution_couples_its_input_and_its_filters(each):
    net = nn.Sequential(conv(3, 2), conv(2, 2 * each, 3, groups=2), conv(2 * each, 1))
    (group,) = channel_groups(net, IMAGE)
    filters = tuple(tuple(range(each * c, each * c + each)) for c in range(2))
    assert group.producers == {"0": one_each(0, 1), "1": filters}
    assert group.consumers == {"1": one_each(0, 1), "2": filters}
    assert group.blocks == ()


def test_a_grouped_convolution_keeps_its_groups_equal():
    net = nn.Sequential(conv(3, 4), conv(4, 6, groups=2), conv(6, 1))
    first, second = channel_groups(net, IMAGE)
    assert (first.blocks, second.blocks) == ((((0, 1), (2, 3)),), (((0, 1, 2), (3, 4, 5)),))
    assert (first.balanced((0, 3)), first.balanced((0, 1, 2)), first.balanced((0, 1))) == (True, False, False)


def test_slices_and_splits_are_followed():
    net = Net(
        lambda m, x: (
            m.last((y := m.first(x))[:, 1:3]) + m.other(y[:, :, ::2, ::2].split([3, 1], 1)[1]).mean((2, 3), True)
        ),
        first=conv(3, 4),
        last=conv(2, 1),
        other=conv(1, 1),
    )
    graph_of = couple(net, IMAGE)
    assert graph_of.groups == []  # the code counts on four channels, which the trial finds
    assert "fails on fewer channels" in graph_of.reasons["first"]


def test_the_padded_shortcut_joins_the_three_stages_of_a_cifar_resnet():
    net = models.cifar_resnet(20)
    groups = {group.name: group for group in channel_groups(net, torch.zeros(1, 3, 8, 8))}
    assert len(groups) == 10
    stream = groups["conv1"]
    assert stream.channels == 64
    by_filter = {
        layer: {e: c for c, at in enumerate(entries) for e in at} for layer, entries in stream.producers.items()
    }
    assert [by_filter["conv1"][f] - by_filter["layer1.0.conv2"][f] for f in range(16)] == [0] * 16
    assert [by_filter["layer1.2.conv2"][f] - by_filter["layer2.0.conv2"][8 + f] for f in range(16)] == [0] * 16
    assert [by_filter["layer2.2.conv2"][f] - by_filter["layer3.0.conv2"][16 + f] for f in range(32)] == [0] * 32
    assert sum(len(entries) > 0 for entries in stream.producers["conv1"]) == 16


def test_pyramid_pooling_and_dense_blocks():
    pyramid = models.spp10(width=0.05, num_classes=3, input_size=79)
    conv7 = next(g for g in channel_groups(pyramid, torch.zeros(1, 3, 79, 79)) if g.name == "conv7")
    channels = conv7.channels
    wanted = [i + c for n, i in ((36, 0), (9, 36 * channels), (4, 45 * channels), (1, 49 * channels)) for c in range(n)]
    assert list(conv7.consumers["fc8"][0]) == wanted
    dense = models.densenet(depth=10, growth=2, input_size=8)
    groups = {g.name: g for g in channel_groups(dense, torch.zeros(1, 3, 8, 8))}
    assert groups["features.denseblock1.denselayer1.conv1"].consumers["features.transition1.conv"] == one_each(16, 17)
    assert groups["features.conv0"].channels == 16
    assert groups["features.conv0"].own_norms["features.conv0"].keys() == {
        *(f"features.denseblock1.denselayer{i}.norm1" for i in (1, 2)),
        "features.transition1.norm",
    }


@cells(
    ("net", "layer", "reason"),
    [
        (nn.Sequential(conv(3, 4)), "0", "the network's output"),
        (Net(lambda m, x: m.b(x + m.a(x)), a=conv(3, 3), b=conv(3, 1)), "a", "the network's input"),
        (nn.Sequential(conv(3, 4), nn.GroupNorm(2, 4), conv(4, 1)), "0", "1 is a GroupNorm"),
        (nn.Sequential(conv(3, 4), nn.Softmax(1), conv(4, 1)), "0", r"mix or move channels \(Softmax\)"),
        (nn.Sequential(conv(3, 4), nn.Sigmoid(), conv(4, 1)), "0", "differs from the masked one"),
        (nn.Sequential(conv(3, 4), nn.PixelShuffle(2), conv(1, 1)), "0", "mix or move channels"),
        (nn.Sequential(conv(3, 4), nn.LocalResponseNorm(3), conv(4, 1)), "0", "close_up=True"),
        (Net(lambda m, x: m.b(m.a(m.a(x))), a=conv(3, 3), b=conv(3, 1)), "a", "a is called 2 times"),
        (Net(lambda m, x: m.c(m.a(x) * m.b(x)), a=conv(3, 4), b=conv(3, 1), c=conv(4, 1)), "b", "broadcast"),
        (Net(lambda m, x: m.b(pad(m.a(x), (0, 0, 0, 0, 1, 1))), a=conv(3, 4), b=conv(6, 1)), "a", "ConstantPadNd"),
        (Net(lambda m, x: m.b(m.a(x).view(1, 2, 2, 8, 8).sum(1)), a=conv(3, 4), b=conv(2, 1)), "a", "View|traced"),
        (Net(lambda m, x: m.b(m.a(x).mean(1, True)), a=conv(3, 4), b=conv(1, 1)), "a", "mix or move channels"),
        (nn.Sequential(conv(3, 4), nn.utils.parametrizations.weight_norm(conv(4, 4)), conv(4, 1)), "0", "parametrized"),
    ],
)
def test_what_cannot_be_removed_faithfully_is_left_alone_with_a_reason(net, layer, reason):
    if "traced" in reason:
        with pytest.raises(ValueError, match="could not be traced"):
            couple(net, IMAGE)
        return
    groups, reasons = couple(net, IMAGE)
    assert layer not in {name for group in groups for name in group.producers}
    with pytest.raises(ValueError, match=reason):
        raise ValueError(reasons[layer])


def test_tied_layers_svd_forms_and_codebooks_are_left_alone_by_name():
    net = nn.Sequential(conv(3, 4), conv(4, 4), conv(4, 4), nn.ReLU(), conv(4, 4), conv(4, 1))
    net[2].weight = net[1].weight
    to_svd_(net, ChannelSVD(), layers=["4"])
    groups, reasons = couple(net, IMAGE)
    assert groups == []
    assert "tied" in reasons["0"]
    assert reasons["4"] == "4 is an SVD form: truncate it to plain layers first"
    assert reasons["5"] == "they are the network's output"
    net = nn.Sequential(conv(3, 4), conv(4, 4), conv(4, 1))
    factorize_(net, {"1": 2}, ProductQuantization(pointwise_block=2))
    groups, reasons = couple(net, IMAGE)
    assert groups == []
    assert all("parametrized" in reasons[name] for name in ("0", "1"))


def test_ignored_layers_keep_their_filters():
    net = nn.Sequential(conv(3, 4), conv(4, 4), conv(4, 4), conv(4, 1))
    assert [g.name for g in channel_groups(net, IMAGE, ["1"])] == ["0", "2"]
    assert [g.name for g in channel_groups(net, IMAGE, "re:[01]")] == ["2"]
    with pytest.raises(ValueError, match="'nine'"):
        channel_groups(net, IMAGE, ["nine"])


def test_a_response_normalisation_may_close_up():
    net = Net(
        lambda m, x: m.c(m.norm(m.b(m.norm(avg_pool2d(m.a(x), 2))))),
        a=conv(3, 4),
        b=conv(4, 4),
        c=conv(4, 1),
        norm=nn.LocalResponseNorm(3),
    )
    assert channel_groups(net, IMAGE) == []
    assert [g.name for g in channel_groups(net, IMAGE, close_up=True)] == ["a", "b"]


def test_the_ranks_of_factorized_layers_are_channels_too():
    net = factorize_(nn.Sequential(conv(3, 6, 3), nn.ReLU(), conv(6, 6, 3), nn.ReLU(), conv(6, 1)), {"2": 5})
    assert [(g.name, g.channels) for g in channel_groups(net, IMAGE)] == [("0", 6), ("2.0", 5), ("2.1", 6)]


def test_the_network_is_not_touched_and_the_answer_is_always_the_same():
    net = models.cifar_resnet(8).train()
    net.layer1.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    state = torch.random.get_rng_state()
    first = couple(net, IMAGE)
    with torch.no_grad():
        assert couple(net, IMAGE) == first
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert couple(models.cifar_resnet(8).to("meta"), IMAGE) == first


@pytest.mark.parametrize(
    ("net", "layers", "maps"),
    [
        (lambda: models.vgg(16, width=1.0), nn.Conv2d, 4224),
        (lambda: models.alexnet(num_classes=5, input_size=67), nn.Conv2d, 1376),
    ],
)
@pytest.mark.slow
def test_maps_that_molchanov_counts(net, layers, maps):
    with torch.device("meta"):
        net = net()
    groups = channel_groups(net, torch.zeros(1, *net.input_shape), close_up=True)
    filters = [
        e for g in groups for n, at in g.producers.items() if isinstance(net.get_submodule(n), layers) for e in at
    ]
    assert sum(map(len, filters)) == maps


def under_no_grad(m, x):
    with torch.no_grad():
        x = relu(m.trunk(relu(m.stem(x))))
    return m.last(relu(m.head(x)))


def under_inference_mode(m, x):
    with torch.inference_mode():
        x = relu(m.trunk(relu(m.stem(x))))
    return m.last(relu(m.head(x.clone())))


WITHOUT_GRADIENTS = {
    "no_grad": under_no_grad,
    "inference_mode": under_inference_mode,
    "detach": lambda m, x: m.last(relu(m.head(m.trunk(m.stem(x)).detach()))),
    "data": lambda m, x: m.last(relu(m.head(m.trunk(m.stem(x)).data))),
}


def with_trunk(forward):
    torch.manual_seed(0)
    return Net(forward, stem=conv(3, 4), trunk=conv(4, 6, 3), head=conv(6, 8, 3), last=conv(8, 2))


@pytest.mark.parametrize("forward", WITHOUT_GRADIENTS.values(), ids=WITHOUT_GRADIENTS)
def test_a_trunk_that_no_gradient_reaches_is_pruned_around(forward):
    net = with_trunk(forward)
    found = couple(net, IMAGE)
    (group,) = found.groups
    assert (group.producers, group.consumers) == ({"head": one_each(*range(8))}, {"last": one_each(*range(8))})
    assert list(found.reasons) == ["stem", "trunk", "last"]
    for name in ("stem", "trunk"):
        assert "no gradient of the output reaches it (torch.no_grad, detach," in found.reasons[name]
    assert found.reasons["last"] == "they are the network's output"
    assert [p.requires_grad for p in net.parameters()] == [True] * 8
    keep = (1, 2, 5)
    with torch.no_grad():
        net.head.weight[[0, 3, 4, 6, 7]], net.head.bias[[0, 3, 4, 6, 7]] = 0, 0
        wanted = net(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
        remove_(net, {"head": keep}, IMAGE)
        got = net(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert (net.head.weight.shape, net.last.weight.shape) == ((3, 6, 3, 3), (2, 3, 1, 1))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("values", [lambda x: x.detach().cpu().numpy(), lambda x: np.asarray(x.detach())])
def test_values_that_a_network_reads_by_numpy_are_no_obstacle(values):
    net = Net(lambda m, x: m.last(relu(m.head(x)) * float(values(x).max() < 9)), head=conv(3, 8), last=conv(8, 2))
    (group,) = channel_groups(net, IMAGE)
    assert (group.producers, group.consumers) == ({"head": one_each(*range(8))}, {"last": one_each(*range(8))})


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_network_that_never_has_gradients_stays_whole(context):
    found = couple(with_trunk(context()(WITHOUT_GRADIENTS["detach"])), IMAGE)
    assert found.groups == []
    assert list(found.reasons) == ["stem", "trunk", "head", "last"]
    assert all("no gradient of the output reaches it" in reason for reason in found.reasons.values())


def test_what_meets_a_part_without_gradients_stays_too():
    def forward(m, x):
        with torch.no_grad():
            t = m.trunk(m.stem(x))
        return m.last(relu(m.head(m.own(x)) + t))

    net = Net(forward, stem=conv(3, 4), trunk=conv(4, 6), own=conv(3, 5), head=conv(5, 6), last=conv(6, 2))
    found = couple(net, IMAGE)
    assert [group.name for group in found.groups] == ["own"]
    assert found.reasons["head"].startswith("trunk stays: no gradient")


def test_a_frozen_layer_that_gradients_pass_is_pruned_with_the_others():
    net = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 2))
    net[0].requires_grad_(False)
    assert [group.name for group in channel_groups(net, IMAGE)] == ["0"]
