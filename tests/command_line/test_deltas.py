"""What is set beside the recipe of a phase: it takes the place of the recipe's own, and nothing is without effect."""

import pytest
from omegaconf import OmegaConf

from lowrank_exp.command_line.deltas import allow_deltas, check_hidden, merge_recipes
from lowrank_exp.command_line.sweep import CheckJobs
from support.composed import composed, flattened


def trainings(*overrides):
    """By the name of the phase, what it trains by."""
    cfg = flattened(composed(*overrides))
    phases = {name: cfg.method.phases[name] for name in cfg.method.order}
    return {name: phase.get("train", phase) for name, phase in phases.items() if "epochs" in phase or "train" in phase}


def test_what_a_phase_sets_takes_the_place_of_the_recipes():
    plain, other = trainings(), trainings("method.phases.train.optimizer.lr=0.3", "method.phases.finetune.epochs=3")
    assert (plain["train"].optimizer.lr, plain["finetune"].epochs) == (0.05, 10)
    assert (other["train"].optimizer.lr, other["finetune"].epochs) == (0.3, 3)
    for name, key in (("train", "optimizer"), ("finetune", "epochs")):
        assert {k: v for k, v in other[name].items() if k != key} == {k: v for k, v in plain[name].items() if k != key}
    assert dict(other["train"].optimizer) == dict(plain["train"].optimizer) | {"lr": 0.3}


@pytest.mark.parametrize(
    ("overrides", "key", "values"),
    [
        (["training.epochs=3"], "epochs", {"train": 3, "finetune": 10}),
        (["method.phases.train.epochs=3"], "epochs", {"train": 3, "finetune": 10}),
        (["+method.phases.train.epochs=3"], "epochs", {"train": 3, "finetune": 10}),
        (["method=prune", "finetune.epochs=3"], "epochs", {"train": 30, "prune": 3, "finetune": 3}),
        (["method=prune", "method.phases.finetune.epochs=3"], "epochs", {"train": 30, "prune": 3, "finetune": 3}),
        (["method=prune", "method.phases.prune.train.epochs=3"], "epochs", {"train": 30, "prune": 3, "finetune": 10}),
        (["method=repr", "method.phases.train.epochs=3"], "epochs", {"prune": 3}),
        (["method=repr", "training.epochs=3"], "epochs", {"prune": 3}),
        (["method=rewind", "training.epochs=20"], "epochs", {"train": 20, "prune": 0, "rewind": 20}),
        (["method=pufferfish", "training.epochs=3"], "epochs", {"warmup": 10, "train": 3}),
        (["method=pufferfish", "method.phases.warmup.epochs=3"], "epochs", {"warmup": 3, "train": 30}),
        (["method=cuttlefish", "training.batch_size=9"], "batch_size", {"until_settled": 9, "train_on": 9}),
        (["method=cuttlefish", "method.phases.train.batch_size=9"], "batch_size", {"until_settled": 9, "train_on": 9}),
        (["training.stochastic_depth={last: 0.8}"], "stochastic_depth", {"train": {"last": 0.8}, "finetune": None}),
        (
            ["training.quant_noise={phi: int8, p: 0.5}", "method.phases.train.quant_noise.p=0.2"],
            "quant_noise",
            {"train": {"phi": "int8", "p": 0.2}, "finetune": None},
        ),
        (
            ["training.exempt=[norm]", "method=svd_training"],
            "exempt",
            {"train": ["s", "U", "V"], "sparse": ["s", "U", "V"], "finetune": []},
        ),
    ],
)
def test_every_way_to_set_an_option_has_its_effect(overrides, key, values):
    assert {name: training[key] for name, training in trainings(*overrides).items()} == values


def test_another_schedule_takes_the_place_of_the_whole_one():
    steps = "{_target_: lowrank_exp.training.schedules.steps, _partial_: true, at: [0.5]}"
    schedule = trainings(f"method.phases.train.schedule={steps}")["train"].schedule
    assert schedule == {"_target_": "lowrank_exp.training.schedules.steps", "_partial_": True, "at": [0.5]}
    assert trainings("method.phases.train.schedule=null")["train"].schedule is None
    assert trainings("method.phases.train.schedule.warmup=0.3")["train"].schedule.warmup == 0.3


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["training.epochs=3", "method.phases.train.epochs=4"],
            "training.epochs=3 changes nothing: method.phases.train.epochs=4 takes its place",
        ),
        (
            ["method.phases.train.schedule=null", "training.schedule.warmup=0.2"],
            "training.schedule.warmup=0.2 changes nothing: method.phases.train.schedule=null takes its place",
        ),
        (
            ["method=rewind", "finetune.epochs=3"],
            "finetune.epochs=3 changes nothing: method.phases.prune.train.epochs=0 takes its place",
        ),
        (
            ["method=repr", "method.phases.train.epochs=3", "method.phases.prune.train.epochs=4"],
            "method.phases.train.epochs=3 changes nothing: method.phases.prune.train.epochs=4 takes its place",
        ),
    ],
)
def test_two_values_of_one_option_are_refused_by_both_names(overrides, said):
    with pytest.raises(ValueError, match="changes nothing") as refused:
        check_hidden(overrides, composed(*overrides))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.epochs=3", "method.phases.train.epochs=3"],
        ["training.optimizer={lr: 0.3}", "method.phases.train.optimizer.lr=0.1"],
        ["method=svd_training", "training.epochs=3", "method.phases.sparse.epochs=4"],
        ["method=factorized", "training.schedule.warmup=0.2"],
        ["method=oneshot", "training.epochs=3"],
        ["method=rewind", "method.phases.finetune.epochs=3"],
    ],
)
def test_what_some_phase_gets_and_what_no_method_reads_is_let_through(overrides):
    check_hidden(overrides, composed(*overrides))


def test_keys_that_trainings_do_not_have_are_left_to_hydra():
    arguments = ["method.phases.train.epoch=3", "method.phases.train.recipe.epochs=3", "training.epochs=3", "-m"]
    assert allow_deltas(arguments) == arguments
    assert allow_deltas(["method.phases.a.train.snapshots=[0]"]) == ["++method.phases.a.train.snapshots=[0]"]


def test_a_key_that_a_training_does_not_have_is_told_beside_those_that_it_has(command, capsys):
    assert command("method=train", "method.phases.train.epoch=3") == 1
    assert "Did you mean epochs? The keys of method.phases.train are: _target_, recipe" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_configuration_without_phases_stays_as_it_is():
    for config in ({}, {"method": None}, {"method": {"phases": None}}, {"method": {"phases": {"a": None}}}):
        assert merge_recipes(config) == config


def test_the_recipe_need_not_be_named_where_all_options_are_there():
    """A method of one's own may list them."""
    whole = OmegaConf.to_container(flattened(composed("method=train")))
    again = merge_recipes({"method": whole["method"]})
    assert again["method"]["phases"]["train"] == whole["method"]["phases"]["train"]


def test_a_sweep_that_an_experiment_carries_may_set_them_too():
    params = {"method.phases.train.epochs": "1,2", "seed": "0"}
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": params}
    cfg = OmegaConf.create({"hydra": {"sweeper": sweeper, "overrides": {"task": []}}})
    OmegaConf.set_readonly(cfg, True)
    CheckJobs().on_multirun_start(cfg)
    assert dict(cfg.hydra.sweeper.params) == {"++method.phases.train.epochs": "1,2", "seed": "0"}
