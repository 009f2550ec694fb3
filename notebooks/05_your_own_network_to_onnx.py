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
# # From a network of your own to a faster ONNX file
#
# In fifteen minutes: a network that you have written and trained, and images like those it will see, become a file that
# ONNX Runtime executes faster. Nothing is trained again and no label is needed; test images are looked at once, at the
# end. Milliseconds are those of the machine that ran this page last; the `assert` lines check what holds on any.

# %%
import copy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import nn

import lowrank_exp
from lowrank_exp import allocate, factorize_, profile, with_errors
from lowrank_exp.runtime import runtime_named, time_interleaved

torch.set_num_threads(1)
torch.manual_seed(0)
plt.rcParams.update({"figure.dpi": 150, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3})

# %% [markdown]
# ## The network
#
# Any `nn.Module` that takes one tensor will do; it need not know anything of this package. Yours is trained already;
# this one is now, on scikit-learn's handwritten digits: 1,200 images for training, 200 to decide by, 397 for the end.


# %%
def block(channels_in, channels_out):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class MyNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(block(1, 48), block(48, 64), nn.MaxPool2d(2), block(64, 96), block(96, 96))
        self.classifier = nn.Linear(96, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean(dim=(2, 3)))


digits = load_digits()
order = torch.randperm(len(digits.target))
images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
labels = torch.tensor(digits.target)[order]
train, decide, test = slice(0, 1200), slice(1200, 1400), slice(1400, None)

network = MyNetwork()
optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
epochs = 6
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * 19)
for _ in range(epochs):
    for some in torch.randperm(1200).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[train][some]), labels[train][some]).backward()
        optimizer.step()
        schedule.step()
network.eval()


@torch.no_grad()
def accuracy(network, part):
    return float((network(images[part]).argmax(1) == labels[part]).float().mean())


dense_accuracy = accuracy(network, decide)
assert 0.95 < dense_accuracy <= 1.0
print(f"dense: {dense_accuracy:.2%} of the images to decide by")

# %% [markdown]
# ## What could be done to each layer
#
# `profile` asks two decompositions what they offer for every layer, and measures on your runtime what each rank takes.
# `with_errors` measures on training images, without labels, how far the answers of the layer would be off. Merged CP
# (`lowrank_exp.decomposition.CP`) is often better still, and takes longer to fit.

# %%
image = images[:1]
runtime = runtime_named("onnxruntime", threads=1)
seen = images[train][:600].split(200)
layers = profile(network, image, ["spatial_svd", "tucker2"], runtime=runtime)
layers = with_errors(layers, network, seen, fit="whitened")
for name, layer in layers.items():
    if layer.macs:  # what lies between the layers has a line of its own in the plan
        offers = ", ".join(f"{one.decomposition} {len(one.ranks)}" for one in layer.alternatives)
        print(f"{name:16} {layer.macs:9,} MACs, ranks worth a look: {offers}")

# %% [markdown]
# ## A budget of time
#
# The knapsack takes for every layer the decomposition and the rank that lose least together, within a share of the
# dense network's time. Budgets are tried from small to large, and the images to decide by say which one is good enough:
# here a point may be lost. Factors are fitted to the training images, one layer after the other.

# %%
MOST_LOST = 0.01
for share in (0.5, 0.6, 0.7, 0.8, 0.9):
    try:
        plan = allocate(layers, latency=share, metric="response")
    except ValueError as error:  # no ranks are so fast
        print(f"{share}: {str(error).partition(':')[0]}")
        continue
    small = factorize_(copy.deepcopy(network), plan, batches=seen, reconstruct="whitened", asymmetric=True)
    found = accuracy(small, decide)
    print(f"{share} of the time: {found:.2%}")
    if found >= dense_accuracy - MOST_LOST:
        break

print(plan)
assert plan.remaining("latency") <= 1
assert found >= dense_accuracy - MOST_LOST

# %% [markdown]
# ## The file
#
# It is read back and compared with the network on real images before it takes its name. What executes it needs neither
# this package nor torch.

# %%
path = Path(tempfile.mkdtemp()) / "small.onnx"
exported = lowrank_exp.export(small, path, image, images=images[decide])
assert exported.difference < 1e-4

session = onnxruntime.InferenceSession(path)
(answers,) = session.run(None, {session.get_inputs()[0].name: images[test].numpy()})
file_accuracy = float((answers.argmax(1) == labels[test].numpy()).mean())
assert np.isclose(file_accuracy, accuracy(small, test), atol=0.003)
assert 0.9 < file_accuracy <= 1.0
print(f"test images: dense {accuracy(network, test):.2%}, the file {file_accuracy:.2%}")

# %% [markdown]
# ## Is it faster?
#
# Both networks are timed in turn, pass by pass, so that a busy moment of the machine falls on both.

# %%
timed = time_interleaved(
    {"dense": runtime.prepare(network, image), "small": runtime.prepare(small, image)}, seconds=1.0
)
dense_ms, small_ms = timed["dense"].median_ms, timed["small"].median_ms
print(f"dense {dense_ms:.4f} ms, small {small_ms:.4f} ms: {dense_ms / small_ms:.2f} x")
print(f"predicted {plan.predicted_ms:.4f} ms; {plan.remaining('macs'):.0%} of the MACs remain")

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 1.9), sharey=True)
left.barh(["small", "dense"], [small_ms, dense_ms], color=["#D55E00", "#56B4E9"])
left.set(xlabel="milliseconds of an image, ONNX Runtime, one thread")
right.barh(["small", "dense"], [100 * file_accuracy, 100 * accuracy(network, test)], color=["#D55E00", "#56B4E9"])
right.set(xlabel="test accuracy, %", xlim=(80, 100))
plt.show()

# %% [markdown]
# Where to go from here: `lowrank-exp method=fastest` does the same for networks of ours, of torchvision, of timm or of
# your own, with fine-tuning if you want it, and leaves a report; see *From MACs to milliseconds*. If the file is not
# faster, the page of questions says where to look.
