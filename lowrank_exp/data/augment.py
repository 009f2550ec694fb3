"""Random crop with padding, horizontal flip and normalisation of whole batches.

Shapes: B images of a batch, C channels, H height, W width, P padding.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


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


def crop_and_flip(images: Tensor, offsets: Tensor, crop_padding: int) -> Tensor:
    """Pad with zeros, crop back to the size at (dy, dx), then mirror left to right where asked.

        out[b, c, y, x] = padded[b, c, dy_b + y, dx_b + (W - 1 - x if flip_b else x)]

    Args:
        images: `(B, C, H, W)`.
        offsets: int64 `(B, 3)`: dy, dx in `0 .. 2 P`, and flip, as from `draw_augmentation`.
        crop_padding: P.

    Returns:
        `(B, C, H, W)` of the type of `images`: per image what torchvision's `pad`, `crop` and `hflip` give.

    >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
    >>> crop_and_flip(image, torch.tensor([[0, 1, 1]]), crop_padding=1).tolist()
    [[[[0, 0], [2, 1]]]]
    """
    B, C, H, W = images.shape
    padded_BCL = functional.pad(images, (crop_padding,) * 4).flatten(2)
    columns_W = torch.arange(W)
    dy_B, dx_B, flip_B = offsets.unbind(1)
    y_BH = dy_B[:, None] + torch.arange(H)
    x_BW = dx_B[:, None] + torch.where(flip_B[:, None] == 1, W - 1 - columns_W, columns_W)
    place_BHW = y_BH[:, :, None] * (W + 2 * crop_padding) + x_BW[:, None, :]
    return padded_BCL.gather(2, place_BHW.view(B, 1, H * W).expand(B, C, H * W)).view(B, C, H, W)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """float32 `(x / 255 - mean) / std` of uint8 images `(B, C, H, W)`; `mean`, `std` are `(C, 1, 1)`, in
    0..1.

    The same operations in the same order as torchvision's `to_tensor` and `normalize`.

    >>> white = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
    >>> normalise(white, mean=torch.tensor([[[0.5]]]), std=torch.tensor([[[0.25]]]))
    tensor([[[[2.]]]])
    """
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)
