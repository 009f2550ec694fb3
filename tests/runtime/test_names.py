import importlib.util
import shutil
import sys
import types
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from lowrank_exp.runtime import Prepared, Runtime, installed_runtimes, runtime_named
from lowrank_exp.runtime.names import runtimes_by_name
from lowrank_exp.runtime.onnxruntime import OnnxRuntime


class Doubled(Prepared):
    def __init__(self, network, example, conditions):
        self.network, self.example, self.conditions = network, example, conditions

    def __call__(self, x):
        return 2 * self.network(x)

    def run(self):
        self(self.example)


@dataclass(frozen=True, kw_only=True)
class Own(Runtime):
    name: ClassVar[str] = "own"

    def prepare(self, network, example):
        return Doubled(network, example, self.describe())

    def describe(self):
        return {"name": self.name, "threads": self.thread_count}


@dataclass(frozen=True, kw_only=True)
class WithoutDescribe(Runtime):
    name: ClassVar[str] = "half"

    def prepare(self, network, example):
        return Doubled(network, example, {})


@pytest.fixture
def own_package(monkeypatch):
    module = types.ModuleType("my_runtimes")
    module.Own, module.WithoutDescribe, module.function = Own, WithoutDescribe, print
    monkeypatch.setitem(sys.modules, "my_runtimes", module)


def test_all_runtimes_are_known_by_the_names_that_they_say():
    assert sorted(runtimes_by_name()) == ["compile", "eager", "onnxruntime", "openvino"]
    assert installed_runtimes() == ["compile", "eager", "onnxruntime", "openvino"]
    for name in installed_runtimes():
        assert runtime_named(name).name == name
        assert runtime_named(name).threads is None
        assert runtime_named(name, threads=3).describe()["threads"] == 3
        assert runtime_named(name).describe()["threads"] == torch.get_num_threads()
    assert runtime_named("onnxruntime", threads=2) == OnnxRuntime(threads=2)


def test_one_of_ones_own_goes_by_its_import_path(own_package):
    runtime = runtime_named("my_runtimes.Own", threads=2)
    assert runtime == Own(threads=2)
    x = torch.randn(2, 3)
    prepared = runtime.prepare(nn.Identity(), x)
    assert torch.equal(prepared(x), 2 * x)
    assert prepared.conditions == {"name": "own", "threads": 2}
    assert prepared.kernel_times(3) is None
    assert "own" not in installed_runtimes()


def test_what_is_not_a_runtime_is_refused(own_package):
    known = "compile, eager, onnxruntime, openvino"
    for name, message in {
        "tvm": f"unknown runtime 'tvm'; known: {known}. One of your own is named by its import path, such as my_pac",
        "nowhere.Own": f"cannot be imported .*must be installed or lie in the working directory.*{known}",
        "my_runtimes.Other": "cannot be imported .*no attribute 'Other'",
        "my_runtimes.function": "'my_runtimes.function' is not one: it must be a class that inherits from",
        "my_runtimes.WithoutDescribe": "cannot be made with threads=None .*abstract.* defines prepare and describe",
    }.items():
        with pytest.raises(ValueError, match=message):
            runtime_named(name)
    for threads in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"threads={threads} must be an integer of at least 1"):
            runtime_named("eager", threads=threads)


def test_a_runtime_that_is_not_installed_names_the_extra_that_brings_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *of: find(name, *of) if name != "openvino" else None)
    assert installed_runtimes() == ["compile", "eager", "onnxruntime"]
    with pytest.raises(ValueError, match=r"openvino cannot be used here: .*pip install 'lowrank_exp\[openvino\]'"):
        runtime_named("openvino")


def test_compile_asks_for_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CXX", "my-c++ -O2")
    assert "compile" not in installed_runtimes()
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, and there is no my-c\+\+ -O2: install it"):
        runtime_named("compile")
