"""Networks carried forward from layer to layer, against networks that are run whole, and patches taken one by one."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from lowrank_exp.decomposition import ChannelSVD, LinearSVD, SpatialSVD
from lowrank_exp.models.cifar_resnet import cifar_resnet
from lowrank_exp.reconstruct import fit_to_data
from lowrank_exp.reconstruct.patches import patches_GPD
from lowrank_exp.reconstruct.sequence import Carried, Whole
from lowrank_exp.reconstruct.weights import factors_of, weight_GOK
from lowrank_exp.reconstruct.whitened import whitened
from support.cells import cells
from support.layer_cases import filled, images, relative
from support.small_networks import Net, conv


def drawn(net, seed=0):
    """The network in float64 with weights and statistics of its own."""
    draw, net = torch.Generator().manual_seed(seed), net.double()
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=draw, dtype=torch.float64))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return net


def residual():
    def run(net, x):
        x = net.norm(net.stem(x)).relu()
        x = F.relu_(net.second(net.first(x).relu()) + x)
        return net.last(x.mean((2, 3)))

    layers = {"stem": conv(3, 6, 3), "norm": nn.BatchNorm2d(6), "first": conv(6, 8, 3), "second": conv(8, 6, 3)}
    return Net(run, **layers, last=nn.Linear(6, 5)), ("stem", "first", "second", "last")


def shared():
    def run(net, x):
        x = net.twice(net.stem(x).relu()).relu()
        return net.last(net.twice(net.between(x).relu() + x).flatten(1))

    layers = {"stem": conv(3, 4, 3), "twice": conv(4, 4, 3), "between": conv(4, 4, 3), "last": nn.Linear(256, 5)}
    return Net(run, **layers), ("stem", "twice", "between", "last")


def in_place():
    """What is kept before a layer is written over behind it: by a module, by a view of it, and by a sum."""

    def run(net, x):
        x = net.stem(x)
        y = net.first(x)
        net.relu(x)
        half = x[:, :3]
        z = net.second(y)
        half.mul_(0.5)
        x += z
        return net.last(x.flatten(1))

    layers = {"stem": conv(3, 6, 3), "first": conv(6, 6, 3), "second": conv(6, 6, 3), "last": nn.Linear(384, 5)}
    return Net(run, **layers, relu=nn.ReLU(inplace=True)), ("stem", "first", "second", "last")


def grouped():
    layers = [conv(3, 6, 3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Conv2d(6, 8, 3, stride=2, groups=2)]
    layers += [nn.Dropout2d(0.5, inplace=True), nn.Sequential(nn.ReLU(), conv(8, 6, 1)), nn.Flatten(), nn.Linear(54, 5)]
    return nn.Sequential(*layers), ("0", "3", "5.1", "7")


def looking():
    """Its code asks for values, so that it cannot be traced."""

    def run(net, x):
        x = net.stem(x)
        x = x.relu() if x.sum() > -1e9 else x
        return net.last(net.first(x).relu().flatten(1))

    return Net(run, stem=conv(3, 4, 3), first=conv(4, 4, 3), last=nn.Linear(256, 5)), ("stem", "first", "last")


NETWORKS = [residual, shared, in_place, grouped, looking]


def choose(net, names, conv=ChannelSVD):
    layers = {name: net.get_submodule(name) for name in names}
    return {name: (LinearSVD() if isinstance(layer, nn.Linear) else conv(), 2) for name, layer in layers.items()}


def calls_of(net, name, x):
    """Input and output of every call of a layer."""
    found = []
    hook = net.get_submodule(name).register_forward_hook(lambda _, args, y: found.append((args[0].clone(), y.clone())))
    with torch.no_grad():
        net.eval()(x.clone())
    hook.remove()
    return found


def slowly(net, wanted, x):
    """Both networks whole for every layer; the target from the normal equations."""
    compressed, chains = copy.deepcopy(net), {}
    for name, (kind, rank) in wanted.items():
        layer = net.get_submodule(name)
        W_GOD = weight_GOK(layer, x.device)
        dense, hat = (
            torch.cat([rows for seen, _ in calls_of(one, name, x) for rows in patches_GPD(layer, seen)], dim=1)
            for one in (net, compressed)
        )
        off_GPO = dense @ W_GOD.mT - hat @ W_GOD.mT
        P, D = hat.shape[1:]
        ridge_GDD = hat.square().sum((1, 2)).div(P * D)[:, None, None] * torch.eye(D)
        T_GOD = W_GOD + torch.linalg.solve(hat.mT @ hat + ridge_GDD, hat.mT @ off_GPO).mT
        second_GDD = hat.mT @ hat / hat.shape[1]
        chains[name] = factors_of(kind, layer, rank, whitened(T_GOD, second_GDD, rank))
        compressed.set_submodule(name, chains[name])
    return chains


def same(net, one, other, x, bound):
    """How the two sets of chains answer the images, in the place of the layers."""
    outputs = []
    for chains in (one, other):
        small = copy.deepcopy(net).eval()
        for name, chain in chains.items():
            small.set_submodule(name, chain)
        with torch.no_grad():
            outputs.append(small(x.clone()))
    assert relative(*outputs) <= bound


@cells("make", NETWORKS)
def test_it_is_what_whole_networks_give(make):
    net, names = make()
    net, x = drawn(net), images((64, 3, 8, 8))
    wanted = choose(net, names)
    chains = fit_to_data(net, wanted, x.split(24), "whitened", asymmetric=True)
    slow = slowly(net, wanted, x)
    assert list(chains) == list(slow)
    same(net, chains, slow, x, 1e-9)


def whole_at_once(model, calls, data, memory):
    return Whole(model, calls, data)


@cells(("fit", "conv"), [("whitened", SpatialSVD), ("response", ChannelSVD), ("relu", ChannelSVD)])
@cells("make", NETWORKS[:-1])
def test_every_fit_is_the_same_from_networks_that_are_run_whole(make, fit, conv):
    net, names = make()
    net, x = drawn(net), images((64, 3, 8, 8))
    options = {"images": 40, "schedule": ((0.1, 3),)} if fit == "relu" else {}
    how = (choose(net, names, conv), x.split(24), fit, True)
    chains = fit_to_data(net, *how, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lowrank_exp.reconstruct.fit.in_sequence", whole_at_once)
        slow = fit_to_data(net, *how, **options)
    same(net, chains, slow, x, 1e-9)


def both(net, names, x, memory):
    """The two ways for a network, in the mode that they run it in."""
    calls = {name: len(calls_of(net, name, x[:1])) for name in names}
    batches = lambda: iter(x.split(24))  # noqa: E731
    return Carried(net, calls, batches, memory), Whole(net, calls, batches)


class Noted:
    """Takes what a fit takes, and keeps it."""

    sample = None

    def __init__(self, name, layer, needs=0):
        self.name, self.layer, self.needs, self.seen = name, layer, needs, []

    def bytes(self):
        return self.needs

    def add(self, first, x, y, hat):
        self.seen.append([torch.tensor(first), *(one.clone() for one in (x, y, *hat))])


@cells("memory", [0, 150_000, 2**30])
@cells("make", NETWORKS[:-1])
def test_layers_see_equal_bits_however_little_is_kept(make, memory):
    net, names = make()
    net, x = drawn(net).eval(), images((60, 3, 8, 8))
    before = x.clone()
    ways, counts = both(net, names, x, memory), []
    for name in names:
        fits = [Noted(name, net.get_submodule(name), needs=min(memory, 10_000)) for _ in ways]
        for way, fit in zip(ways, fits, strict=True):
            way.show(fit)
            way.replace(name, ChannelSVD().factorize(fit.layer, 2) if name != names[-1] else fit.layer)
        assert len(fits[0].seen) == len(fits[1].seen) >= 3
        for one, other in zip(fits[0].seen, fits[1].seen, strict=True):
            assert all(map(torch.equal, one, other))
        kept = ways[0].kept
        held = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for batch in kept.values()
            for values in (batch.dense, batch.compressed)
            for tensor in values.values()
            if tensor is not None
        }
        assert sum(held.values()) == ways[0].bytes <= max(0, memory - fits[0].needs)
        counts.append(len(kept))
    assert min(counts) == {0: 0, 2**30: 3}.get(memory, min(counts)) <= max(counts)
    assert memory != 150_000 or (min(counts) < 3 and max(counts) > 0)
    assert torch.equal(x, before)


def test_a_batch_that_is_not_kept_goes_on_from_where_it_was():
    """Wide activations between narrow ones: what was kept before them serves until there is room again."""
    net = nn.Sequential(conv(3, 2, 3), nn.ReLU(), conv(2, 16, 1), nn.ReLU(), conv(16, 2, 1), nn.ReLU(), conv(2, 2, 1))
    net, x = drawn(net).eval(), images((48, 3, 8, 8))
    narrow = 2 * 48 * 2 * 64 * 8
    carried, _ = both(net, "0246", x, narrow * 2)
    places = {}
    for name in "0246":
        carried.show(Noted(name, net.get_submodule(name)))
        carried.replace(name, net.get_submodule(name))
        places[name] = [carried.kept[number].place for number in sorted(carried.kept)]
    assert places["2"] == places["4"] == [3, 3]  # steps: images, 0, 1, and then the second convolution
    assert places["0"] == [1, 1]
    assert places["6"] == [7, 7]
    assert carried.bytes == narrow


def test_networks_that_cannot_be_traced_are_run_whole_and_that_is_said(caplog):
    net, names = looking()
    wanted = choose(net, names)
    with caplog.at_level(logging.INFO, logger="lowrank_exp"):
        fit_to_data(drawn(net), wanted, [images((4, 3, 8, 8))], "whitened", asymmetric=True)
    assert "run whole for every layer that is fitted: it cannot be traced (TraceError" in caplog.text


def test_what_tracing_froze_is_noticed():
    """A number that Python's code counts up is another one in every pass."""

    class Counting(nn.Module):
        count = 0

        def __init__(self):
            super().__init__()
            self.layer = filled(nn.Linear(3, 3))

        def forward(self, x):
            self.count += 1
            return self.layer(x * self.count)

    net = Counting().eval()
    with pytest.raises(ValueError, match="its steps do not do what it does"):
        Carried(net, {"layer": 1}, lambda: iter([images((4, 3))]), 2**20)
    assert net.count == 0


def test_a_layer_that_is_not_called_as_a_module_is_noticed():
    net = Net(lambda net, x: F.linear(x, net.layer.weight), layer=nn.Linear(3, 3)).eval()
    with pytest.raises(ValueError, match="layer is not called as a module"):
        Carried(net, {"layer": 1}, lambda: iter([torch.ones(4, 3)]), 2**20)


def test_half_precision_takes_differences_of_inputs():
    """Outputs in bfloat16 have three digits, and their differences none."""
    net = nn.Sequential(conv(3, 6, 3), nn.ReLU(), conv(6, 6, 3))
    x = images((40, 3, 8, 8)).bfloat16()
    wanted = {"0": (SpatialSVD(), 6), "2": (ChannelSVD(), 3)}
    half = drawn(net).bfloat16()
    chains = fit_to_data(half, wanted, [x], "whitened", asymmetric=True)
    exact = fit_to_data(copy.deepcopy(half).double(), wanted, [x.double()], "whitened", asymmetric=True)
    with torch.no_grad():
        seen = images((9, 6, 8, 8)).relu()
        assert relative(chains["2"].double()(seen), exact["2"](seen)) <= 0.02


def test_a_resnet_is_carried():
    torch.manual_seed(0)
    net = cifar_resnet(depth=8).double().eval()
    x = images((8, 3, 16, 16))
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    carried, _ = both(net, names, x, 2**30)
    for name in names:
        carried.show(Noted(name, net.get_submodule(name)))
    assert list(carried.kept) == [0]
