"""`fit_`, where a test says options of the recipe beside those of the fit."""

from dataclasses import fields
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from lowrank_exp.training import Recipe, fit_

OPTIONS = {field.name for field in fields(Recipe)}


def fit_by_options_(
    network: nn.Module, train_loader: DataLoader, val_loader: DataLoader | None, **options: Any
) -> list[dict[str, float]]:
    recipe = Recipe(**{name: value for name, value in options.items() if name in OPTIONS})
    rest = {name: value for name, value in options.items() if name not in OPTIONS}
    return fit_(network, train_loader, val_loader, recipe, **rest)
