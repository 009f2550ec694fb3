"""Pruning at work: masks, revivals and removals in a training, what the optimizer keeps, and going on after a kill."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp import measure, models
from lowrank_exp.pruning import channel_groups, remove_
from lowrank_exp.pruning.criteria import L2, Orthogonality, Taylor
from lowrank_exp.pruning.null_space import NullSpace
from lowrank_exp.pruning.schedules import AGP, SFP, Iterative, Mask, OneShot, Remove, RePr
from lowrank_exp.pruning.silent import silent_channels
from lowrank_exp.pruning.times import PrunedTimes
from lowrank_exp.rank.times.clock import Clock
from lowrank_exp.training import Pruner, Pruning
from lowrank_exp.training.parts.optimizer_surgery import follow_removal_
from lowrank_exp.training.parts.part import Running
from lowrank_exp.training.schedules import cosine
from support.counting import Counting, interleaved
from support.fits import fit_by_options_

SHAPE = (3, 8, 8)
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
OPTIMIZERS = {
    "sgd": SGD,
    "nesterov": partial(SGD, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=1e-3),
    "adamw_amsgrad": partial(torch.optim.AdamW, lr=0.01, amsgrad=True),
}


def network():
    torch.manual_seed(0)
    return models.vanilla_cnn(convolutions=3, filters=10, in_channels=3, input_size=8, num_classes=4)


def images(count=64):
    draw = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, *SHAPE, generator=draw), torch.randint(0, 4, (count,), generator=draw))


class Loop:
    """A training by hand, in which a pruner's state can be looked at between steps."""

    def __init__(self, schedule, optimizer=SGD, steps_per_epoch=4, epochs=8, net=None):
        self.net = network() if net is None else net
        pruning = Pruning(schedule, SHAPE, batches=lambda ranking: [images().tensors])
        self.pruner = Pruner(pruning, self.net, 3, steps_per_epoch, epochs)
        self.optimizer = optimizer(self.net.parameters())
        self.pruner.start(Running(self.optimizer, torch.device("cpu")))
        self.x, self.y = images().tensors
        self.net.train()

    def steps(self, count):
        for _ in range(count):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.net(self.x), self.y).backward()
            self.pruner.on_gradients()
            self.optimizer.step()
            self.pruner.after_step()

    def epoch(self):
        self.pruner.before_epoch([])
        self.steps(self.pruner.steps_per_epoch)

    def buffers(self, name):
        """What the optimizer has for each entry of a parameter."""
        parameter = self.net.get_parameter(name)
        state = self.optimizer.state[parameter]
        return [v for v in state.values() if torch.is_tensor(v) and v.shape == parameter.shape]


def silent_filters(net):
    convs = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    return {name: (m.weight.flatten(1) == 0).all(1).nonzero().flatten().tolist() for name, m in convs.items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_repr_masks_floor_of_p_f_filters_whose_buffers_are_zero(optimizer):
    loop = Loop(RePr(S1=1, S2=1, N=2, share=0.33), OPTIMIZERS[optimizer])
    loop.epoch()
    assert not any(silent_filters(loop.net).values())
    loop.epoch()
    off = silent_filters(loop.net)
    assert sum(map(len, off.values())) == math.floor(0.33 * 30) == 9
    assert loop.pruner.metrics() == {"silent_filters": 9}
    for conv, filters in off.items():
        norm = conv.replace("conv", "bn")
        for name in (f"{conv}.weight", f"{conv}.bias", f"{norm}.weight", f"{norm}.bias"):
            assert not loop.net.get_parameter(name)[filters].any()
            others = sorted(set(range(10)) - set(filters))
            for buffer in loop.buffers(name):
                assert not buffer[filters].any()
                assert buffer[others].any()
        with torch.no_grad():
            maps = loop.net.features[: 3 * int(conv[-1])](loop.x)
        assert not maps[:, filters].any()


def test_revived_filters_are_orthogonal_to_kept_ones_and_to_their_old_selves():
    schedule = RePr(S1=1, S2=1, N=1, share=0.3, scope="layer", null_space=NullSpace(scale="unit"))
    loop = Loop(schedule)
    loop.epoch()
    before = {name: m.weight.detach().clone() for name, m in loop.net.named_modules() if isinstance(m, nn.Conv2d)}
    loop.epoch()
    off = silent_filters(loop.net)
    kept_now = {name: loop.net.get_submodule(name).weight.detach().clone() for name in off}
    loop.pruner.before_epoch([])
    assert not any(silent_filters(loop.net).values())
    for conv, filters in off.items():
        assert len(filters) == 3
        others = sorted(set(range(10)) - set(filters))
        new = loop.net.get_submodule(conv).weight.detach().flatten(1).double()
        assert torch.equal(loop.net.get_submodule(conv).weight[others], kept_now[conv][others])
        assert new[filters].norm(dim=1) == pytest.approx(torch.ones(3), abs=1e-6)
        assert (new[filters] @ new[others].T).abs().max() < 1e-6
        assert (new[filters] * before[conv].flatten(1)[filters]).sum(1).abs().max() < 1e-6
        norm = loop.net.get_submodule(conv.replace("conv", "bn"))
        for key, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            assert (getattr(norm, key)[filters] == value).all()
        for name in (f"{conv}.weight", f"{conv}.bias", f"{conv.replace('conv', 'bn')}.weight"):
            for buffer in loop.buffers(name):
                assert not buffer[filters].any()
                assert buffer[others].any()
    loop.steps(1)
    for conv, filters in off.items():
        assert loop.net.get_submodule(conv.replace("conv", "bn")).bias[filters].any()


@pytest.mark.parametrize("how", ["kept", "zeroed", "redrawn"])
def test_inputs_of_the_next_layer(how):
    loop = Loop(RePr(S1=1, S2=1, N=1, share=0.3, scope="layer", next_inputs=how))
    loop.epoch()
    loop.epoch()
    off = silent_filters(loop.net)
    before = loop.net.features.conv2.weight.detach().clone()
    fc = loop.net.fc.weight.detach().clone()
    loop.pruner.before_epoch([])
    columns, own = off["features.conv1"], off["features.conv2"]
    rows = sorted(set(range(10)) - set(own))
    after = loop.net.features.conv2.weight.detach()
    heard = sorted(set(range(10)) - set(columns))
    assert torch.equal(after[rows][:, heard], before[rows][:, heard])
    read, (momentum,) = after[rows][:, columns], loop.buffers("features.conv2.weight")
    flat = [64 * c + k for c in off["features.conv3"] for k in range(64)]
    if how == "kept":
        assert torch.equal(read, before[rows][:, columns])
        assert torch.equal(loop.net.fc.weight, fc)
        return
    assert not momentum[rows][:, columns].any()
    assert momentum[rows][:, heard].any()
    assert loop.net.fc.weight[:, flat].any() == (how == "redrawn")
    bound = 90**-0.5
    assert read.abs().max() == (0 if how == "zeroed" else pytest.approx(bound, rel=0.05))
    # New filters read all channels, and are orthogonal to what the others have become.
    assert (after[own].flatten(1) @ after[rows].flatten(1).T).abs().max() < 1e-6


def test_gradients_of_revived_filters_are_strengthened_and_measured():
    plain, strong = (
        Loop(RePr(S1=1, S2=1, N=1, scope="layer", revived_gradient=f), partial(torch.optim.SGD, lr=0.1))
        for f in (1.0, 10.0)
    )
    for loop in (plain, strong):
        loop.epoch()
        loop.epoch()
        loop.pruner.before_epoch([])
    off = strong.pruner.revived
    before = strong.net.features.conv2.weight.detach().clone()
    for loop in (plain, strong):
        loop.steps(1)
    moved_plain, moved_strong = (loop.net.features.conv2.weight.detach() - before for loop in (plain, strong))
    filters, others = list(off["features.conv2"]), sorted(set(range(10)) - set(off["features.conv2"]))
    assert torch.allclose(moved_strong[filters], 10 * moved_plain[filters], rtol=1e-3, atol=1e-6)
    assert torch.equal(moved_strong[others], moved_plain[others])
    metrics = [loop.pruner.metrics() for loop in (plain, strong)]
    assert metrics[0] == metrics[1]
    gradients = {name: plain.net.get_parameter(f"{name}.weight").grad.flatten(1).norm(dim=1) for name in off}
    back = torch.cat([gradients[name][list(filters)] for name, filters in off.items()])
    assert metrics[0]["gradient_revived"] == pytest.approx(back.mean().item(), rel=1e-5)
    assert metrics[0]["gradient_others"] > 0


@pytest.mark.parametrize("start", [False, True])
def test_sfp_counts_and_lets_filters_grow_again(start):
    loop = Loop(SFP(share=0.35, start=start), epochs=3)
    for _ in range(2):
        loop.epoch()
        assert {name: len(off) for name, off in silent_filters(loop.net).items()} == {
            f"features.conv{i}": 3 for i in (1, 2, 3)
        }
        assert loop.net.features.bn1.weight.abs().min() > 0
    loop.pruner.before_epoch([])
    loop.steps(1)
    # A filter that begins at 0 before a new batch norm and a ReLU gets no gradient: it never grows.
    assert sum(map(len, silent_filters(loop.net).values())) == (9 if start else 0)
    loop.steps(3)
    off = silent_filters(loop.net)
    assert all(len(filters) == 3 for filters in off.values())
    assert not loop.net.features.bn1.weight[off["features.conv1"]].any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_removal_keeps_what_survives_bit_for_bit(optimizer):
    loop = Loop(Iterative(macs=0.5, filters=None, updates=4), OPTIMIZERS[optimizer])
    loop.steps(3)
    before = {name: (p.detach().clone(), loop.buffers(name)) for name, p in loop.net.named_parameters()}
    groups = len(loop.optimizer.param_groups[0]["params"])
    keep = {"features.conv1": (0, 2, 5, 9), "features.conv2": (1, 3, 4)}
    loop.pruner.carry_out(Remove(keep))
    rows = {"features.conv1": [0, 2, 5, 9], "features.bn1": [0, 2, 5, 9]}
    rows |= {"features.conv2": [1, 3, 4], "features.bn2": [1, 3, 4]}
    columns = {"features.conv2": [0, 2, 5, 9], "features.conv3": [1, 3, 4]}
    parameters = dict(loop.net.named_parameters())
    assert [id(p) for p in loop.optimizer.param_groups[0]["params"]] == [id(p) for p in parameters.values()]
    assert len(parameters) == groups
    assert set(loop.optimizer.state) == set(parameters.values())
    for name, (weight, buffers) in before.items():
        layer, _, key = name.rpartition(".")
        for old, new in zip([weight, *buffers], [parameters[name].detach(), *loop.buffers(name)], strict=True):
            expected = old[rows.get(layer, slice(None))]
            if key == "weight" and layer in columns:
                expected = expected[:, columns[layer]]
            assert torch.equal(new, expected), name
    assert loop.pruner.metrics()["macs"] == loop.pruner.view.macs()
    loop.steps(1)
    assert [group.channels for group in loop.pruner.view.groups] == [4, 3, 10]


def test_parameters_that_the_optimizer_does_not_train_and_groups_of_their_own():
    net = network()
    net.features.conv1.weight.requires_grad_(False)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD([{"params": trained[:3], "lr": 0.5}, {"params": trained[3:]}], lr=0.1, momentum=0.9)
    before = dict(net.named_parameters())
    removal = remove_(net, {"features.conv1": [1, 2]}, torch.zeros(1, *SHAPE))
    follow_removal_(optimizer, before, net, removal.slices)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    now = [p for p in net.parameters() if p.requires_grad]
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == [
        [id(p) for p in now[:3]],
        [id(p) for p in now[3:]],
    ]
    assert not net.features.conv1.weight.requires_grad


def test_optimizers_with_states_of_another_shape_are_refused():
    loop = Loop(OneShot(), partial(torch.optim.Adafactor, lr=0.01))
    loop.steps(1)
    with pytest.raises(ValueError, match=r"Adafactor keeps row_var of shape .*: filters cannot be pruned"):
        loop.pruner.carry_out(Mask({"features.conv1": (0,)}))


def fit(schedule, checkpoint=None, stop_after=None, epochs=4, net=None, **options):
    """Train; the network, the history without its seconds."""
    net = network() if net is None else net

    def on_epoch(metrics):
        if metrics["epoch"] == stop_after:
            raise KilledError

    history = fit_by_options_(
        net,
        DataLoader(images(), batch_size=16, shuffle=True),
        DataLoader(images(32), batch_size=16),
        epochs=epochs,
        optimizer=options.pop("optimizer", SGD),
        schedule=cosine,
        seed=3,
        checkpoint=checkpoint,
        device="cpu",
        pruning=Pruning(schedule, SHAPE, batches=lambda ranking: DataLoader(images(), batch_size=32, shuffle=True)),
        on_epoch=on_epoch,
        progress=False,
        **options,
    )
    return net, [{name: value for name, value in line.items() if name != "seconds"} for line in history]


class KilledError(Exception):
    pass


SCHEDULES = {
    "repr": RePr(S1=0.3, S2=0.2, N=1, share=0.3, next_inputs="redrawn", revived_gradient=3.0),
    "repr_by_epochs": RePr(S1=1, S2=1, N=1, criterion=Orthogonality(fan_in_power=0.5)),
    "repr_same": RePr(S1=0.1, S2=0.3, N=2, same=True),
    "sfp": SFP(share=0.3),
    "agp": AGP(share=0.5, every=3),
    "one_shot": OneShot(share=0.4, criterion=Taylor(), epoch=1),
    "iterative": Iterative(macs=0.4, filters=3, updates=3),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_killed_and_going_on_ends_with_the_same_bits(name, optimizer, tmp_path):
    options = {"optimizer": OPTIMIZERS[optimizer]}
    alone, expected = fit(SCHEDULES[name], **options)
    for stop in (0, 1, 2):
        with pytest.raises(KilledError):
            fit(SCHEDULES[name], tmp_path / "last.ckpt", stop, **options)
    torch.rand(11)
    for _ in range(2):  # goes on; then finds it finished
        again, history = fit(SCHEDULES[name], tmp_path / "last.ckpt", **options)
        assert history == expected
        state = again.state_dict()
        assert state.keys() == alone.state_dict().keys()
        assert all(torch.equal(value, state[key]) for key, value in alone.state_dict().items())


def test_a_checkpoint_of_another_schedule_is_told_apart(tmp_path):
    fit(SFP(share=0.3), tmp_path / "last.ckpt", epochs=1)
    with pytest.raises(ValueError, match=r"last\.ckpt is the checkpoint of another fit: pruning is SFP\(share=0\.3"):
        fit(SFP(share=0.4), tmp_path / "last.ckpt", epochs=1)


def test_the_history_tells_and_the_masked_network_is_what_was_validated():
    _, history = fit(SFP(share=0.3))
    assert [line["silent_filters"] for line in history] == [9, 9, 9, 9]
    net, history = fit(Iterative(macs=0.5, filters=2, updates=2))
    example = torch.zeros(1, *SHAPE)
    assert history[-1]["macs"] == measure(net, example, seconds=0).macs <= 0.5 * measure(network(), example).macs


def test_the_learning_rate_goes_on_through_removals():
    _, pruned = fit(Iterative(macs=0.5, filters=2, updates=2))
    _, plain = fit(OneShot(share=0.0))
    assert [line["learning_rate"] for line in pruned] == [line["learning_rate"] for line in plain]


def test_nothing_pruned_is_nothing_changed():
    """A rate of 0 leaves the bits of a fit without pruning."""
    pruned, _ = fit(OneShot(share=0.0, criterion=Taylor()))
    net = network()
    fit_by_options_(
        net, DataLoader(images(), batch_size=16, shuffle=True), DataLoader(images(32), batch_size=16), epochs=4,
        optimizer=SGD, schedule=cosine, seed=3, checkpoint=None, device="cpu", progress=False,
    )  # fmt: skip
    assert all(torch.equal(value, pruned.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": True}, "compile is true, and filters shall be pruned .*set compile=false"),
        ({"devices": 2}, "devices is 2, and filters shall be pruned .*set devices=1"),
        ({"quant_noise": {"phi": "int8", "p": 0.5}}, "quant_noise is given, .*set quant_noise=null"),
    ],
)
def test_ways_to_compute_that_do_not_see_it_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(SFP(), **options)


def test_filters_of_blocks_that_are_skipped_at_random():
    torch.manual_seed(0)
    net = models.cifar_resnet(depth=8, num_classes=4)
    net, history = fit(SFP(share=0.3, coupled=True), epochs=2, net=net, stochastic_depth={"last": 0.8})
    groups = channel_groups(net, torch.zeros(1, *SHAPE))
    silent = silent_channels(net, groups)
    assert {group.name: len(silent[group.name]) for group in groups} == {
        group.name: math.floor(0.3 * group.channels) for group in groups
    }
    assert len(history) == 2
    with pytest.raises(ValueError, match=r"stochastic_depth is given, .*set stochastic_depth=null"):
        fit(Iterative(), stochastic_depth={"last": 0.8}, net=models.cifar_resnet(depth=8, num_classes=4))


def test_times_that_were_measured_are_known_where_a_fit_goes_on(monkeypatch):
    monkeypatch.setattr("lowrank_exp.pruning.times.time_interleaved", interleaved)
    schedule = Iterative(criterion=L2(), macs=None, latency=0.6, filters=None, updates=2)

    def pruner(stored=None, epochs_done=0):
        torch.manual_seed(0)
        net = models.vanilla_cnn(convolutions=3, filters=32, in_channels=3, input_size=8, num_classes=4)
        times = PrunedTimes(Clock.of(Counting()), net, torch.zeros(1, *SHAPE))
        return Pruner(Pruning(schedule, SHAPE, times=times), net, 3, 4, 3, stored, epochs_done)

    first = pruner()
    for _ in range(2):
        first.before_epoch([])
        for _ in range(4):
            first.after_step()
    assert first.view.times.block == 16
    assert len(first.view.times.measured) > 3
    again = pruner(first.state(), 2)
    assert again.view.times.state() == first.view.times.state()
    assert again.view.time_left() == first.view.time_left() < 1
    assert again.metrics() == first.metrics()
