# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From MACs to milliseconds
#
# Users of a small network buy milliseconds, and half of the multiply-accumulates (MACs) are seldom half of the time.
# This page looks at why, on one small network and on the machine that it runs on: it measures layers at their ranks in
# ONNX Runtime, makes time a budget, checks the prediction against the whole network, and takes the result out of the
# house as a file. The numbers are those of the machine that ran it last; the `assert` lines check only what holds on
# any.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import torch

import lowrank_exp
from lowrank_exp import allocate, factorize_, measure, profile
from lowrank_exp.decomposition import CP
from lowrank_exp.models import cifar_resnet
from lowrank_exp.rank import TimeStore
from lowrank_exp.runtime import installed_runtimes, runtime_named, time_interleaved

torch.set_num_threads(1)
torch.manual_seed(0)
plt.rcParams.update({"figure.dpi": 150, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3})

network = cifar_resnet(depth=8).eval()
image = torch.rand(1, 3, 32, 32)
runtime = runtime_named("onnxruntime", threads=1)
print({name: runtime.describe()[name] for name in ("name", "threads", "precision", "instruction_set", "winograd")})

# %% [markdown]
# ## What a rank takes
#
# `profile(..., runtime=...)` measures every dense layer and every decomposition at the ranks where its time can fall:
# multiples of the block of channels that kernels take together, and a few below. A rank that takes no less time than a
# higher one is dropped, since the higher one is accuracy for nothing. Times are kept in the store: asked again, nothing
# is measured. Merged CP writes a 3 x 3 layer as 1 x 1, 3 x 3 depthwise, 1 x 1.

# %%
times = TimeStore(Path(tempfile.mkdtemp()))
choices = ["spatial_svd", CP(spatial="merged")]
layers = profile(network, image, choices, runtime=runtime, times=times)
again = profile(network, image, choices, runtime=runtime, times=times)
assert [layer.latency for layer in again.values()] == [layer.latency for layer in layers.values()]

names = ["layer1.0.conv1", "layer3.0.conv2"]
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
for axis, name in zip(axes, names, strict=True):
    layer = layers[name]
    for one in layer.alternatives:
        assert (np.diff(one.rank_latency) > 0).all()
        axis.plot(one.rank_macs / layer.macs, one.rank_latency / layer.latency, "o-", label=one.decomposition)
    axis.plot([0, 1], [0, 1], color="gray", linestyle=":", label="time in proportion")
    axis.set(title=name, xlabel="MACs, of dense", ylabel="time, of dense", xlim=(0, 1.3), ylim=(0, 1.5))
    axis.legend()
plt.show()

# %% [markdown]
# ## Time as a budget
#
# A plan under a budget of time is found by the same exact knapsack as one under a budget of MACs. Both are made here
# for half, and both networks are timed beside the dense one, pass by pass in turn.

# %%
by_macs = allocate(profile(network, image, "spatial_svd"), macs=0.5)
by_time = allocate(layers, latency=0.7)
assert 0.495 <= by_macs.remaining("macs") <= 0.505
assert by_time.remaining("latency") <= 0.707


def made(plan):
    small = cifar_resnet(depth=8).eval()
    small.load_state_dict(network.state_dict())
    return factorize_(small, plan)


networks = {"dense": network, "half of the MACs": made(by_macs), "0.7 of the time": made(by_time)}
prepared = {name: runtime.prepare(one, image) for name, one in networks.items()}
measured = time_interleaved(prepared, seconds=0.5)
for name, timing in measured.items():
    macs = measure(networks[name], image, seconds=0).macs
    faster = measured["dense"].median_ms / timing.median_ms
    print(f"{name:17} {macs:12,} MACs  {timing.median_ms:.4f} ms  ({faster:.2f} x)")
print(f"predicted of the plan by time: {by_time.predicted_ms:.4f} of {by_time.dense_ms:.4f} ms")

# %% [markdown]
# What the plan has chosen, and why:

# %%
for name, layer in by_time.layers.items():
    print(f"{name:22} {layer.decomposition or 'dense':12} {layer.rank or '-':>4}  {layer.reason}")

# %% [markdown]
# ## The same network elsewhere
#
# Each runtime has kernels of its own. A plan is best where it was measured; it runs everywhere.

# %%
for name in installed_runtimes():
    if name == "compile":  # takes seconds to compile; not on this page
        continue
    other = runtime_named(name, threads=1)
    both = {"dense": other.prepare(network, image), "small": other.prepare(networks["0.7 of the time"], image)}
    pair = time_interleaved(both, seconds=0.3)
    dense, small = pair["dense"].median_ms, pair["small"].median_ms
    print(f"{name:12} dense {dense:.4f} ms, small {small:.4f} ms: {dense / small:.2f} x")

# %% [markdown]
# ## Out of the house
#
# The file is read back and compared with the network before it takes its name; plain ONNX Runtime executes it for any
# number of images.

# %%
path = Path(tempfile.mkdtemp()) / "small.onnx"
exported = lowrank_exp.export(networks["0.7 of the time"], path, image, images=torch.rand(8, 3, 32, 32))
assert exported.difference < 1e-4
session = onnxruntime.InferenceSession(path)
x = torch.rand(3, 3, 32, 32)
(got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
with torch.no_grad():
    expected = networks["0.7 of the time"](x).numpy()
np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)
print(f"{exported.bytes:,} bytes, opset {exported.opset}, outputs differ by {exported.difference:.1e} of the largest")
