"""RePr's tables and the experiment that puts it to the test: what their rows set, and rows that run."""

import functools

import pytest

from lowrank_exp.phases.prune import Prune, revival_figures
from lowrank_exp.phases.train import Train
from lowrank_exp.pruning import criteria
from lowrank_exp.pruning.schedules.schedule import Moment
from lowrank_exp.report.quantities import measured
from support.cells import cells
from support.composed import made
from support.method_jobs import job
from support.smoke import SMOKE
from support.table_rows import TABLES, configured

METRICS = {
    "random": criteria.Random(0),
    "activations": criteria.ActivationMean(),
    "apoz": criteria.APoZ(),
    "gradients": criteria.Gradient(),
    "taylor": criteria.Taylor(),
    "hessian": criteria.OBD(),
    "weights": criteria.L2(),
    "oracle": criteria.Oracle(measure="accuracy", absolute=False),
    "ortho": criteria.Orthogonality(),
}
HONEST = ["standard", "repr", "repr_sqrt_fan_in", "repr_per_layer", "repr_gradients_10", "same_filters"]
PUBLISHED = {  # top-1, or error of ResNet-20, in percent
    "repr_metrics": [72.1, 73.4, 74.1, 74.3, 74.3, 74.3, 74.4, 74.6, 76.0, 76.4],
    "repr_resnet20": [8.4, 7.7, 6.9],
    "repr_c3_32": [64.86, 69.05, 77.84, 74.48],
}


@functools.cache
def phase(row):
    """The configuration of a row and its only phase."""
    cfg = configured(row)
    (name,) = cfg.method.order
    return cfg, made(cfg, name)


def schedule(row):
    return phase(row)[1].schedule


def drops_and_revivals(row, steps_per_epoch=351):
    """The epochs at whose beginning filters go, and come back."""
    epochs = phase(row)[1].train.recipe.epochs
    places = schedule(row)._places(steps_per_epoch, epochs)
    assert all(Moment(step, steps_per_epoch, epochs, begins=True).at(step) for step in places)
    return [step / steps_per_epoch for step in places]


@pytest.mark.parametrize("row", ["repr_c3_32/repr", "repr_metrics/ortho", "repr_resnet20/repr_ortho"])
def test_cycles_are_the_papers(row):
    assert drops_and_revivals(row) == [20, 30, 50, 60, 80, 90]
    assert phase(row)[1].train.recipe.epochs == (150 if "resnet20" in row else 100)
    found = schedule(row)
    assert (found.N, found.share, found.scope, found.first, found.criterion) == (
        *(3, 0.3, "global", True),
        criteria.Orthogonality(),
    )


@cells("metric", METRICS)
def test_criteria_of_the_table_of_metrics(metric):
    cfg, found = phase(f"repr_metrics/{metric}")
    assert found.schedule.criterion == METRICS[metric]
    assert (found.images, cfg.model.batch_norm, found.train.recipe.augment) == (5000, True, False)
    assert drops_and_revivals(f"repr_metrics/{metric}") == [20, 30, 50, 60, 80, 90]


@cells("augmented", [False, True])
@cells("row", HONEST)
def test_rows_of_the_experiment_differ_in_one_thing(row, augmented):
    cfg, found = phase(f"repr_c3_32/{row}{'_augmented' if augmented else ''}")
    train = found if row == "standard" else found.train
    assert (type(found), type(train)) == (Train if row == "standard" else Prune, Train)
    rate, recipe = 0.01 if augmented else 0.003, train.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.augment, recipe.schedule) == (100, 128, augmented, None)
    assert recipe.optimizer.keywords == {"lr": rate, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    assert (cfg.model.batch_norm, cfg.model.convolutions, cfg.model.filters) == (False, 3, 32)
    if row == "standard":
        return
    one = found.schedule
    options = (one.criterion.fan_in_power, one.scope, one.revived_gradient, one.same)
    changed = {"repr_sqrt_fan_in": (0.5, 0), "repr_per_layer": ("layer", 1), "repr_gradients_10": (10.0, 2)}
    expected = [0.0, "global", 1.0, False]
    value, place = {**changed, "same_filters": (True, 3)}.get(row, (0.0, 0))
    expected[place] = value
    assert options == tuple(expected)


@pytest.mark.parametrize("table", PUBLISHED)
def test_published_figures(table):
    rows = TABLES[table].rows.values()
    assert [value for row in rows for value in row.published.values()] == PUBLISHED[table]


def test_figures_of_revivals_are_means_over_epochs():
    lines = [
        {"train_loss": 1.0, "silent_filters": 0},
        {"gradient_revived": 3.0, "gradient_others": 1.0},
        {"silent_filters": 4},
        {"gradient_revived": 5.0, "gradient_others": 3.0},
    ]
    assert revival_figures(lines) == {"gradient_revived": 4.0, "gradient_others": 2.0, "gradient_ratio": 2.0}
    assert revival_figures(lines[:1]) == {}
    assert revival_figures([{"gradient_revived": 3.0, "gradient_others": 0.0}]) == {
        "gradient_revived": 3.0,
        "gradient_others": 0.0,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", ["repr_c3_32/same_filters_augmented", "repr_metrics/oracle", "repr_resnet20/repr_ortho"]
)
def test_a_row_of_every_table_runs(command, tmp_path, row):
    experiment, _, name = row.partition("/")
    few = {"oracle": ["method.phases.prune.images=20"], "repr_ortho": ["training.batch_size=20", "data.test=0.8"]}
    sweep = (f"hydra.sweeper.params.row={row}", "hydra.sweeper.params.seed='0'")
    assert command(f"experiment={experiment}", *sweep, *SMOKE, *few.get(name, [])) == 0
    (tmp_path / "outputs" / experiment).rename(tmp_path / "outputs" / "runs")
    result, histories, _ = job(tmp_path / "outputs")
    assert (result.status, result.experiment, result.row) == ("ok", experiment, name)
    (done,) = result.phases
    assert done.values == revival_figures(histories["prune"])
    assert done.values["gradient_ratio"] == done.values["gradient_revived"] / done.values["gradient_others"] > 0
    assert measured(result)["values.gradient_ratio.prune"] == done.values["gradient_ratio"]
