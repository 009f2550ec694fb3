"""What is searched, in Hydra's grammar, and the overrides that trials get."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lowrank_exp.search.space import read_space


def test_overrides_become_distributions_and_fixed_ones_stay():
    space = read_space(
        [
            "rank.macs=0.3,0.5",  # of an experiment; the command line's takes its place
            "rank.macs=interval(0.2,0.8)",
            "regularizer.terms.hoyer.weight=tag(log,interval(1e-3,1))",
            "pruning.filters=range(4,17,4)",
            "finetune.epochs=int(interval(1,3))",
            "decomposition=channel_svd,spatial_svd",
            "method.phases.finetune.epochs=1,2",
            "+rank.ranks={conv1:2}",
            "~tags",
            "seed=3",
        ]
    )
    assert space.fixed == ["+rank.ranks={conv1:2}", "~tags", "seed=3"]
    assert space.searched == {
        "rank.macs": FloatDistribution(0.2, 0.8),
        "regularizer.terms.hoyer.weight": FloatDistribution(1e-3, 1.0, log=True),
        "pruning.filters": IntDistribution(4, 16, step=4),
        "finetune.epochs": IntDistribution(1, 3),
        "decomposition": CategoricalDistribution(["channel_svd", "spatial_svd"]),
        "++method.phases.finetune.epochs": CategoricalDistribution(["1", "2"]),
    }
    assert space.written["rank.macs"] == "rank.macs=interval(0.2,0.8)"


def test_trials_get_short_numbers_within_their_interval_and_the_same_ones_again():
    space = read_space(
        ["seed=1", "a=interval(0.2,0.8)", "b=tag(log,interval(0.123456,0.1234561))", "c=range(3)", "d=x,y"]
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    overrides = space.overrides_of(trial)
    value = trial.params["a"]
    low, high = 0.123456, 0.1234561
    assert overrides[:2] == ["seed=1", f"a={float(f'{value:.4g}')!r}"]
    assert low <= float(overrides[2].removeprefix("b=")) <= high  # four digits would lie outside
    assert overrides[3:] == [f"c={trial.params['c']}", f"d={trial.params['d']}"]
    assert space.overrides_of(optuna.Trial(study, trial._trial_id)) == overrides


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("rank.macs=0.5", "nothing is searched"),
        ("seed=0,1", "the luckiest seed says nothing of the others"),
        ("control=none,dense_by_width", "controls are compared with their rows"),
        ("a=interval(0.8,0.2)", "an interval goes from a number to a larger one"),
        ("a=tag(log,interval(0,1))", "and above 0, as its scale is logarithmic"),
        ("a=tag(linear,interval(0,1))", "tag linear is not known; there is log"),
        ("a=range(3,0)", "gives no value"),
    ],
)
def test_what_cannot_be_searched_is_refused(override, told):
    with pytest.raises(ValueError, match=told):
        read_space([override])
