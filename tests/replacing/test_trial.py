"""Replacing a layer must not change what a network computes: who is left alone, and why."""

import copy
import functools
import random
import re
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lowrank_exp.network.cost import OUTSIDE
from lowrank_exp.rank import allocate, profile
from lowrank_exp.replacing import trial
from lowrank_exp.surgery import factorize_
from lowrank_exp.svd_form import to_svd_
from support.cells import cells


class Two(nn.Module):
    """Two convolutions, the second of which `use` calls, or does other things with; the first is always in order."""

    def __init__(self, use, prepare=lambda self: None, kind=nn.Conv2d):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), kind(8, 8, 3, padding=1, stride=2)
        self.use = use
        prepare(self)

    def forward(self, x):
        return self.use(self, self.first(x))


def image(count=1):
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(2))


def in_list(self):
    self.order = [self.second]


def in_dict(self):
    self.by_name = {"last": (self.second,)}


def in_partial(self):
    self.call = functools.partial(self.second)


def in_closure(self):
    layer = self.second
    self.call = lambda x: layer(x)


def in_method(self):
    self.call = self.second.forward.__self__.__call__


def in_object(self):
    self.call = Holder(self.second)


def in_reference(self):
    self.call = weakref.ref(self.second)


def in_hidden_module(self):
    self.hidden = [nn.Sequential(self.second, nn.ReLU())]


class Holder:
    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer(x)


def hang(attribute, value):
    return lambda self: setattr(self.second, attribute, value)


def called(self, x):
    return self.second(x)


def doubled(module, inputs, output):
    return 2 * output


def in_place(module, inputs, output):
    output.mul_(2)


def shifted(module, inputs):
    return (inputs[0] + 1,)


def reading(module, inputs, output):
    assert module.weight.numel()


def hooked(register, hook):
    return lambda self: getattr(self.second, register)(hook)


def by_type(self, x):
    return self.second(x) if isinstance(self.second, nn.Conv2d) else F.relu(self.second(x))


def by_type_at_nothing(self, x):
    """What changes is multiplied by zero, as at the start of a residual block."""
    return x + 0 * (torch.tanh(x) if type(self.second) is nn.Conv2d else torch.sin(x)) + self.second(x).mean()


def indexed(self, x):
    return self.second(x) * self.second._parameters["weight"].shape[0]


SECOND = {
    "held in a list": (lambda self, x: self.order[0](x), in_list, "it is also held by `order`"),
    "held in a dict": (lambda self, x: self.by_name["last"][0](x), in_dict, "it is also held by `by_name`"),
    "held in a partial": (lambda self, x: self.call(x), in_partial, "it is also held by `call`"),
    "held in a closure": (lambda self, x: self.call(x), in_closure, "it is also held by `call`"),
    "held by its method": (lambda self, x: self.call(x), in_method, "it is also held by `call`"),
    "held by an object": (lambda self, x: self.call(x), in_object, "it is also held by `call`"),
    "held by a weak reference": (lambda self, x: self.call()(x), in_reference, "it is also held by `call`"),
    "held in a module in a list": (lambda self, x: self.hidden[0](x), in_hidden_module, "it is also held by `hidden`"),
    "both ways": (lambda self, x: self.order[0](x) + self.second(x), in_list, "it is also held by `order`"),
    "weight used by another way": (
        lambda self, x: self.second(x) + F.conv2d(x, self.order[0].weight, padding=1, stride=2),
        in_list,
        "it is also held by `order`",
    ),
    "forward called by another way": (
        lambda self, x: self.second(x) + self.order[0].forward(x),
        in_list,
        "it is also held by `order`",
    ),
    "parameters counted": (
        lambda self, x: self.second(x) * len(list(self.second.parameters())),
        None,
        "looks at its type or parameters: .* the network computes something else",
    ),
    "first of the parameters": (
        lambda self, x: self.second(x) + next(self.second.parameters()).sum(),
        None,
        "looks at its type or parameters: .* the network computes something else",
    ),
    "kernel size read": (
        lambda self, x: self.second(x) * self.second.kernel_size[0],
        None,
        "its parent reads kernel_size",
    ),
    "kernel size read, harmlessly": (
        lambda self, x: self.second(x) if getattr(self.second, "kernel_size", 3) else x,
        None,
        "its parent reads kernel_size",
    ),
    "type of the weight read": (
        lambda self, x: self.second(x.to(self.second.weight.dtype)),
        None,
        "its parent reads weight",
    ),
    "an attribute of its own": (lambda self, x: self.second(x) + self.second.f, hang("f", -1), "its parent reads f"),
    "asked for": (lambda self, x: self.second(x) * hasattr(self.second, "bias"), None, "its parent reads bias"),
    "set": (lambda self, x: (setattr(self.second, "padding", (2, 2)), self.second(x))[1], None, "its parent sets pad"),
    "its method": (
        lambda self, x: self.second._conv_forward(self.second(x), self.second.weight, None),
        None,
        "its parent reads weight, _conv_forward",
    ),
    "its type": (
        by_type,
        None,
        "its parent, Two, looks at its type or parameters: .* the network computes something else",
    ),
    "its type, silently": (by_type_at_nothing, None, "its parent, Two, looks at its type"),
    "its inside": (indexed, None, "fails with an nn.Sequential in its place, within Two: KeyError: 'weight'"),
    "forward replaced": (called, hang("forward", lambda x: 3 * x), "its forward was replaced"),
    "hook that doubles": (called, hooked("register_forward_hook", doubled), "has a forward hook that changes"),
    "hook in place": (called, hooked("register_forward_hook", in_place), "has a forward hook that changes"),
    "hook on the input": (called, hooked("register_forward_pre_hook", shifted), "has a forward pre-hook that changes"),
    "hook that reads": (called, hooked("register_forward_hook", reading), "has a forward hook that reads its weight"),
    "backward hook": (called, hooked("register_full_backward_hook", doubled), "it has a backward hook"),
    "gradient": (called, lambda self: self.second.weight.register_hook(lambda g: 2 * g), "its weight has a hook"),
    "state dict": (called, hooked("register_state_dict_post_hook", doubled), "it has a hook on its state dict"),
    "only its weight": (
        lambda self, x: F.conv2d(x, self.second.weight),
        None,
        "its parent reads weight$",
    ),
}


def built(use, prepare):
    torch.manual_seed(0)
    return Two(use, prepare or (lambda self: None)).eval()


@cells(("use", "prepare", "reason"), SECOND.values(), ids=SECOND)
def test_a_layer_that_cannot_be_replaced_is_told_with_the_reason(use, prepare, reason):
    model = built(use, prepare)
    modules, before = list(model.modules()), copy.copy(vars(model.second))
    found = trial(model, image())
    assert list(found) == ["second"]
    assert re.search(reason, found["second"])
    assert list(model.modules()) == modules
    assert vars(model.second).keys() == before.keys()


@cells(("use", "prepare", "reason"), SECOND.values(), ids=SECOND)
def test_a_profile_refuses_it_and_full_ranks_of_the_rest_keep_the_output(use, prepare, reason):
    model, x = built(use, prepare), image()
    wanted = model(x)
    layers = profile(model, x, "channel_svd")
    assert [name for name, layer in layers.items() if layer.refusal and name not in OUTSIDE.values()] == ["second"]
    factorize_(model, {name: layer.full_rank for name, layer in layers.items() if not layer.refusal}, "channel_svd")
    assert isinstance(model.first, nn.Sequential)
    torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)


def test_nothing_is_told_of_a_network_in_order():
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(800, 2))
    assert trial(plain, image()) == {}
    assert trial(plain.double(), image().double()) == {}
    with torch.inference_mode():
        inside = Two(called).eval()
    assert trial(inside, image()) == {}
    assert trial(plain.float().train().to("meta"), image().to("meta")) == {}
    assert all(module.training for module in plain.modules())


def test_a_transposed_convolution_called_with_output_size():
    def upwards(self, x):
        return self.second(x, output_size=[24, 24])

    def by_position(self, x):
        return self.second(x, [24, 24])

    for use in (upwards, by_position):
        model = Two(use, kind=nn.ConvTranspose2d).eval()
        wanted = model(image())
        layers = profile(model, image(), "channel_svd")
        assert layers["second"].refusal == "it is called with output_size"
        with pytest.warns(UserWarning, match="first: rank 8 costs more than the dense layer"):
            plan = allocate(layers, "fixed", ranks={"first": layers["first"].full_rank})
        factorize_(model, plan)
        assert model(image()).shape == (1, 8, 24, 24)
        torch.testing.assert_close(model(image()), wanted, rtol=1e-4, atol=1e-5)


def test_called_by_keyword_or_several_times_is_in_order():
    def by_keyword(self, x):
        return self.second(input=self.second(input=x))

    model = Two(by_keyword).eval()
    assert trial(model, image()) == {}
    wanted = model(image())
    to_svd_(model, example_input=image())
    torch.testing.assert_close(model(image()), wanted, rtol=1e-4, atol=1e-5)


@dataclass
class Answer:
    scores: Tensor
    rest: dict


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x.mean(), [x.sum()]),
        lambda x: {"maps": x, "none": None},
        lambda x: Answer(torch.ones(2), {"inner": (x,)}),
        lambda x: float(x.mean()),
    ],
)
def test_outputs_of_any_structure_are_compared(wrap):
    def use(self, x):
        x = self.second(x)
        # A parent that does the same operations on other numbers, as the type of the layer says.
        return wrap(x * torch.tensor(2.0 if type(self.second) is nn.Conv2d else 3.0))

    assert "looks at its type" in trial(Two(use).eval(), image())["second"]
    assert trial(Two(lambda self, x: wrap(self.second(x))).eval(), image()) == {}


def test_draws_of_random_numbers_and_what_counts_calls_do_not_disturb():
    def noisy(self, x):
        self.count += 1
        self.steps += 1
        scale = random.random() + np.random.rand() + float(self.steps) + self.count
        return F.dropout(self.second(x), 0.5, training=True) * scale

    def prepare(self):
        self.count = 0
        self.register_buffer("steps", torch.zeros(()))

    model = Two(noisy, prepare).eval()
    torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert trial(model, image()) == {}
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert (model.count, model.steps.item()) == (0, 0)


def test_a_network_that_never_gives_the_same_twice_is_judged_by_its_calls():
    draw = torch.Generator()

    def noisy(self, x):
        return self.second(x) + torch.randn(8, 6, 6, generator=draw)

    assert trial(Two(noisy).eval(), image()) == {}
    found = trial(Two(lambda self, x: noisy(self, x) * self.second.stride[0]).eval(), image())
    assert found == {"second": "its parent reads stride"}


def test_weights_and_images_of_nothing_hide_nothing():
    model = Two(by_type).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert "looks at its type" in trial(model, torch.zeros(1, 3, 12, 12))["second"]
    nan = Two(called).eval()
    with torch.no_grad():
        nan.second.weight.fill_(torch.nan)
    assert trial(nan, image()) == {}


def test_one_pass_more_than_the_network_itself_where_all_is_in_order():
    passes = []
    model = Two(lambda self, x: (passes.append(1), self.second(x))[1]).eval()
    trial(model, image())
    assert len(passes) == 2

    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(32))

        def forward(self, x):
            passes.append(1)
            for number, layer in enumerate(self.layers):
                x = layer(x)
                if number in (3, 17) and not isinstance(layer, nn.Conv2d):
                    x = torch.sin(x)
            return x

    passes.clear()
    assert list(trial(Many(), image())) == ["layers.3", "layers.17"]
    assert len(passes) < 32  # halving, not one by one


def test_a_list_that_the_forward_does_not_use_forbids_nothing():
    model = Two(called, in_list).eval()
    assert trial(model, image()) == {}
    plan = allocate(profile(model, image(), "channel_svd"), "fixed", ranks={"second": 3})
    assert factorize_(model, plan).second[0].out_channels == 3


ELSEWHERE = {}


def test_who_counts_the_layers_of_a_network_is_told():
    def counting(self, x):
        return self.second(x) / sum(isinstance(module, nn.Conv2d) for module in self.modules())

    model = Two(counting).eval()
    wanted = model(image())
    found = trial(model, image())
    assert found.keys() == {"first", "second"}
    assert "looks at its type or parameters" in found["second"]
    assert trial(Two(lambda self, x: self.second(x.to(next(self.parameters()).dtype))), image()) == {}
    torch.testing.assert_close(model(image()), wanted)


def test_a_hook_that_sets_something_on_its_layer_or_holds_it_is_told():
    def padding(module, inputs):
        module.padding = (1, 1)

    model = Two(called, hooked("register_forward_pre_hook", padding)).eval()
    assert trial(model, image()) == {"second": "it has a forward pre-hook that sets its padding"}
    model = Two(called).eval()
    second = model.second
    second.register_forward_hook(lambda *_: second.weight.norm() and None)
    assert trial(model, image()) == {"second": "it is also held by something outside of the network"}


def test_a_layer_held_outside_of_the_network_is_told():
    model = Two(lambda self, x: ELSEWHERE["layer"](x)).eval()
    ELSEWHERE["layer"] = model.second
    assert trial(model, image()) == {"second": "it is also held by something outside of the network"}
    layer = nn.Conv2d(8, 8, 1)
    model = Two(lambda self, x: layer(x), lambda self: setattr(self, "second", layer)).eval()
    assert trial(model, image()) == {"second": "it is also held by `use`"}


def test_observers_move_to_the_replacement_and_their_handles_still_remove_them():
    seen = []
    model = Two(called).eval()
    handle = model.second.register_forward_hook(lambda *_: seen.append("after"))
    model.second.register_forward_pre_hook(lambda module, args, kwargs: seen.append("before"), with_kwargs=True)
    plan = allocate(profile(model, image(), "channel_svd"), "fixed", ranks={"second": 3})
    factorize_(model, plan)
    seen.clear()
    model(image())
    assert seen == ["before", "after"]
    handle.remove()
    model(image())
    assert seen == ["before", "after", "before"]
    by_hand = Two(called).eval()
    by_hand.second.register_forward_hook(lambda *_: seen.append("after"))
    seen.clear()
    factorize_(by_hand, {"second": 3})
    assert seen == []
    by_hand(image())
    assert seen == ["after"]
