"""Rows of recipe_sensitivity differ in what their names say, and in nothing else."""

from omegaconf import OmegaConf

from lowrank_exp.report.configuration import differences
from support.table_rows import TABLES, configured, rows_of

# Weight decay, label smoothing, epochs.
RECIPES = {
    "recipe_sensitivity": {
        **{"plain": (5e-4, 0.0, 30), "no_decay": (0.0, 0.0, 30), "strong_decay": (5e-3, 0.0, 30)},
        **{"smoothing": (5e-4, 0.1, 30), "smoothing_no_decay": (0.0, 0.1, 30), "long_cosine": (5e-4, 0.0, 90)},
    },
    "recipe_sensitivity_cifar10": {
        **{"plain": (1e-4, 0.0, 60), "no_decay": (0.0, 0.0, 60), "strong_decay": (5e-4, 0.0, 60)},
        **{"smoothing": (1e-4, 0.1, 60), "smoothing_no_decay": (0.0, 0.1, 60), "long_cosine": (1e-4, 0.0, 180)},
    },
}


def test_rows_differ_in_the_recipe_of_the_dense_network_alone():
    for table, recipes in RECIPES.items():
        assert tuple(TABLES[table].seeds) == (0, 1, 2)
        made = {row.rpartition("/")[2]: configured(row) for row in rows_of(table)}
        trainings = {name: cfg.method.phases.train for name, cfg in made.items()}
        assert {
            name: (train.optimizer.weight_decay, train.label_smoothing, train.epochs)
            for name, train in trainings.items()
        } == recipes
        assert {(cfg.rank.policy, cfg.rank.macs, cfg.rank.metric) for cfg in made.values()} == {
            ("knapsack", 0.5, "error")
        }
        phases = [OmegaConf.to_container(cfg.method.phases) for cfg in made.values()]
        changed = {"train.optimizer.weight_decay", "train.label_smoothing", "train.epochs"}
        orders = {tuple(cfg.method.order) for cfg in made.values()}
        assert len(orders) == 1
        assert set(differences([{name: one[name] for name in next(iter(orders))} for one in phases])) == changed
