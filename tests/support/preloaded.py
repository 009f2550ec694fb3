"""What `support.forked` imports once for all of its processes. Nothing is computed: threads are not forked."""

import importlib
import pkgutil

import sklearn.datasets  # noqa: F401  a job imports it when it needs it
import torch
import torch_pruning  # noqa: F401  this too
from hydra.core.plugins import Plugins

import lowrank_exp

torch.set_num_threads(1)
for module in pkgutil.walk_packages(lowrank_exp.__path__, "lowrank_exp."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
Plugins.instance()
