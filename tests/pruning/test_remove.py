"""Channels removed: the small network gives what the masked one gave, is really smaller, and comes back from a file."""

import copy
from math import ceil, sqrt

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import relu
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp import factorize_, load, models, save
from lowrank_exp.decomposition import GroupedChannelSVD
from lowrank_exp.edits import KeepChannels, edits_of
from lowrank_exp.pruning import ChannelGroup, channel_groups, couple, keepable, mask_, remove_
from lowrank_exp.surgery import recompose_, replay_
from support.small_networks import Net, conv

FRACTION = 0.3
# Networks of the zoo, thin, and layers whose filters stay but those of the output: how many, and why.
ZOO = {
    "lenet5": (lambda: models.lenet5(input_size=16), 0, None),
    "lenet_300_100": (lambda: models.lenet_300_100(input_size=8), 0, None),
    "alexnet": (lambda: models.alexnet(width=0.1, num_classes=7, input_size=67), 2, "local response normalisation"),
    "alexnet_torchvision": (lambda: models.alexnet_torchvision(width=0.1, num_classes=7, input_size=63), 0, None),
    "vgg11": (lambda: models.vgg(11, width=0.1), 0, None),
    "vgg16 without batch norm": (lambda: models.vgg(16, width=0.1, batch_norm=False), 0, None),
    "vgg16 imagenet": (lambda: models.vgg(16, head="imagenet", width=0.1, num_classes=7), 0, None),
    "resnet20": (lambda: models.cifar_resnet(20, input_size=8), 0, None),
    "resnet20 shortcut b": (lambda: models.cifar_resnet(20, shortcut="b", input_size=8), 0, None),
    "resnet bottleneck, a": (lambda: models.cifar_resnet(11, block="bottleneck", input_size=8), 0, None),
    "resnet18": (lambda: models.resnet(18, stem="cifar", width=0.1, input_size=16), 0, None),
    "resnet50": (lambda: models.resnet(50, stem="imagenet", width=0.1, num_classes=7, input_size=64), 0, None),
    "densenet": (lambda: models.densenet(depth=22, growth=4, input_size=8), 0, None),
    "densenet-bc": (lambda: models.densenet(22, 4, bottleneck=True, reduction=0.5, input_size=8), 0, None),
    "vanilla8": (lambda: models.vanilla_cnn(8, filters=8, input_size=4), 0, None),
    "spp10": (lambda: models.spp10(width=0.05, num_classes=7, input_size=79), 0, None),
    "zeiler_fergus": (lambda: models.zeiler_fergus(width=0.1, num_classes=7, input_size=84), 2, "local response"),
}


def plain(*layers):
    net = nn.Sequential(*layers)
    net.input_shape = (3, 8, 8)
    return net


HAND_MADE = {
    "residual add": lambda: Net(
        lambda m, x: m.last(relu(m.after((h := relu(m.first(x))) + m.norm(m.second(h))))),
        first=conv(3, 8),
        second=conv(8, 8, 3),
        norm=nn.BatchNorm2d(8),
        after=nn.BatchNorm2d(8),
        last=conv(8, 5),
    ),
    "concatenation": lambda: Net(
        lambda m, x: m.last(relu(m.norm(torch.cat([m.a(x), x, m.b(x)], 1)))),
        a=conv(3, 4),
        b=conv(3, 6, 3),
        norm=nn.BatchNorm2d(13),
        last=conv(13, 5),
    ),
    "concatenation added to": lambda: Net(
        lambda m, x: m.last(torch.cat([m.a(x), m.b(x)], 1) + m.both(x)),
        a=conv(3, 1),
        b=conv(3, 6),
        both=conv(3, 7),
        last=conv(7, 5),
    ),
    "depthwise": lambda: plain(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU6(), conv(8, 5)
    ),
    "depthwise, two filters each": lambda: plain(conv(3, 8), conv(8, 16, 3, groups=8), nn.BatchNorm2d(16), conv(16, 5)),
    "grouped": lambda: plain(conv(3, 12), nn.ReLU(), conv(12, 24, 3, groups=3), nn.ReLU(), conv(24, 5)),
    "grouped twice": lambda: plain(
        conv(3, 12), conv(12, 24, 3, groups=4), nn.BatchNorm2d(24), nn.ReLU(), conv(24, 24, groups=2), conv(24, 5)
    ),
    "one output channel": lambda: plain(conv(3, 8), conv(8, 1), conv(1, 6), conv(6, 5)),
    "flatten and linear": lambda: plain(
        conv(3, 6), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(384, 12), nn.BatchNorm1d(12), nn.Linear(12, 5)
    ),
    "transposed": lambda: plain(
        conv(3, 8), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 5)
    ),
    "transposed, grouped": lambda: plain(
        conv(3, 8), nn.ConvTranspose2d(8, 12, 2, 2, groups=2), nn.BatchNorm2d(12), nn.ConvTranspose2d(12, 5, 1)
    ),
    "transposed, depthwise": lambda: plain(conv(3, 8), nn.ConvTranspose2d(8, 16, 2, 2, groups=8), conv(16, 5)),
    "prelu and no affine batch norm": lambda: plain(
        conv(3, 8, bias=False), nn.BatchNorm2d(8, affine=False), nn.PReLU(8), conv(8, 5)
    ),
    "squeeze and excitation": lambda: Net(
        lambda m, x: m.last(
            (h := m.norm(m.first(x))) * torch.sigmoid(m.up(relu(m.down(h.mean((2, 3), keepdim=True)))))
        ),
        first=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        down=conv(8, 4),
        up=conv(4, 8),
        last=conv(8, 5),
    ),
    "reordered": lambda: factorize_(
        plain(conv(3, 8), nn.ReLU(), conv(8, 8, 3), conv(8, 5)), {"2": 3}, GroupedChannelSVD(groups=2)
    ),
}
PUBLIC = {
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=7, width_mult=0.2),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(num_classes=7),
}


def lively(network):
    """Weights that keep the scale of their input, biases and batch-norm statistics of their own, double precision."""
    draw = torch.Generator().manual_seed(0)
    network.double().eval()
    for module in network.modules():
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.dim() > 1:
                tensor.data.normal_(0, sqrt(2 / tensor[0].numel()), generator=draw)
            elif tensor.is_floating_point():
                low, high = (0.5, 1.5) if key in ("weight", "running_var") else (-0.3, 0.3)
                tensor.data.uniform_(low, high, generator=draw)
    return network


def images(network, count=2):
    shape = getattr(network, "input_shape", (3, 64, 64))
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def chosen(groups):
    """A random third of every group's channels, as many as can go."""
    draw = torch.Generator().manual_seed(3)
    keep = {g: keepable(g, torch.randperm(g.channels, generator=draw)[: ceil(FRACTION * g.channels)]) for g in groups}
    return keep, {g: sorted(set(range(g.channels)).difference(kept)) for g, kept in keep.items()}


def relative(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


def masked_and_removed(network):
    """A network that was masked and then cut, the output before and after, and the groups."""
    groups = channel_groups(network, images(network))
    keep, gone = chosen(groups)
    x = images(network)
    with torch.no_grad():
        dense = network(x)
        mask_(network, groups, gone)
        masked = network(x)
        assert relative(masked, dense) > 1e-3
        before = {name: p.numel() for name, p in network.named_parameters()}
        remove_(network, keep)
        removed = network(x)
    after = {name: p.numel() for name, p in network.named_parameters()}
    assert after.keys() == before.keys()
    for group, channels in gone.items():
        if channels:
            weights = [f"{layer}.weight" for layer in group.consumers if f"{layer}.weight" in before]
            assert all(after[weight] < before[weight] for weight in weights)
            assert weights
    assert 0.2 < sum(after.values()) / sum(before.values()) < 1
    return masked, removed, groups


@pytest.mark.parametrize("case", ZOO)
def test_every_network_of_the_zoo(case, tmp_path):
    build, left_alone, reason = ZOO[case]
    network = lively(build())
    names = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    masked, removed, groups = masked_and_removed(network)
    assert relative(removed, masked) < 1e-10
    producers = {n for group in groups for n in group.producers}
    assert len(producers) == len(names) - 1 - left_alone
    if left_alone:
        reasons = couple(build(), images(network)).reasons
        assert all(reason in reasons[n] for n in names[:left_alone])
    save(network, tmp_path / "small.pt")
    again = load(tmp_path / "small.pt", model=build().double())
    with torch.no_grad():
        assert torch.equal(again(images(network)), removed)
    assert edits_of(again) == edits_of(network)


@pytest.mark.parametrize("case", HAND_MADE)
def test_hand_made_networks(case, tmp_path):
    network = lively(HAND_MADE[case]())
    masked, removed, _ = masked_and_removed(network)
    assert relative(removed, masked) < 1e-10
    save(network, tmp_path / "small.pt")
    dense = HAND_MADE[case]() if case != "reordered" else plain(conv(3, 8), nn.ReLU(), conv(8, 8, 3), conv(8, 5))
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "small.pt", model=dense.double())(images(network)), removed)


@pytest.mark.parametrize("case", PUBLIC)
def test_public_networks(case):
    network = lively(PUBLIC[case]())
    masked, removed, _ = masked_and_removed(network)
    assert relative(removed, masked) < 1e-10
    network.train()(images(network)).sum().backward()
    assert all(p.grad.shape == p.shape and p.grad.isfinite().all() for p in network.parameters())


def test_in_training_mode_too_the_outputs_are_equal():
    network = lively(models.cifar_resnet(8, input_size=8))
    groups = channel_groups(network, images(network))
    keep, gone = chosen(groups)
    mask_(network, groups, gone)
    small = copy.deepcopy(network)
    remove_(small, keep)
    x = images(network, 8)
    assert relative(small.train()(x), network.train()(x)) < 1e-10


def test_prune_then_decompose_then_prune_the_ranks(tmp_path):
    network = lively(models.vgg(11, width=0.1))
    masked_and_removed(network)
    factorize_(network, {"re:features.*": 3})
    _, removed, groups = masked_and_removed(network)
    assert any(group.name.endswith(".0") and group.channels == 3 for group in groups)
    save(network, tmp_path / "small.pt")
    again = load(tmp_path / "small.pt", model=models.vgg(11, width=0.1).double())
    with torch.no_grad():
        assert torch.equal(again(images(network)), removed)


def test_recomposed_layers_keep_the_loss_of_their_ends_and_not_that_of_ranks(tmp_path):
    network = lively(models.vgg(11, width=0.1))
    factorize_(network, {"re:features.*": 4})
    masked_and_removed(network)
    wanted = network(images(network))
    recompose_(network)
    assert relative(network(images(network)), wanted) < 1e-10
    assert all(not isinstance(module, nn.Sequential) for n, module in network.features.named_children())
    save(network, tmp_path / "dense.pt")
    again = load(tmp_path / "dense.pt", model=models.vgg(11, width=0.1).double())
    assert torch.equal(again(images(network)), network(images(network)))


def test_slices_cut_momentum_as_the_parameters():
    network = plain(conv(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 6, 3, groups=2), conv(6, 5))
    network[0].weight.requires_grad_(False)
    kept = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    layers = list(network)
    done = remove_(network, {"0": (1, 2), "3": (0, 1, 4, 5)}, torch.zeros(1, 3, 8, 8))
    assert list(network) == layers
    assert done.edits == edits_of(network)
    assert done.edits[2] == KeepChannels("3", (0, 1, 4, 5), (1, 2))
    now = network.state_dict()
    assert done.slices.keys() == {
        *("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "3.weight", "3.bias"),
        "4.weight",
    }
    assert all(torch.equal(now[name], slice_(kept[name])) for name, slice_ in done.slices.items())
    assert [p.requires_grad for p in (network[0].weight, network[3].weight)] == [False, True]
    wanted = torch.stack([kept["3.weight"][f, c] for f, c in ((0, 1), (1, 1), (4, 0), (5, 0))])[:, None]
    assert torch.equal(now["3.weight"], wanted)
    assert (network[3].in_channels, network[3].out_channels, network[3].groups) == (2, 4, 2)
    network[4].weight.requires_grad_(True)
    network(torch.randn(2, 3, 8, 8)).sum().backward()


def test_channels_last_weights_stay_so():
    network = plain(conv(3, 8, 3), conv(8, 8, 3)).to(memory_format=torch.channels_last)
    remove_(network, {"0": (0, 3, 4)}, torch.zeros(1, 3, 8, 8))
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert not network[1].weight.is_contiguous()


def test_mac_count_of_the_small_network_by_hand():
    network = plain(conv(3, 4), nn.ReLU(), conv(4, 2))
    remove_(network, {"0": [3]}, torch.zeros(1, 3, 8, 8))
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 8, 8))
    assert counter.get_total_flops() == 2 * 64 * (3 * 1 + 1 * 2)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"0": ()}, "0 would lose all of its 4 channels"),
        ({"0": (0, 4)}, "4 channels, numbered from 0"),
        ({"0": (0, 0)}, "1 of them twice"),
        ({"0": (0, 1, 2)}, r"groups \[\[2, 1\]\] channels would remain"),
        ({"2": (0,)}, "'2', which does not exist"),
    ],
)
def test_mistakes_leave_the_network_as_it_was(keep, message):
    network = plain(conv(3, 4), nn.ReLU(), conv(4, 2, groups=2))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=message):
        remove_(network, keep, torch.zeros(1, 3, 8, 8))
    assert edits_of(network) == []
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_layer_cannot_lose_its_last_filter_in_a_wider_group():
    network = HAND_MADE["concatenation added to"]()
    (group,) = channel_groups(network, images(network).float())
    with pytest.raises(ValueError, match="a would lose all of its filters"):
        remove_(network, {group: range(1, 7)})
    assert keepable(group, range(7)) == (0, 1)


def test_groups_of_another_network_and_names_alone():
    network = plain(conv(3, 4), conv(4, 2))
    with pytest.raises(ValueError, match="does not exist in this network"):
        remove_(network, {ChannelGroup("a", 2, {"a": ((0,), (1,))}): (0,)})
    with pytest.raises(ValueError, match="4 channels, fewer than the group says"):
        remove_(network, {ChannelGroup("0", 6, {"0": tuple((i,) for i in range(6))}): (0, 5)})
    with pytest.raises(ValueError, match="example_input"):
        remove_(network, {"0": (0,)})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (KeepChannels("0", (0, 4)), "0 has 4 output channels; it cannot keep 0, 4"),
        (KeepChannels("0", ()), "cannot keep none"),
        (KeepChannels("0", (1, 0)), "ascending"),
        (KeepChannels("1"), "1 has 4 output channels; it cannot keep none"),
        (KeepChannels("2", (0,)), "2 is a ReLU, which has no channels"),
        (KeepChannels("3", (0, 1), None), "3 is depthwise"),
        (KeepChannels("4", None, (0, 1)), "of which 2, 0 channels would remain"),
        (KeepChannels("nine", (0,)), "another network"),
    ],
)
def test_edits_that_do_not_fit(edit, message):
    network = plain(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4, groups=4), conv(4, 6, groups=2), conv(6, 5))
    with pytest.raises(ValueError, match=message):
        replay_(network, [edit])
