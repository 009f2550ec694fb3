"""When each schedule acts, and on which filters: asked moment by moment, without a training."""

import math
import re
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from torch import nn

from lowrank_exp import models
from lowrank_exp.pruning import Masks, remove_
from lowrank_exp.pruning.criteria import L1, L2, Orthogonality, Taylor
from lowrank_exp.pruning.null_space import NullSpace
from lowrank_exp.pruning.schedules import AGP, SFP, Iterative, Mask, Moment, OneShot, Remove, RePr, Revive, View, Zero
from lowrank_exp.pruning.schedules.bound import MostSaved
from support.cells import cells

SHAPE = (3, 8, 8)


def chain() -> nn.Module:
    """Filters of 10, 6 and 4 in a row, those of larger index longer."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip
    for i in (0, 2, 4):
        weight = net[i].weight.data
        weight *= torch.arange(1, len(weight) + 1)[:, None, None, None]
    return net


def view(net=None, **options) -> View:
    return View.of(chain() if net is None else net, SHAPE, **options)


def asked(schedule, of, steps_per_epoch, epochs, keep_masks=True):
    """What is done at every moment of a training, by `b<epoch>` where one begins and else by step."""
    done = {}
    for step in range(steps_per_epoch * epochs + 1):
        for begins in (False, True):
            at_edge = step % steps_per_epoch == 0
            if (begins and (not at_edge or step == steps_per_epoch * epochs)) or (not begins and step == 0):
                continue
            action = schedule.due(Moment(step, steps_per_epoch, epochs, begins), of)
            if action is None:
                continue
            done[f"b{step // steps_per_epoch}" if begins else step] = action
            if isinstance(action, Mask) and keep_masks:
                of.masked = dict(action.filters)
                of.first = of.first or of.masked
            elif isinstance(action, Revive):
                of.masked = {}
    return done


def test_view_finds_convolutions_their_sizes_and_costs():
    seen = view()
    assert seen.layers == ["0", "2", "4"]
    assert seen.sizes() == {"0": 10, "2": 6, "4": 4}
    assert seen.dense_macs == 10 * 27 * 36 + 6 * 90 * 16 + 4 * 54 * 4 + 32
    assert view(layers=["re:[27]"], ignored=["0"]).layers == ["2"]
    with pytest.raises(ValueError, match="no filter of 7 can be removed"):
        view(layers=["7"])
    with pytest.raises(ValueError, match=r"the layers to prune names the layer 'conv9', which does not exist"):
        view(layers=["conv9"])


def test_ranks_are_the_channels_between_factors():
    from lowrank_exp import factorize_

    net = factorize_(chain(), {"2": 3, "7": 2})
    assert view(net, layers=["ranks"]).layers == ["2.0", "7.0"]


def test_repr_goes_off_and_on_in_cycles_of_epochs():
    schedule = RePr(S1=2, S2=1, N=2, share=0.3, criterion=L2())
    seen = view()
    schedule.check(seen, 5, 7)
    done = asked(schedule, seen, 5, 7)
    assert {at: type(action) for at, action in done.items()} == {"b2": Mask, "b3": Revive, "b5": Mask, "b6": Revive}
    filters = done["b2"].filters
    assert sum(map(len, filters.values())) == math.floor(0.3 * 20)
    assert done["b2"].remember
    with pytest.raises(ValueError, match="RePr: N=2 cycles of S1=2 and S2=1 do not fit into 6 epochs with a rest"):
        schedule.check(seen, 5, 6)
    RePr(S1=2, S2=1, N=2, last="masked").check(seen, 5, 6)


def test_repr_by_fractions_acts_within_an_epoch_and_between_epochs_before_the_next():
    done = asked(RePr(S1=0.25, S2=0.25, N=2, last="masked", criterion=L2()), view(), 10, 2)
    assert {at: type(action) for at, action in done.items()} == {5: Mask, "b1": Revive, 15: Mask}


def test_repr_drops_of_each_layer_or_of_all_and_spares_the_first():
    counts = {"0": 3, "2": 1, "4": 1}
    by_layer = RePr(S1=1, S2=1, N=1, scope="layer", criterion=L2()).due(Moment(1, 1, 3, True), view()).filters
    assert by_layer == {"0": (0, 1, 2), "2": (0,), "4": (0,)}
    assert {layer: len(filters) for layer, filters in by_layer.items()} == counts
    rest = RePr(S1=1, S2=1, N=1, first=False, criterion=L2()).due(Moment(1, 1, 3, True), view()).filters
    assert "0" not in rest
    assert sum(map(len, rest.values())) == math.floor(0.3 * 10)


def test_repr_drops_the_same_filters_again_when_told_to():
    for same in (False, True):
        seen = view()
        schedule = RePr(S1=1, S2=1, N=2, same=same, criterion=L2(), scope="layer")
        first = schedule.due(Moment(1, 1, 5, True), seen).filters
        seen.first, seen.masked = first, {}
        seen.network[0].weight.data.mul_(torch.arange(10, 0, -1)[:, None, None, None] ** 3)
        second = schedule.due(Moment(3, 1, 5, True), seen).filters
        assert (second == first) == same


def test_repr_strengthens_gradients_for_as_long_as_s1_after_a_revival():
    schedule = RePr(S1=2, S2=1, N=1, revived_gradient=10.0)
    factors = [schedule.gradient_factor(Moment(step, 2, 6, False)) for step in range(12)]
    assert factors == [1.0] * 6 + [10.0] * 4 + [1.0] * 2


def test_sfp_takes_floor_of_every_layer_after_every_epoch_and_masks_in_the_end():
    done = asked(SFP(share=0.3, every=2, start=True), view(), 4, 5)
    assert {at: type(action) for at, action in done.items()} == {"b0": Zero, 8: Zero, 16: Zero, 20: Mask}
    assert done[20].filters == {"0": (0, 1, 2), "2": (0,), "4": (0,)}
    assert list(asked(SFP(), view(), 4, 2)) == [4, 8]
    with pytest.raises(ValueError, match=r"SFP: share=0.05 is not a whole filter of any layer: the widest has 10"):
        SFP(share=0.05).check(view(), 1, 1)


def test_sfp_coupled_takes_the_same_channels_of_a_residual_stream():
    net = models.cifar_resnet(depth=20, num_classes=4)
    for coupled in (False, True):
        seen = View.of(net, (3, 16, 16))
        filters = SFP(share=0.3, coupled=coupled).due(Moment(1, 1, 1), seen).filters
        masks = Masks(net, seen.groups, filters)
        shares = {group.name: math.floor(0.3 * group.channels) for group in seen.groups}
        silent = {group.name: len(masks.silent(group)) for group in seen.groups}
        stream = next(group for group in seen.groups if len(group.producers) > 1)
        assert {name for name in shares if silent[name] < shares[name]} == (set() if coupled else {stream.name})
        if not coupled:
            assert {layer: len(chosen) for layer, chosen in filters.items()} == {
                layer: math.floor(0.3 * size) for layer, size in seen.sizes().items()
            }


def test_one_shot_acts_once():
    done = asked(OneShot(share=0.5, criterion=L1(), epoch=1), view(), 3, 3)
    assert list(done) == ["b1"]
    assert done["b1"].filters == {"0": (0, 1, 2, 3, 4), "2": (0, 1, 2), "4": (0, 1)}
    everywhere = OneShot(share=0.5, scope="global").due(Moment(0, 3, 3, True), view()).filters
    assert sum(map(len, everywhere.values())) == 10
    with pytest.raises(ValueError, match="OneShot: epoch=3 does not come in a training of 3"):
        OneShot(epoch=3).check(view(), 1, 3)


def test_agp_follows_the_cubic_of_zhu_and_gupta():
    seen = view(layers=["0"])
    done = asked(AGP(share=0.8, share_at_first=0.2, begin=1, end=3, every=5), seen, 10, 4)
    expected = {10 + t: 0.8 - 0.6 * (1 - t / 20) ** 3 for t in range(0, 21, 5)}
    counts = {(10 if at == "b1" else at): len(action.filters["0"]) for at, action in done.items()}
    # At step 25 the share, 0.79, is not a whole filter more than at step 20.
    assert counts == {t: math.floor(s * 10 + 1e-9) for t, s in expected.items() if t != 25}
    masks = [set(action.filters["0"]) for action in done.values()]
    assert all(sooner <= later for sooner, later in pairwise(masks))
    with pytest.raises(ValueError, match="AGP: the share grows from epoch 2 to 1, the training has 2 epochs"):
        AGP(begin=2).check(seen, 1, 2)


def test_iterative_removes_every_so_many_steps_until_the_target_is_met():
    net = chain()
    seen = view(net)
    schedule = Iterative(criterion=L2(), macs=0.6, filters=3, updates=4, form="none")
    assert [at for at in asked(schedule, seen, 6, 2)] == ["b0", 4, 8]
    keep = schedule.due(Moment(0, 6, 2, True), seen).keep
    assert sum(group.channels - len(keep[group.name]) for group in seen.groups if group.name in keep) == 3
    with pytest.raises(ValueError, match=r"Iterative: macs=0.01 cannot be reached: .* 0\.\d+ of the MACs remain"):
        Iterative(macs=0.01).check(seen, 1, 1)


def test_iterative_takes_no_more_than_the_target_asks_for():
    seen = view()
    fewest = next(
        n
        for n in range(1, 16)
        if seen.macs(Iterative(criterion=L2(), macs=0.001, filters=n).due(Moment(0, 1, 1, True), seen).keep)
        <= 0.7 * seen.dense_macs
    )
    keep = Iterative(criterion=L2(), macs=0.7, filters=15).due(Moment(0, 1, 1, True), seen).keep
    assert sum(group.channels - len(keep.get(group.name, range(group.channels))) for group in seen.groups) == fewest
    assert seen.macs(keep) <= 0.7 * seen.dense_macs


@pytest.mark.slow
def test_no_choice_of_channels_saves_more_than_is_known_before():
    """Against every number of channels that can go of each group."""
    for net in (chain(), models.cifar_resnet(depth=8, num_classes=4)):
        seen = View.of(net, SHAPE)
        most = MostSaved(seen)
        few = [range(min(group.channels, 4)) for group in seen.groups][:5]
        names = [group.name for group in seen.groups]
        least: dict[int, float] = {}
        for gone in product(*few):
            left = seen.macs(seen.without({n: range(g) for n, g in zip(names, gone, strict=False)})) / seen.dense_macs
            least[sum(gone)] = min(left, least.get(sum(gone), 1.0))
        assert all(most.left(n) <= left + 1e-12 for n, left in least.items())
        assert most.left(1) == pytest.approx(least[1], abs=1e-12)
        assert most.left(0) == 1
        assert most.needed(least[1]) == 1
        assert most.left(most.needed(0.6)) <= 0.6 < most.left(most.needed(0.6) - 1)


def test_a_target_out_of_reach_is_refused_with_what_would_reach_it():
    seen = view()
    few = Iterative(criterion=L2(), macs=0.3, filters=1, updates=10)
    message = r"30 steps \(3 epochs of 10\), 10 from one time to the next, remove 3 x 1"
    with pytest.raises(ValueError, match=message) as told:
        few.check(seen, 10, 3)
    patterns = (r"(\d+) channels or more have to go", r"filters=(\d+)", r"updates=(\d+)", r"\((\d+) epochs\) or")
    channels, filters, updates, epochs = (int(re.search(pattern, str(told.value))[1]) for pattern in patterns)
    most = MostSaved(seen)
    assert most.left(channels) <= 0.3 < most.left(channels - 1)
    replace(few, filters=filters).check(seen, 10, 3)
    replace(few, updates=updates).check(seen, 10, 3)
    few.check(seen, 10, epochs)
    replace(few, filters=None).check(seen, 10, 3)
    less = (replace(few, filters=filters - 1), 3), (replace(few, updates=updates + 1), 3), (few, epochs - 1)
    for schedule, too_few in less:
        with pytest.raises(ValueError, match="cannot be reached"):
            schedule.check(seen, 10, too_few)


def test_as_many_as_it_takes_reach_the_target_after_three_quarters():
    seen = view()
    schedule = Iterative(criterion=L2(), macs=0.4, filters=None, updates=3, form="none")
    left = []
    for step in range(0, 20, 3):
        action = schedule.due(Moment(step, 20, 1, step == 0), seen)
        if action is not None:
            remove_(seen.network, action.keep, groups=seen.groups)
            seen = replace(view(seen.network), dense_macs=seen.dense_macs)
        left.append(seen.macs() / seen.dense_macs)
    goals = [1 - 0.6 * (turn + 1) / 6 for turn in range(6)]  # steps 0 to 15
    assert all(now <= goal for now, goal in zip(left, goals, strict=False))
    assert left[5] == left[6]
    assert len(set(left)) >= 4
    assert schedule.missed(seen) == ""


def test_what_is_left_of_a_target_is_told_at_the_end():
    seen = replace(view(), dense_macs=round(view().dense_macs / 0.8))
    assert "0.8000 of the MACs remain, the target is 0.5" in Iterative(macs=0.5).missed(seen)
    assert [bool(Iterative(macs=macs).missed(seen)) for macs in (0.79, 0.793, 0.8)] == [True, False, False]
    seen.accuracies = [0.95, 0.92]
    told = Iterative(macs=None, accuracy=0.9).missed(seen)
    assert "the validation accuracy was 0.9200 at the lowest, the target is 0.9" in told
    assert Iterative(macs=None, accuracy=0.93).missed(seen) == ""
    assert Iterative(macs=0.5, accuracy=0.93).missed(seen) == ""  # the first one met counts
    assert [schedule.missed(seen) for schedule in (OneShot(), AGP(), SFP(), RePr())] == [""] * 4


@cells(
    ("schedule", "epochs", "message"),
    [
        (Iterative(), 0, "Iterative: filters go between the steps of a training, and this one has 0 epochs"),
        (Iterative(macs=None, accuracy=0.9, updates=1), 1, "accuracy=0.9 is looked at between epochs"),
        (Iterative(filters=None, updates=11), 1, "updates=11 is more than the 10 steps"),
        (SFP(), 0, "SFP: filters become 0 at the end of epochs, and the training has none"),
        (AGP(), 0, "AGP: the share grows from epoch 0 to 1, the training has 0 epochs"),
        (OneShot(share=0.09), 1, "OneShot: share=0.09 is not a whole filter of any layer: the widest has 10"),
        (OneShot(share=0.04, scope="global"), 1, "all layers together have 20"),
        (OneShot(share=0.9, scope="global"), 1, "share=0.9 are 18 filters of 20, of which 17 can go"),
        (AGP(share=0.09), 4, "AGP: share=0.09 is not a whole filter"),
        (
            RePr(S1=1, S2=1, N=1, share=0.04),
            4,
            "RePr: share=0.04 is not a whole filter of any layer: all layers together have 20",
        ),
    ],
)
def test_a_schedule_that_could_do_nothing_is_refused(schedule, epochs, message):
    with pytest.raises(ValueError, match=message):
        schedule.check(view(), 10, epochs)


def test_iterative_stops_below_the_accuracy():
    schedule = Iterative(criterion=L2(), macs=None, accuracy=0.9)
    seen = view()
    assert isinstance(schedule.due(Moment(30, 10, 5), seen), Remove)
    seen.accuracies = [0.95, 0.89, 0.93]
    assert schedule.due(Moment(30, 10, 5), seen) is None


def test_iterative_with_a_cost_prefers_filters_that_cost_more():
    seen = view()
    seen.network[0].weight.data.fill_(1.0)  # 27 entries: length 5.2, far above the others' share
    free = Iterative(criterion=L2(), macs=0.1, form="rank").due(Moment(0, 1, 1, True), seen).keep
    dear = Iterative(criterion=L2(), macs=0.1, form="rank", cost_weight=1e5).due(Moment(0, 1, 1, True), seen).keep
    costs = {group.name: seen.macs() - seen.macs(seen.without({group.name: [0]})) for group in seen.groups}
    (cut,) = [name for name, kept in dear.items() if len(kept) < {"0": 10, "2": 6, "4": 4}[name]]
    assert cut == max(costs, key=costs.__getitem__)
    assert free != dear


@cells(
    ("make", "message"),
    [
        (lambda: RePr(S1=0), "RePr: S1=0 must be an integer of at least 1"),
        (lambda: RePr(S1=0.3, S2=0.2, N=3), "RePr: N=3 times S1=0.3 and S2=0.2 must be fractions of a training"),
        (lambda: RePr(share=1.0), "RePr: share=1.0 is not a fraction of filters: from 0 to below 1"),
        (lambda: RePr(next_inputs="old"), "RePr: next_inputs='old' is not known: kept or zeroed or redrawn"),
        (lambda: RePr(revived_gradient=0), "RePr: revived_gradient=0 is not a number above 0"),
        (lambda: SFP(share=-0.1), "SFP: share=-0.1 is not a fraction"),
        (lambda: SFP(every=0), "SFP: every=0 must be an integer of at least 1"),
        (lambda: OneShot(scope="net"), "OneShot: scope='net' is not known: layer or global"),
        (lambda: AGP(share_at_first=0.5), r"AGP: share_at_first=0.5 is above share=0.3"),
        (lambda: AGP(begin=3, end=3), "AGP: end=3 must be an integer of at least 4"),
        (lambda: Iterative(macs=None), "Iterative: there is no target: set macs, latency or accuracy"),
        (lambda: Iterative(latency=1.0), "Iterative: latency=1.0 is not a fraction between 0 and 1"),
        (lambda: Iterative(macs=None, accuracy=0.9, filters=None), "filters=None needs a target for MACs or time"),
        (lambda: Iterative(macs=1.5), "Iterative: macs=1.5 is not a fraction between 0 and 1"),
        (lambda: Iterative(cost_weight=-1), "Iterative: cost_weight=-1 is not a number of 0 or more"),
        (lambda: Iterative(form="max"), "Iterative: form='max' is not known"),
    ],
)  # fmt: skip
def test_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_stand_ins_have_the_shares():
    seen = view()
    assert {name: len(kept) for name, kept in SFP(share=0.3).stand_in(seen).items()} == {"0": 7, "2": 5, "4": 3}
    assert RePr().stand_in(seen) == {}
    assert {n: len(kept) for n, kept in RePr(last="masked", first=False).stand_in(seen).items()} == {"2": 5, "4": 3}
    small = Iterative(criterion=Taylor(), macs=0.5).stand_in(seen)
    assert 0.3 < seen.macs(small) / seen.dense_macs <= 0.5


def test_defaults_are_the_papers():
    schedule = RePr()
    assert (schedule.S1, schedule.S2, schedule.N, schedule.share) == (20, 10, 3, 0.3)
    assert schedule.criterion == Orthogonality()
    assert schedule.null_space == NullSpace()
    assert SFP().criterion == L2()
    assert Iterative().criterion == Taylor()
