import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp import allocate, factorize_, load, measure, profile
from lowrank_exp.network.cost import OUTSIDE, layer_costs, macs_of_factors, network_cost
from lowrank_exp.network.modes import evaluating
from support.cells import cells

# A layer, the shape of one input, and its MACs by the closed form: out entries x kernel entries x in channels per group
# for a convolution, in entries x kernel entries x out channels per group for a transposed one.
FORMULAS = [
    (nn.Conv2d(3, 8, 3), (3, 10, 12), 8 * 8 * 10 * 9 * 3),
    (nn.Conv2d(3, 8, 3, padding=1, stride=2), (3, 10, 12), 8 * 5 * 6 * 9 * 3),
    (nn.Conv2d(8, 12, (1, 5), groups=4, bias=False), (8, 6, 9), 12 * 6 * 5 * 5 * 2),
    (nn.Conv2d(8, 8, 3, groups=8, dilation=2), (8, 9, 9), 8 * 5 * 5 * 9),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (4, 6, 6), 4 * 36 * 9 * 4),
    (nn.Conv1d(4, 6, 5), (4, 20), 6 * 16 * 5 * 4),
    (nn.Conv3d(2, 3, 2), (2, 4, 5, 6), 3 * 3 * 4 * 5 * 8 * 2),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (4, 5, 7), 35 * 4 * 9 * 6),
    (nn.ConvTranspose2d(4, 6, 2, groups=2), (4, 5, 7), 35 * 4 * 4 * 3),
    (nn.Linear(7, 5), (7,), 35),
    (nn.Linear(7, 5, bias=False), (11, 7), 11 * 35),
]


@cells(("layer", "shape", "macs"), FORMULAS, ids=[str(layer) for layer, _, _ in FORMULAS])
def test_macs_are_those_of_the_closed_form(layer, shape, macs):
    cost = layer_costs(nn.Sequential(layer), torch.zeros(3, *shape))["0"]
    assert cost.macs == macs
    assert cost.weights == layer.weight.numel()
    assert cost.channels == layer(torch.zeros(3, *shape)).shape[-1 if isinstance(layer, nn.Linear) else 1]
    assert cost.input_shapes == ((1, *shape),)
    assert macs_of_factors(nn.Sequential(copy.deepcopy(layer).to("meta")), (1, *shape)) == [macs]


class Branching(nn.Module):
    """One layer called twice on different sizes, one never, one by keyword; batch norm and dropout between them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.spare = nn.Linear(5, 6)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(4, 10)
        self.fc.weight.requires_grad_(False)

    def forward(self, x):
        x = self.norm(self.stem(x))
        x = nn.functional.max_pool2d(self.shared(x), 2)
        return self.fc(input=self.drop(self.shared(x)).mean((2, 3)))


def test_every_call_counts_and_a_layer_without_one_costs_nothing():
    costs = layer_costs(Branching(), torch.zeros(2, 3, 8, 8))
    assert {name: cost.macs for name, cost in costs.items()} == {
        "stem": 4 * 3 * 9 * 64,
        "shared": 4 * 4 * 9 * (64 + 16),
        "spare": 0,
        "fc": 40,
    }
    assert costs["shared"].input_shapes == ((1, 4, 8, 8), (1, 4, 4, 4))
    assert costs["spare"].input_shapes == ()
    assert {name: cost.weights for name, cost in costs.items()} == {"stem": 108, "shared": 144, "spare": 30, "fc": 40}
    assert {name: cost.channels for name, cost in costs.items()} == {"stem": 4, "shared": 4, "spare": 6, "fc": 10}


def test_measure_adds_up_and_agrees_with_torchs_counter():
    model = Branching().eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 8, 8))
    found = measure(model, torch.zeros(4, 3, 8, 8), seconds=0)
    assert found.macs == counter.get_total_flops() // 2 == 4 * 3 * 9 * 64 + 4 * 4 * 9 * 80 + 40
    assert found.weights == 108 + 144 + 30 + 40
    assert found.parameters == 112 + 8 + 148 + 36 + 10  # the frozen weight of fc left out
    assert found.latency_ms is None


def test_the_meta_device_gives_the_same_costs():
    assert layer_costs(Branching().to("meta"), torch.zeros(1, 3, 8, 8)) == layer_costs(
        Branching(), torch.zeros(1, 3, 8, 8)
    )


def test_the_model_is_left_as_it_was():
    model = Branching().train()
    model.drop.eval()
    before = copy.deepcopy(model.state_dict())
    measure(model, torch.randn(4, 3, 8, 8), seconds=0.001)
    assert [module.training for module in model.modules()] == [True] * 5 + [False, True]
    assert torch.is_grad_enabled()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == [0] * 7


def test_modes_and_hooks_come_back_after_an_error_too():
    model = Branching().train()
    with pytest.raises(RuntimeError):
        layer_costs(model, torch.zeros(1, 5, 8, 8))
    assert all(module.training for module in model.modules())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == [0] * 7


def test_evaluating_ends_with_its_block_whatever_happens():
    model = Branching().train()

    def fail():
        with evaluating(model):
            seen.append((model.norm.training, torch.is_grad_enabled()))
            raise KeyError

    seen = []
    with pytest.raises(KeyError):
        fail()
    assert seen == [(False, False)]
    assert model.norm.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("example", [None, [1, 2], torch.zeros(()), torch.zeros(0, 3, 8, 8)])
def test_an_example_input_has_at_least_one_image(example):
    with pytest.raises(ValueError, match="example_input must be a tensor with at least one image, got"):
        layer_costs(Branching(), example)


class Free(nn.Module):
    """A network whose `free` part is given as a function, beside two layers of its own."""

    def __init__(self, free, **parts):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1, bias=False)
        self.free = free
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.last(self.free(self, self.first(x)))


def as_function(net, x):
    return F.conv2d(x, net.kernel, padding=1)


def standardised(net, x):
    kernel = (net.kernel - net.kernel.mean((1, 2, 3), keepdim=True)) * net.gain[:, None, None, None]
    return F.conv2d(x, kernel, padding=1)


def mixed(net, x):
    """A convolution whose kernel is a mixture of three, by the image."""
    shares = x.mean((2, 3)).mean(0)[:3].softmax(0)
    return F.conv2d(x, torch.einsum("e,eoihw->oihw", shares, net.kernels), padding=1)


def in_list(net, x):
    return net.convs[1](net.convs[0](x))


def of_other_layer(net, x):
    return F.conv2d(x, net.spare.weight, padding=1)


KERNEL = 8 * 8 * 9
FREE = {
    "function": (as_function, lambda: {"kernel": nn.Parameter(torch.randn(8, 8, 3, 3))}, 1, KERNEL),
    "standardised": (
        standardised,
        lambda: {"kernel": nn.Parameter(torch.randn(8, 8, 3, 3)), "gain": nn.Parameter(torch.ones(8))},
        1,
        KERNEL,
    ),
    "mixed": (mixed, lambda: {"kernels": nn.Parameter(torch.randn(3, 8, 8, 3, 3))}, 1, 3 * KERNEL),
    "plain list": (in_list, lambda: {"convs": [nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)]}, 2, 2 * KERNEL),
    "a layer's weight": (of_other_layer, lambda: {"spare": nn.Conv2d(8, 8, 3)}, 1, 0),
}


@pytest.mark.parametrize(("free", "parts", "times", "weights"), FREE.values(), ids=FREE)
def test_convolutions_outside_layers_count_under_a_name_of_their_own(free, parts, times, weights):
    net = Free(free, **parts()).eval()
    x = torch.zeros(1, 3, 10, 10)
    cost = network_cost(net, x)
    layers = {"first": (8 * 3 * 9 * 100, 216), "last": (4800, 48), **({"spare": (0, KERNEL)} if not weights else {})}
    assert {name: (one.macs, one.weights) for name, one in cost.layers.items()} == layers
    (outside,) = cost.outside.values()
    assert (outside.name, outside.macs, outside.weights) == (OUTSIDE["conv"], times * KERNEL * 100, weights)
    with FlopCounterMode(display=False) as counter:
        net(x)
    assert cost.macs + cost.uncounted == counter.get_total_flops() // 2
    assert cost.macs == 26_400 + times * KERNEL * 100
    assert cost.uncounted == (3 * KERNEL if free is mixed else 0)
    assert cost.unregistered == (2 if free is in_list else 0)


def test_layers_that_a_network_calls_and_does_not_hold_are_told():
    net = Free(in_list, convs=[nn.Conv2d(8, 8, 3) for _ in range(2)])
    with pytest.warns(UserWarning, match=r"2 convolutions or linear layers .* not registered in it: .* nn.ModuleList"):
        measure(net, torch.zeros(1, 3, 10, 10), seconds=0)


@pytest.mark.parametrize("ask", [measure, profile, factorize_, lambda model, x: load("no.pt", model=model)])
def test_a_class_in_the_place_of_a_network_is_told(ask):
    with pytest.raises(ValueError, match=r"model must be a network, got <class '\S*Branching'>: pass what its constr"):
        ask(Branching, torch.zeros(1, 3, 8, 8))


def test_a_budget_counts_what_lies_outside_layers():
    net = Free(as_function, kernel=nn.Parameter(torch.randn(8, 8, 3, 3)))
    x = torch.zeros(1, 3, 10, 10)
    layers = profile(net, x, "channel_svd")
    assert list(layers) == ["first", "last", OUTSIDE["conv"]]
    assert (layers[OUTSIDE["conv"]].kind, layers[OUTSIDE["conv"]].rungs) == ("conv", 0)
    plan = allocate(layers, "uniform", macs=0.9)
    assert plan.layers[OUTSIDE["conv"]].reason == "no layer of the network computes them"
    assert plan[OUTSIDE["conv"]] is None
    dense = measure(net, x, seconds=0)
    factorize_(net, plan)
    small = measure(net, x, seconds=0)
    assert 0.89 <= small.macs / dense.macs <= 0.91
    assert small.macs / dense.macs == plan.remaining("macs")
    assert small.weights / dense.weights == plan.remaining("weights")
    assert (dense.macs, dense.weights) == (26_400 + 100 * KERNEL, 216 + 48 + KERNEL)
    over_conv = allocate(
        profile(Free(as_function, kernel=net.kernel), x, "channel_svd"), "uniform", macs=0.9, over="conv"
    )
    assert over_conv.ranks == plan.ranks


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("how", ["trace", "script"])
def test_a_script_counts_and_has_no_layers_to_replace(how):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    x = torch.zeros(1, 3, 10, 10)
    script = torch.jit.trace(net, x) if how == "trace" else torch.jit.script(net)
    assert measure(script, x, seconds=0) == measure(net, x, seconds=0)
    assert {n: (c.macs, c.weights) for n, c in network_cost(script, x).outside.items()} == {
        OUTSIDE["conv"]: (8 * 27 * 64 + 8 * 36 * 36, 216 + 288),
        OUTSIDE["linear"]: (1440, 1440),
    }
    inside = Free(lambda m, x: m.scripted(x), scripted=torch.jit.script(nn.Conv2d(8, 8, 3, padding=1)))
    assert network_cost(inside, x).outside[OUTSIDE["conv"]].macs == 100 * KERNEL
    for refused in (lambda: profile(script, x), lambda: factorize_(script, {})):
        with pytest.raises(ValueError, match="the network is TorchScript, whose layers cannot be replaced"):
            refused()


def test_what_torch_counts_beyond_is_said():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.fc = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 3)
            self.map = nn.Parameter(torch.zeros(16, 16))

        def forward(self, x):
            return self.fc(self.attention(x, x, x)[0] @ self.map)

    net, x = Attending().eval(), torch.zeros(1, 5, 16)
    cost = network_cost(net, x)
    # four projections and the map on 5 vectors, and products of queries, keys and values
    assert (cost.macs, cost.outside, cost.uncounted) == (5 * 16 * 3, {}, 5 * 5 * 256 + 2 * 25 * 16)
    assert torch.backends.mha.get_fastpath_enabled()
    for ask in (lambda: measure(net, x, seconds=0), lambda: profile(net, x)):
        with pytest.warns(UserWarning, match=r"torch counts 7,200 more MACs in products outside .* leave them out"):
            ask()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure(Branching(), torch.zeros(1, 3, 8, 8), seconds=0)


class Wrapping(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 4, 3)
        self.inner = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return super().forward(self.inner(x))


def test_a_layer_inside_another_counts_once():
    costs = layer_costs(nn.Sequential(Wrapping()), torch.zeros(1, 3, 6, 6))
    assert {name: cost.macs for name, cost in costs.items()} == {"0": 16 * 108, "0.inner": 36 * 9}


def test_a_shared_weight_counts_once_at_its_first_holder():
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8))
    net[2].weight = net[0].weight
    x = torch.zeros(1, 8)
    assert {name: cost.weights for name, cost in layer_costs(net, x).items()} == {"0": 64, "2": 0, "3": 64}
    found = measure(net, x, seconds=0)
    assert (found.macs, found.weights, found.parameters) == (192, 128, 128 + 16)
    layers = profile(net, x)
    assert sum(layer.weights for layer in layers.values()) == 128
    assert sum(layer.bytes for layer in layers.values()) == 512


class Constant(nn.Module):
    """Reads an expanded parameter, as decoders and class tokens do."""

    def __init__(self):
        super().__init__()
        self.start, self.conv = nn.Parameter(torch.randn(1, 8, 4, 4)), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.conv(self.start.expand(len(x), -1, -1, -1)) + x.mean()


@pytest.mark.parametrize("ask", [lambda n, x: measure(n, x, seconds=0.001), profile], ids=["measure", "profile"])
def test_views_of_parameters_and_examples_with_gradients_are_counted(ask):
    x = torch.zeros(2, 3, 8, 8, requires_grad=True)
    net = Constant()
    ask(net, x)
    assert network_cost(net, x).macs == 4 * KERNEL
    assert layer_costs(Branching(), x) == layer_costs(Branching(), x.detach())
    assert x.requires_grad


def test_an_example_of_another_floating_type_is_brought_to_that_of_the_network():
    x = torch.zeros(1, 3, 8, 8)
    assert layer_costs(Branching(), x.double()) == layer_costs(Branching(), x)
    assert layer_costs(Branching().double(), x) == layer_costs(Branching(), x)


UNSUITABLE = {
    "no batch": (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\), whose first axis counts images, .* example_input\[None\]"),
    "bytes": (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"stem has weights of torch.float32 and got torch.uint8"),
    "meta": (torch.zeros(1, 3, 8, 8, device="meta"), "lies on the meta device, the network on cpu: give a tensor with"),
}


@pytest.mark.parametrize(("example", "told"), UNSUITABLE.values(), ids=UNSUITABLE)
@pytest.mark.parametrize("ask", [lambda n, x: measure(n, x, seconds=0), profile], ids=["measure", "profile"])
def test_an_example_that_does_not_suit_the_network_is_told(ask, example, told):
    with pytest.raises(ValueError, match=told):
        ask(Branching(), example)


def test_an_example_of_floats_is_brought_to_the_type_of_the_network():
    expected = measure(Branching(), torch.zeros(1, 3, 8, 8), seconds=0)
    assert measure(Branching(), torch.zeros(1, 3, 8, 8).double(), seconds=0) == expected


def test_a_network_whose_parameters_have_no_shape_yet_is_told_so():
    with pytest.raises(ValueError, match=r"^0\.weight has no shape yet: run the network once before$"):
        measure(nn.Sequential(nn.LazyConv2d(4, 3)), torch.zeros(1, 3, 8, 8))
