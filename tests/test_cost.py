import copy
import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp import measure
from lowrank_exp.cost import layer_costs, macs_of_factors
from lowrank_exp.latency import latency_ms
from lowrank_exp.modes import evaluating

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


@pytest.mark.parametrize(("layer", "shape", "macs"), FORMULAS, ids=[str(layer) for layer, _, _ in FORMULAS])
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


class Sleeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.images, self.modes = [], []

    def forward(self, x):
        self.images.append(len(x))
        self.modes.append((self.training, torch.is_grad_enabled()))
        time.sleep(0.02)
        return x


def test_latency_is_that_of_one_pass_of_the_whole_batch_in_evaluation_mode():
    model = Sleeping()
    assert 20 <= latency_ms(model, torch.zeros(5, 2), seconds=0.1) <= 40
    assert set(model.images) == {5}
    assert set(model.modes) == {(False, False)}
    assert model.training


def test_latency_keeps_the_number_of_threads():
    threads = []
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_forward_hook(lambda *_: threads.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    latency_ms(model, torch.zeros(1, 2), seconds=0.001)
    assert set(threads) == {before}
    assert torch.get_num_threads() == before


def test_the_meta_device_takes_no_time():
    with pytest.raises(ValueError, match=r"meta device takes no time: .* measure\(..., seconds=0\)"):
        measure(nn.Sequential(nn.Linear(2, 2)).to("meta"), torch.zeros(1, 2))
