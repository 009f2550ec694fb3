"""Residual blocks that are skipped at random."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.data import EpochBatches, ImageBatches, batch_loader
from lowrank_exp.decomposition import ChannelSVD, SpatialSVD
from lowrank_exp.layers import ResidualParts
from lowrank_exp.models import build, cifar_resnet, resnet
from lowrank_exp.surgery import factorize_
from lowrank_exp.svd_form import to_svd_
from lowrank_exp.training import StochasticDepth, evaluate
from lowrank_exp.training.parts.part import Running
from lowrank_exp.training.parts.residual_blocks import residual_blocks
from lowrank_exp.training.parts.stochastic_depth import Survivors
from support.fits import fit_by_options_

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
UNIFORM = StochasticDepth(survival="uniform", last=0.5)


class InterruptionError(Exception):
    pass


def network(shortcut: str = "b", depth: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(depth=depth, num_classes=3, input_size=8, shortcut=shortcut)


def used(net: nn.Module, seed: int = 1) -> nn.Module:
    """As after some training: batch norms with numbers of their own."""
    draw = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=draw))
                module.bias.copy_(torch.randn(module.bias.shape, generator=draw))
                module.running_mean.copy_(torch.randn(module.bias.shape, generator=draw))
                module.running_var.copy_(0.5 + torch.rand(module.bias.shape, generator=draw))
    return net


def images(count: int = 24) -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 8, 8, generator=draw)
    return TensorDataset(x, x.mean((2, 3)).argmax(1))


def fit(net: nn.Module, batch_size: int = 8, val: bool = True, **options) -> list[dict]:
    arguments = {"epochs": 3, "optimizer": SGD, "schedule": None, "seed": 3, "checkpoint": None, "device": "cpu"}
    arguments |= {"progress": False, "stochastic_depth": {}} | options
    history = fit_by_options_(
        net,
        DataLoader(images(), batch_size=batch_size, shuffle=True),
        DataLoader(images(12), batch_size=12) if val else None,
        **arguments,
    )
    return [{name: value for name, value in line.items() if name != "seconds"} for line in history]


def assert_same_bits(ours: nn.Module, theirs: nn.Module) -> None:
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


class TimmBlock(nn.Module):
    """The basic block of timm, which is not a requirement: its parts and what it does with them."""

    def __init__(self, channels: int, se: nn.Module | None = None, drop_path: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.act1, self.act2 = nn.SiLU(inplace=True), nn.SiLU(inplace=True)
        self.se, self.drop_path, self.downsample = se, drop_path, None

    def forward(self, x):
        return self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))) + x)


TimmBlock.forward.__module__, TimmBlock.forward.__qualname__ = "timm.models.resnet", "BasicBlock.forward"


# -- which blocks there are ----------------------------------------------------------------------------------------


def test_blocks_of_the_networks():
    assert len(residual_blocks(network(depth=20))) == 9
    with torch.device("meta"):
        bottlenecks = cifar_resnet(depth=None, blocks_per_stage=18, block="bottleneck", shortcut="b")
        ours = resnet(depth=50)
        hub = build("hub", {"name": "resnext50_32x4d"})
    blocks = residual_blocks(bottlenecks)
    assert [len(blocks), blocks[0].name, blocks[-1].norm is bottlenecks.layer3[17].bn3] == [54, "layer1.0", True]
    assert [len(residual_blocks(net)) for net in (ours, hub)] == [16, 16]
    assert [block.name for block in residual_blocks(nn.Sequential(TimmBlock(4)))] == ["0"]


class OwnBlock(nn.Module):
    """A user's block: it says its parts."""

    def __init__(self, channels):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.act = nn.GELU()

    def forward(self, x):
        return self.act(self.branch(x) + x)

    def residual_parts(self):
        return ResidualParts(None, self.branch[1], self.act)


class OtherBlock(OwnBlock):
    """Computes something else, and does not say which parts that has."""

    def forward(self, x):
        return self.branch(x) * x


def test_a_users_block_says_its_parts():
    net = nn.Sequential(OwnBlock(3), OtherBlock(3), OwnBlock(3)).eval()
    blocks = residual_blocks(net)
    assert [block.name for block in blocks] == ["0", "2"]
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    blocks[0].scale_(0.0)
    assert torch.equal(blocks[0].without_branch(x), net[0](x))
    assert torch.equal(net[0](x), nn.functional.gelu(x))
    with pytest.raises(ValueError, match="blocks with a method residual_parts"):
        residual_blocks(nn.Sequential(OtherBlock(3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build("lenet5", {}), "no residual blocks that are known"),
        (lambda: nn.Sequential(TimmBlock(4, se=nn.Identity())), "0 ends in se"),
        (lambda: nn.Sequential(TimmBlock(4, drop_path=nn.Identity())), "0 ends in drop_path"),
    ],
)
def test_refused(make, message):
    with torch.device("meta"):
        net = make()
    with pytest.raises(ValueError, match=rf"stochastic_depth: .*{message}.*stochastic_depth=null"):
        StochasticDepth().check(net)


@pytest.mark.parametrize("last", [nn.Identity(), nn.BatchNorm2d(16, affine=False)])
def test_a_branch_without_scale_and_shift_is_refused(last):
    net = network()
    net.layer1[0].bn2 = last
    with pytest.raises(ValueError, match=r"layer1\.0 ends in .*must end in a normalization with scale and shift"):
        fit(net)


@pytest.mark.parametrize(
    "make", ["cifar a", "cifar b", "cifar bottleneck", "resnet 18", "resnet 50", "torchvision", "timm"]
)
def test_without_its_branch_a_block_computes_what_it_computes_with_a_branch_of_zero(make):
    torch.manual_seed(0)
    if make.startswith("cifar"):
        kind = {"cifar bottleneck": "bottleneck"}.get(make, "basic")
        blocks = {"depth": None, "blocks_per_stage": 1}
        net = cifar_resnet(**blocks, block=kind, shortcut=make[-1] if make[-1] in "ab" else "a")
    elif make.startswith("resnet"):
        net = resnet(depth=int(make[-2:]), width=0.125)
    elif make == "timm":
        net = nn.Sequential(TimmBlock(4))
    else:
        net = build("hub", {"name": "resnet18", "num_classes": 3, "input_size": 32})
    used(net)
    for block in residual_blocks(net)[:5]:
        x = torch.rand(2, next(block.module.parameters()).shape[1], 8, 8)
        block.scale_(0.0)
        with torch.no_grad():
            torch.testing.assert_close(block.without_branch(x), block.module(x.clone()), rtol=0, atol=0)


# -- which of them survive -----------------------------------------------------------------------------------------


def test_probabilities():
    p = StochasticDepth().probabilities(54)
    assert p[0] == pytest.approx(1 - 0.5 / 54)
    assert p[-1] == 0.5
    assert sum(p) == pytest.approx(40.25)  # (3 L - 1) / 4
    assert StochasticDepth(survival="uniform", last=0.8).probabilities(3) == [0.8, 0.8, 0.8]


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_shares_of_the_survivors(mode):
    option = StochasticDepth(last=0.4, mode=mode)
    net = network(depth=14)
    survivors = Survivors(option, net, seed=5)
    n, N = (4000, 1) if mode == "batch" else (100, 40)
    counts_L = np.zeros(6)
    for _ in range(n):
        survivors.around_pass(torch.zeros(N, 1), first=True)
        counts_L += [float(rows.sum()) for rows in survivors.rows] if mode == "row" else survivors.survive
    p_L = np.array(option.probabilities(6))
    assert np.all(np.abs(counts_L / 4000 - p_L) < 4 * np.sqrt(p_L * (1 - p_L) / 4000))


def test_a_pass_that_does_not_begin_a_step_keeps_the_draw():
    survivors = Survivors(UNIFORM, network(depth=20), seed=1)
    drawn = []
    for begins in (True, False, False, True, False):
        survivors.around_pass(torch.zeros(4, 1), begins)
        drawn.append(list(survivors.survive))
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3] == drawn[4]


def test_processes_draw_alike_and_take_parts_of_their_own():
    row = StochasticDepth(mode="row")
    first, second = (Survivors(row, network(), seed=1) for _ in range(2))
    for rank, survivors in enumerate((first, second)):
        survivors.start(Running(None, torch.device("cpu"), rank, processes=2))
        survivors.around_pass(torch.zeros(50, 1), first=True)
    assert torch.equal(first.generator.get_state(), second.generator.get_state())
    assert not torch.equal(first.rows[2], second.rows[2])


# -- what is computed ----------------------------------------------------------------------------------------------


def test_a_skipped_block_computes_nothing():
    """Every set of survivors of a network of three blocks, against the network written out."""
    net = used(network(shortcut="b"))
    survivors = Survivors(UNIFORM, net, seed=0)
    x = torch.randn(5, 3, 8, 8)
    called = []
    for block, _ in survivors.blocks:
        block.module.conv1.register_forward_hook(lambda *_, name=block.name: called.append(name))

    def expected(set_):
        h = torch.relu(net.bn1(net.conv1(x)))
        for block, survives in zip((net.layer1[0], net.layer2[0], net.layer3[0]), set_, strict=True):
            f = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(h))))) if survives else 0
            h = torch.relu(f + block.shortcut(h))
        return net.linear(h.mean((2, 3)))

    with survivors.around_fit():
        net.train()
        for number in range(8):
            survivors.survive = [bool(number >> bit & 1) for bit in range(3)]
            net.zero_grad()
            called.clear()
            logits = net(x)
            assert called == [f"layer{l + 1}.0" for l in range(3) if survivors.survive[l]]
            torch.testing.assert_close(logits, expected(survivors.survive), rtol=0, atol=1e-6)
            logits.sum().backward()
            missing = [block.module.conv2.weight.grad is None for block, _ in survivors.blocks]
            assert missing == [not survives for survives in survivors.survive]
            survivors.on_gradients()
            assert all(parameter.grad is not None for parameter in net.parameters())
            assert all(
                bool(block.module.conv2.weight.grad.any()) == survives
                for (block, _), survives in zip(survivors.blocks, survivors.survive, strict=True)
            )


def test_rows_are_skipped_one_by_one():
    net = used(network())
    survivors = Survivors(StochasticDepth(mode="row"), net, seed=0)
    block = net.layer1[0]
    h = torch.randn(6, 16, 8, 8)
    with survivors.around_fit():
        survivors.around_pass(h, first=True)
        survivors.rows[0] = torch.tensor([True, False, True, True, False, False])
        got = block.train()(h)
        f = torch.relu(block.bn1(block.conv1(h)))
        f = nn.functional.batch_norm(block.conv2(f), None, None, block.bn2.weight, block.bn2.bias, training=True)
        expected = torch.relu(f * survivors.rows[0].view(-1, 1, 1, 1) + h)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
        assert torch.equal(got[1], h[1].relu())


class TwoBlocks(nn.Module):
    """Linear but for the activations, of which positive numbers do not notice: expectations can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(cifar_resnet(depth=8).layer1[0] for _ in range(2)))

    def forward(self, x):
        return self.blocks(x)


def test_inference_is_the_expectation_of_training():
    """Where the output is linear in the b_l (branches positive, norms with their running statistics), the output at
    inference is the sum over all sets of survivors, each times its probability."""
    torch.manual_seed(0)
    net = TwoBlocks()
    for block in net.blocks:
        for convolution in (block.conv1, block.conv2):
            convolution.weight.data.abs_()  # of positive images: everything is positive
    net.double()
    option = StochasticDepth(last=0.3)
    p_1, p_2 = option.probabilities(2)
    x = torch.rand(2, 16, 6, 6, dtype=torch.float64)
    survivors = Survivors(option, net, seed=0)
    total = 0.0
    with survivors.around_fit(), torch.no_grad():
        net.train()
        for block in net.blocks:
            block.bn1.eval(), block.bn2.eval()
        for b_1 in (0, 1):
            for b_2 in (0, 1):
                survivors.survive = [bool(b_1), bool(b_2)]
                probability = (p_1 if b_1 else 1 - p_1) * (p_2 if b_2 else 1 - p_2)
                total = total + probability * net(x)
        survivors.before_validation()
        torch.testing.assert_close(net.eval()(x), total, rtol=1e-12, atol=0)
        survivors.after_validation()
    torch.testing.assert_close(net(x), total, rtol=1e-12, atol=0)


def test_folding_scales_every_branch():
    """Against hooks that multiply the branches at inference, as the paper does."""
    net = used(network("a", depth=14)).double()
    scaled = copy.deepcopy(net)
    option = StochasticDepth(last=0.4)
    for block, p_l in zip(residual_blocks(scaled), option.probabilities(6), strict=True):
        block.norm.register_forward_hook(lambda norm, inputs, output, p_l=p_l: p_l * output)
    option.end_(net)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), scaled.eval()(x), rtol=0, atol=1e-12)
        assert (net.eval()(x) - used(network("a", depth=14)).double().eval()(x)).abs().max() > 0.01


# -- a fit ---------------------------------------------------------------------------------------------------------


def test_what_is_validated_is_the_network_that_the_fit_leaves():
    net = network()
    history = fit(net)
    scores = evaluate(net, DataLoader(images(12), batch_size=12), "cpu")
    assert scores.loss == pytest.approx(history[-1]["val_loss"], rel=1e-6)
    assert all("forward" not in vars(module) and not module._forward_hooks for module in net.modules())
    assert list(net.state_dict()) == list(network().state_dict())
    assert history[-1]["train_loss"] != history[0]["train_loss"]


def test_new_branches_start_as_they_are_and_used_ones_keep_the_function():
    new, old = network(), used(network())
    for net, begins in ((new, [1.0, 1.0, 1.0]), (old, [6 / 5, 6 / 4, 6 / 3])):
        before = [block.norm.weight.detach().clone() for block in residual_blocks(net)]
        survivors = Survivors(StochasticDepth(), net, seed=0)
        with survivors.around_fit():
            for (block, _), weight, factor in zip(survivors.blocks, before, begins, strict=True):
                torch.testing.assert_close(block.norm.weight.detach(), factor * weight)
    torch.testing.assert_close(old.state_dict(), used(network()).state_dict())
    assert new.layer3[0].bn2.weight.tolist() == [0.5] * 64


def test_last_of_one_changes_nothing():
    ours, theirs = network(), network()
    assert fit(ours, stochastic_depth={"last": 1.0}) == fit(theirs, stochastic_depth=None)
    assert_same_bits(ours, theirs)


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_going_on_equals_a_fit_left_alone(mode, tmp_path):
    def stop(metrics):
        if metrics["epoch"] == 1:
            raise InterruptionError

    options = {"stochastic_depth": {"mode": mode}, "epochs": 4}
    alone, ours, finished = used(network()), used(network()), used(network())
    expected = fit(alone, **options)
    path = tmp_path / "last.ckpt"
    with pytest.raises(InterruptionError):
        fit(ours, checkpoint=path, on_epoch=stop, **options)
    with pytest.raises(ValueError, match=r"stochastic_depth: last is 0\.5 there and 0\.6 here"):
        fit(ours, checkpoint=path, epochs=4, stochastic_depth={"mode": mode, "last": 0.6})
    assert fit(ours, checkpoint=path, **options) == expected
    assert_same_bits(ours, alone)
    assert fit(finished, checkpoint=path, **options) == expected  # nothing is trained again
    assert_same_bits(finished, alone)


def without_batch_statistics() -> nn.Module:
    """These are decided by the number of images in a batch and process."""
    net = network()
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            net.set_submodule(name, nn.GroupNorm(4, module.num_features))
    return net


def test_accumulated_batches_equal_the_large_batch():
    """One draw for all batches of a step."""
    ours, theirs = without_batch_statistics(), without_batch_statistics()
    fit(ours, 4, accumulate=3, val=False, epochs=1)
    fit(theirs, 12, val=False, epochs=1)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def shared(count: int, batch_size: int) -> DataLoader:
    draw = np.random.default_rng(count)
    pixels = torch.from_numpy(draw.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8))
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    batches = ImageBatches(pixels, torch.arange(count) % 3, torch.arange(count), mean, std, seed=2)
    return batch_loader(batches, EpochBatches(count, batch_size, seed=5, shuffle=True))


@pytest.mark.slow
def test_two_processes_train_what_one_trains():
    """Blocks are skipped in both alike, whose parameters take no part in the backward pass; weights are noisy alike."""

    def trained(devices: int) -> tuple[nn.Module, list[dict]]:
        net = without_batch_statistics()
        arguments = {"epochs": 2, "optimizer": SGD, "schedule": None, "seed": 3, "checkpoint": None, "device": "cpu"}
        options = {"stochastic_depth": {}, "quant_noise": {"phi": "int4", "p": 0.5}, "accumulate": 2, "progress": False}
        history = fit_by_options_(net, shared(47, 8), shared(12, 12), devices=devices, **arguments, **options)
        return net, [line["train_loss"] for line in history]

    (ours, losses), (theirs, expected) = trained(2), trained(1)
    assert losses == pytest.approx(expected, rel=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["svd", "factors"])
@pytest.mark.parametrize(
    "options", [{}, {"precision": "bf16"}, {"channels_last": True}, {"stochastic_depth": {"mode": "row"}}]
)
def test_decomposed_networks_are_trained(form, options):
    net = network()
    if form == "svd":
        to_svd_(net, {"conv": SpatialSVD()}, 0.5)
    else:
        factorize_(net, {"re:layer.*conv.": 8}, ChannelSVD())
    history = fit(net, epochs=6, **options)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    scores = evaluate(net, DataLoader(images(12), batch_size=12), "cpu")
    assert scores.loss == pytest.approx(history[-1]["val_loss"], rel=0.05 if "precision" in options else 1e-5)


def test_compilation_is_refused():
    with pytest.raises(ValueError, match=r"stochastic_depth skips other blocks at every step.*compile=false"):
        fit(network(), compile=True)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"survival": "exponential"}, "survival is 'exponential'; allowed are linear and uniform"),
        ({"mode": "image"}, "mode is 'image'; allowed are batch and row"),
        ({"last": 0}, r"last is 0; allowed is a probability in \(0, 1\]"),
        ({"p": 0.5}, "is {'p': 0.5}; allowed are null and a mapping of survival, last, mode"),
        (0.5, "is 0.5; allowed are null and a mapping"),
    ],
)
def test_mistakes(option, message):
    with pytest.raises(ValueError, match=f"stochastic_depth.*{message}"):
        fit(network(), stochastic_depth=option)
