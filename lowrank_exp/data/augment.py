"""Random crop with padding, horizontal flip, normalisation and cutout of whole batches.

In NumPy, on one core: torch would open a parallel region for every step of a batch, and where jobs share the cores
that waiting costs many times the work.

Shapes: N images, B of them in a batch, C channels, H height, W width, P padding, L side of the cutout.
"""

import numpy as np
import torch
from torch import Tensor

# With (seed, epoch) the name of a random stream: 0 is the order (`batches.py`), 1 crop and flip.
CUTOUT_STREAM = 3


def draw_augmentation(count: int, seed: int, epoch: int, crop_padding: int, flip: bool) -> Tensor:
    """Draw one epoch's augmentation of every image: a table indexed by image, whatever the batches are.

    Args:
        count: number of images.
        seed: seed of the experiment, at least 0.
        epoch: counted from 0.
        crop_padding: P, zero pixels added on every side before cropping back.
        flip: whether each image is mirrored with probability one half.

    Returns:
        int64 `(count, 3)`: dy and dx, uniform in `0 .. 2 P`, and flip, 0 or 1. A function of the arguments
        only; no global random state is read or advanced.

    >>> draw_augmentation(2, seed=0, epoch=0, crop_padding=0, flip=False).tolist()
    [[0, 0, 0], [0, 0, 0]]
    """
    rng = np.random.default_rng((seed, epoch, 1))
    table = np.zeros((count, 3), dtype=np.int64)
    table[:, :2] = rng.integers(0, 2 * crop_padding + 1, size=(count, 2))
    if flip:
        table[:, 2] = rng.integers(0, 2, size=count)
    return torch.from_numpy(table)


def crop_and_flip(images: Tensor, rows: Tensor, offsets: Tensor, crop_padding: int) -> Tensor:
    """Take images out of a tensor, pad with zeros, crop back to the size at (dy, dx), mirror left to right where asked.

        out[b, c, y, x] = padded[rows_b, c, dy_b + y, dx_b + (W - 1 - x if flip_b else x)]

    Nothing is padded in fact: of every image the window that stays in sight is copied into zeros. One copy per image
    is faster than a gather with index tensors (over two times at 3x32x32) and needs no thread pool.

    Args:
        images: `(N, C, H, W)`.
        rows: int64 `(B,)`, which images.
        offsets: int64 `(B, 3)`: dy, dx in `0 .. 2 P`, and flip, as from `draw_augmentation`.
        crop_padding: P.

    Returns:
        `(B, C, H, W)` of the type of `images`: per image what torchvision's `pad`, `crop` and `hflip` give.

    >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
    >>> crop_and_flip(image, torch.tensor([0]), torch.tensor([[0, 1, 1]]), crop_padding=1).tolist()
    [[[[0, 0], [2, 1]]]]
    """
    source_NCHW = images.numpy()
    _, C, H, W = source_NCHW.shape
    out_BCHW = np.zeros((len(rows), C, H, W), dtype=source_NCHW.dtype)
    vertical, horizontal = _windows(H, crop_padding), _windows(W, crop_padding)
    for out_CHW, row, (dy, dx, flip) in zip(out_BCHW, rows.tolist(), offsets.tolist(), strict=True):
        (from_y, to_y), (from_x, to_x) = vertical[dy], horizontal[dx]
        mirrored_CHW = out_CHW[:, :, ::-1] if flip else out_CHW
        mirrored_CHW[:, to_y, to_x] = source_NCHW[row, :, from_y, from_x]
    return torch.from_numpy(out_BCHW)


def _windows(side: int, crop_padding: int) -> list[tuple[slice, slice]]:
    """For every offset `0 .. 2 P` along a side: what is seen of the image, and where it lands in the output."""
    shifts = range(-crop_padding, crop_padding + 1)
    return [
        (slice(min(side, max(0, shift)), max(0, side + min(0, shift))),
         slice(min(side, max(0, -shift)), max(0, side - max(0, shift))))
        for shift in shifts
    ]  # fmt: skip


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """float32 `(x / 255 - mean) / std` of uint8 images `(B, C, H, W)`; `mean`, `std` are `(C, 1, 1)`, in
    0..1.

    The same operations in the same order as torchvision's `to_tensor` and `normalize`.

    >>> white = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
    >>> normalise(white, mean=torch.tensor([[[0.5]]]), std=torch.tensor([[[0.25]]]))
    tensor([[[[2.]]]])
    """
    out_BCHW = np.divide(images.numpy(), np.float32(255), dtype=np.float32)
    out_BCHW -= mean.numpy()
    out_BCHW /= std.numpy()
    return torch.from_numpy(out_BCHW)


def draw_cutout(count: int, seed: int, epoch: int, height: int, width: int) -> Tensor:
    """Draw one epoch's centre of the cutout in every image: a table indexed by image, whatever the batches are.

    The stream is not that of `draw_augmentation`: crops and flips are the same with cutout and without.

    Args:
        count: number of images.
        seed: seed of the experiment, at least 0.
        epoch: counted from 0.
        height, width: H and W.

    Returns:
        int64 `(count, 2)`: y uniform in `0 .. H - 1`, x uniform in `0 .. W - 1`. A function of the arguments only.

    >>> draw_cutout(2, seed=0, epoch=0, height=1, width=1).tolist()
    [[0, 0], [0, 0]]
    """
    rng = np.random.default_rng((seed, epoch, CUTOUT_STREAM))
    return torch.from_numpy(rng.integers(0, (height, width), size=(count, 2), dtype=np.int64))


def cut_out_(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Set a square of every image to zero, in all channels, in place: cutout.

        out[b, c, y, x] = 0  where  -(L // 2) <= y - y_b < L - L // 2  and  -(L // 2) <= x - x_b < L - L // 2

    What of the square lies outside the image is cut off, so the part that is hidden differs from image to image.
    After normalisation zero is the mean.

    Args:
        images: `(B, C, H, W)`, changed.
        centres: int64 `(B, 2)`: y and x, as from `draw_cutout`.
        side: L, at least 1.

    Returns:
        `images`.

    Source: DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout",
    arXiv 1708.04552, section 3.

    >>> cut_out_(torch.ones(1, 1, 3, 4), torch.tensor([[0, 2]]), side=2)[0, 0].tolist()
    [[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    before, after = side // 2, side - side // 2
    for image_CHW, (y, x) in zip(images.numpy(), centres.tolist(), strict=True):
        image_CHW[:, max(0, y - before) : y + after, max(0, x - before) : x + after] = 0
    return images
