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
# # What low rank does to a convolution
#
# One trained convolution, taken apart: as a matrix product, by its singular values, into pairs of thin filters. The
# `assert` lines check what the text says, so the page fails where it is wrong.
#
# Letters: O out channels, I in channels, K x K kernel, R rank. One multiply-accumulate (MAC) counts 1. All times are
# for one thread.

# %%
import math
import warnings
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from lowrank_exp import measure
from lowrank_exp.data import Digits
from lowrank_exp.decomposition import CP, ChannelSVD, SpatialSVD, Tucker2, recompose
from lowrank_exp.decomposition.im2col import Im2Col, toeplitz
from lowrank_exp.machine.cores import machine
from lowrank_exp.models import lenet5
from lowrank_exp.training import Recipe, evaluate, fit_
from lowrank_exp.training.schedules import cosine

torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 150, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3})
generator = torch.Generator().manual_seed(0)


def relative(got, wanted):
    return float((got - wanted).detach().norm() / wanted.detach().norm())


# %% [markdown]
# ## A trained network
#
# LeNet-5 on scikit-learn's handwritten digits, ten epochs. The layer we look at is `conv2`: 6 maps in, 16 out, 5 x 5.

# %%
torch.manual_seed(0)
network = lenet5()
data = Digits(num_classes=10, mean=(0.305,), std=(0.376,))
data.adapt((1, 32, 32))
data.setup()
recipe = Recipe(
    epochs=10,
    optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=partial(cosine, warmup=0.1),
)
fit_(network, data.train_loader(64, seed=0), None, recipe, seed=0, device="cpu", progress=False)
network.eval().requires_grad_(False)
dense_accuracy = evaluate(network, data.test_loader(359), device="cpu").accuracy
assert 0.9 < dense_accuracy < 1

images = next(iter(data.test_loader(64)))[0]
maps = F.max_pool2d(F.relu(network.conv1(images)), 2)  # what conv2 gets
layer = network.conv2
wanted = layer(maps)
print(layer, f"on {tuple(maps.shape)}; accuracy of the network: {dense_accuracy:.1%}")

# %% [markdown]
# ## The convolution as one matrix product
#
# *Unfold* copies, for every place on which the kernel can lie, the I K K pixels under it into a column. The product
# of the O x IKK matrix of filters with these columns is the convolution. *Fold* only changes the shape: output pixels
# do not overlap.

# %%
columns = F.unfold(maps, 5)
product = layer.weight.flatten(1) @ columns + layer.bias[:, None]
by_hand = product.unflatten(2, (10, 10))
assert columns.shape == (64, 6 * 25, 10 * 10)
assert relative(by_hand, wanted) < 1e-5
assert relative(Im2Col(layer)(maps), wanted) < 1e-5

odd = nn.Conv2d(6, 4, (3, 2), stride=(2, 1), padding=(0, 3), dilation=(1, 2), groups=2, padding_mode="reflect")
with torch.no_grad():  # the same module, with every setting that a convolution has
    assert relative(Im2Col(odd)(maps), odd(maps)) < 1e-5
print(f"{maps[0].numel()} pixels became {columns[0].numel()}: {columns.numel() / maps.numel():.1f} times as many")

# %% [markdown]
# The matrix of filters is 16 x 150, whatever the size of the image. There is another matrix: the linear map from all
# input pixels to all output pixels. It is a Toeplitz matrix (shifted copies of the same rows), and far larger.

# %%
T = toeplitz(layer, (14, 14))
assert relative(T(maps.flatten(1)), wanted.flatten(1)) < 1e-5
assert T.weight.shape == (16 * 10 * 10, 6 * 14 * 14)
assert T.weight.count_nonzero() == 2400 * 100  # every weight on every place
zeros = 1 - float(T.weight.count_nonzero()) / T.weight.numel()
print(f"conv2: {layer.weight.numel():,} weights; its Toeplitz matrix: {T.weight.numel():,} entries, {zeros:.0%} zeros")
try:
    toeplitz(nn.Conv2d(3, 64, 7, stride=2, padding=3), (224, 224))
except ValueError as error:
    print("A layer for photographs:", error)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
for axis, (title, one) in zip(
    (left, right),
    {
        "1 channel to 2, no padding": nn.Conv2d(1, 2, 3),
        "the same, stride 2, padding 1": nn.Conv2d(1, 2, 3, 2, 1),
    }.items(),
    strict=True,
):
    one.weight.data = layer.weight[:2, :1, 1:4, 1:4].clone()
    matrix = toeplitz(one, (7, 7)).weight.detach()
    most = matrix.abs().max()
    image = axis.imshow(matrix, cmap="RdBu", vmin=-most, vmax=most, interpolation="nearest")
    figure.colorbar(image, ax=axis, label="weight")
    axis.set(title=title, xlabel="input pixel (7 x 7)", ylabel="output pixel")
    axis.grid(False)
plt.show()

# %% [markdown]
# To decompose the Toeplitz matrix itself would be a mistake: its factors hold 2776 numbers for each rank, more than the
# whole kernel, and are no longer convolutions. What one decomposes is the kernel.

# %% [markdown]
# ## The kernel as a matrix, and its singular values
#
# Write the 16 x 150 matrix as $W = U S V$. Keeping the R largest singular values gives the nearest matrix of rank R,
# and the squared error is the sum of the squares left out (Eckart and Young). Two thin layers do what the cut matrix
# does: R filters of 5 x 5, then a 1 x 1 convolution. That is *channel SVD*.

# %%
W = layer.weight.flatten(1)
U, S, V = torch.linalg.svd(W, full_matrices=False)  # the third is V transposed already
ranks = range(1, len(S) + 1)
for R in ranks:
    cut = U[:, :R] * S[:R] @ V[:R]
    tail = float((S[R:] ** 2).sum())
    assert math.isclose(float((cut - W).square().sum()), tail, rel_tol=1e-3, abs_tol=1e-9 * float(W.square().sum()))
    chain = ChannelSVD().factorize(layer, R)
    assert relative(recompose(chain).weight.flatten(1), cut) < 1e-5  # the same kernel ...
    assert relative(chain(maps), Im2Col(layer, R)(maps)) < 1e-4  # ... and the same output as two matrix products
assert relative(ChannelSVD().factorize(layer, 16)(maps), wanted) < 1e-5  # at full rank nothing is lost

# %% [markdown]
# Is a trained kernel nearer to low rank than any other? Beside it is a random kernel of the same size and norm.

# %%
noise = torch.randn(W.shape, generator=generator)
S_noise = torch.linalg.svdvals(noise * W.norm() / noise.norm())
kept = (S**2).cumsum(0) / (S**2).sum()
kept_noise = (S_noise**2).cumsum(0) / (S_noise**2).sum()
assert 0.5 < kept_noise[7] < kept[7] < 1  # rank 8 of 16

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.plot(ranks, S, "o-", label="trained")
left.plot(ranks, S_noise, "s--", label="random")
left.set(title="singular values", xlabel="index", ylabel="singular value", ylim=0)
right.plot(ranks, (1 - kept).clamp(min=0).sqrt(), "o-", label="trained")
right.plot(ranks, (1 - kept_noise).clamp(min=0).sqrt(), "s--", label="random")
right.set(title="relative error at each rank", xlabel="rank", ylabel="relative error of the kernel", ylim=0)
left.legend()
plt.show()
print(f"rank 8 keeps {kept[7]:.0%} of the trained kernel's energy and {kept_noise[7]:.0%} of the random one's")

# %% [markdown]
# ## Separable filters
#
# A K x K filter of matrix rank 1 is a column times a row: a K x 1 filter, then a 1 x K filter, 2K multiplications in
# the place of K². Sobel's filter is one. Laplace's has rank 2: it is *exactly* two such pairs, added.

# %%
sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
laplace = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])
assert (torch.linalg.matrix_rank(sobel), torch.linalg.matrix_rank(laplace)) == (1, 2)
picture = images[:1]
for filter_, pairs in ((sobel, 1), (laplace, 2)):
    u, s, v = torch.linalg.svd(filter_)
    sum_of_pairs = sum(
        F.conv2d(F.conv2d(picture, (u[:, r] * s[r]).view(1, 1, 3, 1)), v[r].view(1, 1, 1, 3)) for r in range(pairs)
    )
    assert relative(sum_of_pairs, F.conv2d(picture, filter_[None, None])) < 1e-5

# %% [markdown]
# A layer has O I slices of K x K. There are two ways to make them separable.
#
# * *Slice by slice*: an SVD for each slice. Every slice has a column and a row of its own; nothing is shared.
# * *Spatial SVD*: one SVD of the matrix with rows (in channel, kernel row) and columns (kernel column, out channel). R
#   columns and R rows are shared by all slices.
#
# With the same number of weights, sharing wins:

# %%
u, s, v = torch.linalg.svd(layer.weight)  # 16 x 6 matrices of 5 x 5 at once
slices = u[..., :1] * s[..., None, :1] @ v[..., :1, :]
slice_error, slice_weights = relative(slices, layer.weight), 16 * 6 * (5 + 5)

spatial = SpatialSVD()
R = slice_weights // int(spatial.rank_weights(layer, [1])[0])
chain = spatial.factorize(layer, R)
spatial_error = relative(recompose(chain).weight, layer.weight)
assert int(spatial.rank_weights(layer, [R])[0]) <= slice_weights < layer.weight.numel()
assert 0.1 < spatial_error < slice_error < 0.9
print(f"slice by slice, rank 1: {slice_weights} weights, error {slice_error:.2f}")
print(f"spatial SVD, rank {R}:    {int(spatial.rank_weights(layer, [R])[0])} weights, error {spatial_error:.2f}")
print(chain)

# %%
vertical, horizontal = chain[0].weight, chain[1].weight  # (R, I, 5, 1) and (O, R, 1, 5)
o, i = divmod(int(layer.weight.square().sum((2, 3)).argmax()), 6)  # the strongest slice
approximated = recompose(chain).weight[o, i]
pictures = {
    f"slice (o {o}, i {i})": layer.weight[o, i],
    "its own rank 1": slices[o, i],
    f"spatial SVD, R = {R}": approximated,
    f"{R} columns of i {i}": vertical[:, i, :, 0].T,
    f"{R} rows of o {o}": horizontal[o, :, 0, :],
}
names = [("kernel column", "kernel row")] * 3 + [("rank", "kernel row"), ("kernel column", "rank")]
figure, axes = plt.subplots(1, len(pictures), figsize=(12, 2.6))
for axis, (title, picture), (across, down) in zip(axes, pictures.items(), names, strict=True):
    image = axis.imshow(picture, cmap="RdBu", vmin=-picture.abs().max(), vmax=picture.abs().max())
    figure.colorbar(image, ax=axis, shrink=0.6, label="weight")
    axis.set(title=title, xlabel=across, ylabel=down, xticks=[], yticks=[])
    axis.grid(False)
plt.show()

# %% [markdown]
# ## Tucker-2 and CP
#
# Two more ways cut the four-way array itself. *Tucker-2* (Kim et al. 2016) compresses the in and the out channels: a
# 1 x 1 convolution, a small K x K one, the core, and a 1 x 1 one. It has two ranks.

# %%
tucker = Tucker2().factorize(layer, (4, 8))
print(tucker)
tucker_error = relative(recompose(tucker).weight, layer.weight)
assert 0.2 < tucker_error < 0.8
assert relative(Tucker2().factorize(layer, Tucker2().full_rank(layer))(maps), wanted) < 1e-4
print(f"{int(Tucker2().rank_weights(layer, [(4, 8)])[0])} weights, error {tucker_error:.2f}")

# %% [markdown]
# *CP* (Lebedev et al. 2015) goes furthest: the kernel is a sum of R products of four vectors, one per side.
# In the four layers each kernel axis stands alone; the two in the middle are depthwise.

# %%
cp = CP().factorize(layer, 24)
print(cp)
cp_error = relative(recompose(cp).weight, layer.weight)
assert 0.2 < cp_error < 0.8
print(f"{int(CP().rank_weights(layer, [24])[0])} weights, error {cp_error:.2f}")

# %% [markdown]
# ## Error against size
#
# Left: the error of the kernel. Right: the accuracy of the network with `conv2` replaced, nothing trained afterwards.

# %%
decompositions = (ChannelSVD(), SpatialSVD(), Tucker2(), CP())
curves = {}
for decomposition in decompositions:
    ladder = decomposition.ladder(layer)
    sizes = decomposition.rank_weights(layer, ladder) / layer.weight.numel()
    chosen = sorted({int(np.abs(sizes - size).argmin()) for size in np.linspace(0.05, 1.1, 8)})
    curve = []
    for index in chosen:
        chain = decomposition.factorize(layer, ladder[index])
        network.conv2 = chain
        accuracy = evaluate(network, data.test_loader(359), device="cpu").accuracy
        curve.append((sizes[index], relative(recompose(chain).weight, layer.weight), accuracy))
    curves[decomposition.name] = np.array(curve)
network.conv2 = layer

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
for name, curve in curves.items():
    left.plot(curve[:, 0], curve[:, 1], "o-", label=name)
    right.plot(curve[:, 0], 100 * curve[:, 2], "o-", label=name)
right.axhline(100 * dense_accuracy, color="black", linestyle=":", label="dense")
left.set(title="the kernel of conv2", xlabel="share of the dense weights", ylabel="relative error", ylim=0)
right.set(title="the network", xlabel="share of the dense weights", ylabel="accuracy, %")
right.legend()
plt.show()
halved = {name: [np.interp(0.5, curve[:, 0], curve[:, column]) for column in (1, 2)] for name, curve in curves.items()}
for name, (error, accuracy) in halved.items():
    assert 0.1 < error < 0.6, name
    assert dense_accuracy - 0.05 < accuracy < 1, name
    print(f"{name:12} at half the weights: error {error:.2f}, accuracy {accuracy:.1%}")
assert halved["cp"][0] < halved["spatial_svd"][0] < halved["channel_svd"][0]

# %% [markdown]
# Mind the axis: at full rank the factors have *more* weights than the dense kernel. And error is not accuracy: a kernel
# that is a third off still classifies as well. So ranks are better chosen by what the network loses than by the error.
# At equal size CP comes nearest here; it pays with four layers in the place of one.

# %% [markdown]
# ## Fewer MACs need not be faster
#
# Two decompositions of two layers: `conv2`, and one as in the middle of a ResNet. Time and MACs are shares of the dense
# layer's; on the dotted line they would fall together.

# %%
wide = nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
subjects = {"conv2 (6 to 16, 5 x 5, on 14 x 14)": (layer, 6, 14), "64 to 64, 3 x 3, on 28 x 28": (wide, 64, 28)}


def shortest_ms(modules, x):
    """Milliseconds of each module; measured in turns, so that a busy moment of the machine falls on all of them."""
    with warnings.catch_warnings():  # of products outside of layers, as Im2Col's: MACs are not asked for here
        warnings.simplefilter("ignore")
        return np.min([[measure(module, x, seconds=0.005).latency_ms for module in modules] for _ in range(5)], axis=0)


def at_ranks(decomposition, dense):
    full = decomposition.full_rank(dense)
    return [decomposition.factorize(dense, max(1, full // part)) for part in (16, 8, 4, 2)]


print(f"torch {torch.__version__}, one thread of {machine()}")
shares = {}  # (title, batch, name): rows of share of MACs, share of time
for title, (dense, channels, side) in subjects.items():
    pairs = {d.name: at_ranks(d, dense) for d in (ChannelSVD(), SpatialSVD())}
    chains = [chain for ranked in pairs.values() for chain in ranked]
    for batch in (1, 8):
        x = torch.randn(batch, channels, side, side, generator=generator)
        dense_ms, im2col_ms, *ms = shortest_ms([dense, Im2Col(dense), *chains], x)
        macs = [measure(chain, x, seconds=0).macs / measure(dense, x, seconds=0).macs for chain in chains]
        rows = np.column_stack([macs, np.array(ms) / dense_ms])
        shares |= {(title, batch, name): part for name, part in zip(pairs, np.split(rows, len(pairs)), strict=True)}
        shares[title, batch, "im2col"] = np.array([[1.0, im2col_ms / dense_ms]])

figure, panels = plt.subplots(1, 2, figsize=(9, 3.6))
for (title, batch, name), points in shares.items():
    panel = panels[list(subjects).index(title)]
    style = {1: "--", 8: "-"}[batch] + {"channel_svd": "o", "spatial_svd": "s", "im2col": "X"}[name]
    panel.plot(*points.T, style, label=f"{name}, batch {batch}")
for panel, title in zip(panels, subjects, strict=True):
    panel.plot([0, 1.3], [0, 1.3], ":", color="black", label="time in proportion")
    panel.set(title=title, xlabel="share of MACs", ylabel="share of time", ylim=0)
panels[0].legend(fontsize=8)
plt.show()

narrowest = shares["64 to 64, 3 x 3, on 28 x 28", 8, "channel_svd"][0]
assert 0.05 < narrowest[0] < 0.1  # how much of the time is left hangs on the machine, and is not asserted
for (title, batch, name), points in shares.items():
    text = ", ".join(f"{x:.0%} of MACs in {y:.0%} of time" for x, y in points)
    print(f"{title}, batch {batch}, {name}:\n    {text}")

# %% [markdown]
# Four reasons:
#
# 1. **Memory.** A thin layer does little with each number it fetches, and the maps between the factors are written and
#    read once more. Below: MACs for each number that a layer reads or writes.
# 2. **A launch per layer.** Every layer costs some microseconds before its first multiplication; two layers cost two.
# 3. **Thin matrices.** Kernels compute in tiles, 8 or 16 channels wide: with 4 channels most of a tile is idle, and a
#    rank between two multiples of the width costs as much as the higher one.
# 4. **Another algorithm.** The library chooses one by the shapes. Here torch gives the 5 x 5 kernel of `conv2` to
#    oneDNN and, at batch 1, the 5 x 1 and 1 x 5 ones to a plain unfold and product in C++, which is quicker on so small
#    a layer. A lower rank of the same pair then gains almost nothing.
#
# The wide layer gains, though not in proportion. In `conv2` the algorithm decides, and the rank hardly matters. So:
# measure the latency where latency is what counts.


# %%
def moved(parts, x):
    """Numbers that the layers read and write: inputs, weights, outputs."""
    count = 0
    for part in parts:
        y = part(x)
        count, x = count + x.numel() + part.weight.numel() + y.numel(), y
    return count


x = torch.zeros(1, 64, 28, 28)
dense_intensity = measure(wide, x, seconds=0).macs / moved([wide], x)
print(f"dense: {dense_intensity:.0f} MACs per number moved")
for decomposition in (ChannelSVD(), SpatialSVD()):
    for R in (4, 16, 64):
        chain = decomposition.factorize(wide, R)
        intensity = measure(chain, x, seconds=0).macs / moved(chain, x)
        assert 1 < intensity < dense_intensity
        print(f"{decomposition.name}, rank {R}: {intensity:.0f}")

one, tiny = nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 1, 1)  # one multiplication: all the rest is the launch
launch = shortest_ms([one], tiny)[0] * 1e3
assert 0.1 < launch < 1000
print(f"a convolution of one MAC takes {launch:.0f} microseconds")

# %% [markdown]
# ### Why a convolution of one's own is mostly slower
#
# `Im2Col` does the same MACs as `nn.Conv2d`. Its matrix product alone is quick; what costs is the copy. The columns
# hold each pixel up to K x K times, are written to memory and read back, where the built-in convolution of such a layer
# fetches the pixels of one tile while it multiplies. Export to ONNX does not mend that: the copy is part of the graph.
# A decomposition has to end in ordinary convolutions. (Where the library picks badly, as for `conv2` at batch 1, the
# two come close.)

# %%
x = torch.randn(8, 64, 28, 28, generator=generator)
columns = F.unfold(x, 3, padding=1)
filters = wide.weight.flatten(1)


class Unfold(nn.Module):
    def forward(self, x):
        return F.unfold(x, 3, padding=1)


class Product(nn.Module):
    def forward(self, columns):
        return filters @ columns


built_in, own, copying = shortest_ms([wide, Im2Col(wide), Unfold()], x)
(product,) = shortest_ms([Product()], columns)
assert columns.numel() == 9 * x.numel()
assert 0.3 < own / built_in < 100
print(
    f"nn.Conv2d {built_in:.1f} ms; Im2Col {own:.1f} ms, of which unfold {copying:.1f} ms and product {product:.1f} ms"
)

# %% [markdown]
# ## Where notes on the web go wrong
#
# Found in the posts that this page retraces:
#
# * An im2col layer takes `(n + p - k + 1) // stride` of the height for both output sides, and folds with the stride:
#   right at stride 1 on square images with square kernels, an error elsewhere. It has neither dilation nor groups nor
#   bias, and blames padding for inaccuracies that padding does not cause.
# * A convolution is turned into a linear layer by counting the padded places but reading the pixels from the unpadded
#   corner: with any padding it runs past the image.
# * "U = A Aᵀ": the columns of U are the *eigenvectors* of A Aᵀ, and the singular values the roots of its eigenvalues.
# * Pairs of vectors give 0 where the filter gave -2, and the text says that accuracy is always lost. At full rank
#   nothing is: such a result is a mistake in the vectors, or a pair left out.
# * A linear layer in SVD form multiplies U, S and V together in every forward pass, and then does the dense product.
# * The number of MACs is taken for the speed; the surprise comes with the stopwatch.
