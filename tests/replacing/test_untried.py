"""Ranks set by hand, without an example to try the network on."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from lowrank_exp.replacing import untried
from lowrank_exp.surgery import factorize_
from lowrank_exp.svd_form import to_svd_
from support.cells import cells


class Tokens(nn.Module):
    """No size of its input can be guessed: it takes whole numbers."""

    def __init__(self, use, prepare=lambda self: None):
        super().__init__()
        self.linear, self.embedding = nn.Linear(6, 6), nn.Embedding(10, 6)
        self.use = use
        prepare(self)

    def forward(self, x):
        return self.inner(self.embedding(x))

    def inner(self, x):
        return self.use(self, x)


class Reads(Tokens):
    def inner(self, x):
        return self.linear(x.to(self.linear.weight.dtype))


class ReadsAlone(Tokens):
    def inner(self, x):
        return F.linear(x, self.linear.weight)


def called(self, x):
    return self.linear(x)


def reading(module, inputs):
    module.weight  # noqa: B018


def doubling_linear(module, inputs, output):
    return 2 * output if type(module) is nn.Linear else output


def reading_inside(module, inputs):
    module.linear.in_features  # noqa: B018


class Reading:
    def __call__(self, module, inputs, output):
        module.weight  # noqa: B018


STRUCTURE = {
    "a list": (Tokens, lambda self: setattr(self, "order", [self.linear]), "it is also held by `order`; pass example_"),
    "a partial": (
        Tokens,
        lambda self: setattr(self, "call", functools.partial(self.linear)),
        "it is also held by `call`; pass example_input",
    ),
    "an attribute": (Tokens, lambda self: setattr(self.linear, "f", 1), "it has attributes of its own, f; pass exam"),
    "a read": (Reads, lambda self: None, "its parent reads weight; pass example_input"),
    "a read alone": (ReadsAlone, lambda self: None, "its weight is read by its parent, ReadsAlone; it is never called"),
    "a hook on types": (
        Tokens,
        lambda self: self.linear.register_forward_hook(doubling_linear),
        "it has a forward hook that reads its type; pass example_input",
    ),
    "a hook that is an object": (
        Tokens,
        lambda self: self.linear.register_forward_hook(Reading()),
        "it has a forward hook that reads its weight; pass example_input",
    ),
    "a hook of the network": (
        Tokens,
        lambda self: self.register_forward_pre_hook(functools.partial(reading_inside)),
        "a forward hook of a Tokens reads its in_features; pass example_input",
    ),
    "a hook": (Tokens, lambda self: self.linear.register_forward_pre_hook(reading), "it has a forward hook that reads"),
    "forward": (Tokens, lambda self: setattr(self.linear, "forward", torch.relu), "its forward was replaced"),
}


@cells(("kind", "prepare", "reason"), STRUCTURE.values(), ids=STRUCTURE.keys())
def test_the_structure_tells(kind, prepare, reason):
    model = kind(called, prepare)
    with pytest.raises(ValueError, match=f"^linear cannot be decomposed by linear_svd: {reason}"):
        factorize_(model, {"linear": 2})
    assert type(model.linear) is nn.Linear
    with pytest.raises(ValueError, match=reason):
        to_svd_(model, layers=["linear"])


def test_what_structure_suspects_an_example_may_allow():
    model = Tokens(called, lambda self: setattr(self, "order", [self.linear]))
    factorize_(model, {"linear": 2}, example_input=torch.tensor([[1, 2]]))
    assert model.linear[0].out_features == 2


class Images(nn.Module):
    def __init__(self, use):
        super().__init__()
        self.first, self.second, self.use = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), use

    def forward(self, x):
        return self.use(self, self.first(x))


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (lambda self, x: F.conv2d(x, self.second.weight), "its parent reads weight"),
        (lambda self, x: self.second(x) if isinstance(self.second, nn.Conv2d) else x, "looks at its type"),
        (lambda self, x: self.second(x) * max(self.second.stride), "its parent reads stride"),
    ],
)
def test_an_input_of_a_guessed_size_tells_more(use, reason):
    model = Images(use)
    assert reason in untried(model, ["second"])["second"]
    assert untried(model, ["first"]) == {}
    with pytest.raises(ValueError, match=reason):
        factorize_(model, {"second": 2})


ELSEWHERE = {}


def in_closure(self):
    layer = self.second
    self.call = lambda x: layer(x)


def in_method(self):
    self.call = self.second.forward


def outside(self):
    ELSEWHERE["layer"] = self.second


@pytest.mark.parametrize(
    ("use", "prepare", "where"),
    [
        (lambda self, x: self.call(x), in_closure, "`call`"),
        (lambda self, x: self.call(x), in_method, "`call`"),
        (lambda self, x: ELSEWHERE["layer"](x), outside, "something outside of the network"),
        (lambda self, x: F.conv2d(x, ELSEWHERE["layer"].weight), outside, "something outside of the network"),
    ],
)
def test_a_copy_that_comes_to_layers_of_the_network_itself_tells_who_holds_them(use, prepare, where):
    model = Images(use)
    prepare(model)
    with pytest.raises(ValueError, match=f"^second cannot be decomposed by channel_svd: it is also held by {where}"):
        factorize_(model, {"second": 2}, "channel_svd")
    assert type(factorize_(model, {"first": 2}, "channel_svd").first) is nn.Sequential
    assert type(model.second) is nn.Conv2d


def test_an_example_is_what_is_tried():
    model = Images(lambda self, x: self.second(x) if x.shape[-1] == 6 else x * max(self.second.stride))
    assert "its parent reads stride" in untried(model, ["second"])["second"]
    assert type(factorize_(model, {"second": 2}, example_input=torch.zeros(1, 3, 8, 8)).second) is nn.Sequential
