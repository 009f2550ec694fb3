"""When a fit asks its parts, and which of them go together."""

import itertools
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.pruning.schedules import SFP, Iterative
from lowrank_exp.regularizers import Regularizer
from lowrank_exp.training import AtWork, Distillation, Part, Pruning, QuantNoise, Recipe, StochasticDepth, fit_

SGD = partial(torch.optim.SGD, lr=0.1)


class Spy(Part, AtWork):
    """Writes down when it is asked, and adds 1 to every loss."""

    name = "spy"

    def __init__(self):
        self.asked, self.fit = [], None

    def described(self):
        return {"spy": 1}

    def at_work(self, fit):
        self.fit = fit
        return self

    @contextmanager
    def _inside(self, what):
        self.asked.append(f"{what} begins")
        yield
        self.asked.append(f"{what} ends")

    def around_fit(self):
        return self._inside("fit")

    def start(self, running):
        self.asked.append(f"start, {running.reduction} on {running.device}")

    def before_epoch(self, history):
        self.asked.append(f"epoch after {len(history)}")

    def before_step(self):
        self.asked.append("step")

    def around_pass(self, images, first):
        return self._inside(f"{'first ' if first else ''}pass of {len(images)}")

    def on_loss(self, loss, logits_NC, images):
        self.asked.append(f"loss of {tuple(logits_NC.shape)}")
        return loss + 1

    def on_gradients(self):
        self.asked.append("gradients")

    def after_step(self):
        self.asked.append("stepped")

    def before_validation(self):
        self.asked.append("validation begins")

    def after_validation(self):
        self.asked.append("validation ends")

    def metrics(self):
        return {"spied": float(len(self.asked))}

    def after_epoch(self, line, history):
        line["spied"] += 0.5
        self.asked.append(f"{len(history)} epochs done")
        return len(history) == 2


def test_a_fit_asks_its_parts_in_this_order():
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(10, 3), torch.randint(0, 2, (10,)))
    spy = Spy()

    class Spied(Recipe):
        @property
        def parts(self):
            return [spy]

    recipe = Spied(epochs=5, optimizer=SGD, accumulate=2)
    net, train, val = nn.Linear(3, 2), DataLoader(data, 4), DataLoader(data, 10)
    history = fit_(net, train, val, recipe, seed=0, device="cpu", progress=False)
    epoch = [
        *("step", "first pass of 4 begins", "loss of (4, 2)", "first pass of 4 ends"),
        *("pass of 4 begins", "loss of (4, 2)", "pass of 4 ends", "gradients", "stepped"),
        *("step", "first pass of 2 begins", "loss of (2, 2)", "first pass of 2 ends", "gradients", "stepped"),
        *("validation begins", "validation ends"),
    ]
    assert spy.asked == [
        *("fit begins", "start, sum on cpu"),
        *("epoch after 0", *epoch, "1 epochs done"),
        *("epoch after 1", *epoch, "2 epochs done", "fit ends"),
    ]
    assert (spy.fit.steps_per_epoch, spy.fit.epochs_done, spy.fit.seed) == (2, 0, 0)
    assert [line["spied"] for line in history] == [3 + len(epoch) + 0.5, 5 + 2 * len(epoch) + 0.5]


TOGETHER = {  # options that do not go together, and what to set instead
    "compile, stochastic_depth": (
        "compile is true, and stochastic_depth skips",
        "compile=false or stochastic_depth=null",
    ),
    "compile, pruning": ("compile is true, and filters shall be pruned", "compile=false"),
    "devices, pruning": ("devices is 2, and filters shall be pruned", "devices=1"),
    "devices, distill": ("devices is 2, and a teacher is asked in one process only", "devices=1, or distill=null"),
    "devices, snapshots": ("devices is 2, and snapshots of the weights are kept", "devices=1, or snapshots=[]"),
    "compile, removal": ("compile is true, and filters shall be pruned", "compile=false"),
    "devices, removal": ("devices is 2, and filters shall be pruned", "devices=1"),
    "quant_noise, removal": ("quant_noise is given, and filters shall be pruned", "quant_noise=null"),
    "quant_noise, pruning": ("quant_noise is given, and filters shall be pruned", "quant_noise=null"),
    "stochastic_depth, removal": ("stochastic_depth is given, and filters shall be pruned", "stochastic_depth=null"),
}
VALUES = {
    "compile": True,
    "devices": 2,
    "stochastic_depth": StochasticDepth(),
    "quant_noise": {"phi": "int8", "p": 0.5},
    "distill": {"teacher": "train"},
    "snapshots": [0.5],
    "pruning": Pruning(SFP(share=0.3), (1, 8, 8)),
    "removal": Pruning(Iterative(filters=1), (1, 8, 8)),
}


def test_recipes_refuse_what_does_not_go_together():
    plain = Recipe(epochs=1, optimizer=SGD)
    refused = {}
    for first, second in itertools.combinations(VALUES, 2):
        if (first, second) == ("pruning", "removal"):
            continue
        options = {"pruning" if name == "removal" else name: VALUES[name] for name in (first, second)}
        try:
            replace(plain, **options)
        except ValueError as error:
            refused[f"{first}, {second}"] = str(error)
    assert sorted(refused) == sorted(TOGETHER)
    for names, (begins, ends) in TOGETHER.items():
        assert refused[names].startswith(begins)
        assert refused[names].endswith(f": set {ends}")


def test_parts_are_those_that_a_recipe_names_in_the_order_of_a_step():
    assert Recipe(epochs=1, optimizer=SGD).parts == []
    options = {"snapshots": [0], "distill": {"teacher": "a"}, "regularizer": Regularizer({})}
    options |= {"quant_noise": {"phi": "int8", "p": 1.0}, "stochastic_depth": {"last": 0.8}}
    recipe = Recipe(epochs=1, optimizer=SGD, **options)
    assert [part.name for part in recipe.parts] == [
        "stochastic_depth",
        "penalties",
        "quant_noise",
        "distill",
        "snapshots",
    ]
    assert (recipe.stochastic_depth, recipe.distill) == (StochasticDepth(last=0.8), Distillation(teacher="a"))
    assert recipe.quant_noise == QuantNoise(phi="int8", p=1.0)
