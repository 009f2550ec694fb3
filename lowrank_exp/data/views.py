"""What the network sees of a stored image: all of it, a crop, or ten crops.

Every view is a box (top, left, height, width, mirrored) in the stored image, and one function cuts boxes out:

    whole                the image as it is stored (the padded crop of `augment.py` in training)
    random_crop          a box of the network's size, anywhere
    random_resized_crop  a box of random area and aspect ratio, resized to the network's size
    center_crop          the box of the network's size in the centre
    ten_crop             the boxes in four corners and the centre, then their mirror images

Shapes: n images of a split, N stored ones, B of them in a batch, V views of each, C channels; h, w the sides of a
stored image, H, W those that the network takes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lowrank_exp.data.square import centre

Size = tuple[int, int]

# Of random_resized_crop: torchvision's defaults, those of the training of most public weights.
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
ATTEMPTS = 10


@dataclass(frozen=True)
class ImageView:
    """One of the views above, for images stored as `stored` (h, w) and a network that takes `size` (H, W)."""

    name: str
    stored: Size
    size: Size

    def boxes(self, count: int, seed: int, epoch: int, flip: bool) -> Tensor:
        """int32 `(n, V, 5)` for every image of a split in one epoch: top, left, height, width, mirrored (0 or 1).

        A function of the arguments only. Random boxes are drawn per image, whatever the batches are, and are mirrored
        with probability one half where `flip`; the others are the same for every image.
        """
        if self.name == "random_crop":
            return draw_crops(count, seed, epoch, self.stored, self.size, flip)
        if self.name == "random_resized_crop":
            return draw_resized_crops(count, seed, epoch, self.stored, flip)
        fixed = place_ten_boxes if self.name == "ten_crop" else place_centre_box
        return fixed(self.stored, self.size).expand(count, -1, -1)

    def cut(self, images: Tensor, rows: Tensor, boxes: Tensor) -> Tensor:
        """`(B, C, H, W)`, or `(B, V, C, H, W)` of ten crops; see `cut_boxes`."""
        views_BVCHW = cut_boxes(images, rows, boxes, self.size)
        return views_BVCHW if self.name == "ten_crop" else views_BVCHW[:, 0]


def cut_boxes(images: Tensor, rows: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Cut boxes out of uint8 images; those of another size than `size` are resized (bilinear, antialiased).

    Args:
        images: `(N, C, h, w)`.
        rows: int64 `(B,)`, which images.
        boxes: `(B, V, 5)`: top, left, height, width, mirrored.
        size: (H, W).

    Returns:
        `(B, V, C, H, W)`: per view what torchvision's `crop`, or `resized_crop` of a tensor, and `hflip` give.

    >>> image = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]], dtype=torch.uint8)
    >>> cut_boxes(image, torch.tensor([0]), torch.tensor([[[0, 1, 1, 2, 1]]]), (1, 2)).tolist()
    [[[[[3, 2]]]]]
    """
    source_NChw = images.numpy()
    B, V = boxes.shape[:2]
    out_BVCHW = np.empty((B, V, source_NChw.shape[1], *size), dtype=source_NChw.dtype)
    for out_VCHW, row, boxes_V5 in zip(out_BVCHW, rows.tolist(), boxes.tolist(), strict=True):
        for out_CHW, (top, left, height, width, mirrored) in zip(out_VCHW, boxes_V5, strict=True):
            seen_Chw = source_NChw[row, :, top : top + height, left : left + width]
            if (height, width) != size:
                seen_Chw = _resize(seen_Chw, size)
            out_CHW[:] = seen_Chw[:, :, ::-1] if mirrored else seen_Chw
    return torch.from_numpy(out_BVCHW)


def _resize(image_Chw: np.ndarray, size: Size) -> np.ndarray:
    image_1Chw = torch.from_numpy(np.ascontiguousarray(image_Chw))[None]
    resized = functional.interpolate(image_1Chw, size=size, mode="bilinear", antialias=True, align_corners=False)
    return resized[0].numpy()


def place_centre_box(stored: Size, size: Size) -> Tensor:
    """The box of torchvision's CenterCrop, `(1, 1, 5)`.

    >>> place_centre_box((256, 256), (224, 224)).tolist()
    [[[16, 16, 224, 224, 0]]]
    """
    (h, w), (H, W) = stored, size
    return torch.tensor([[[centre(h, H), centre(w, W), H, W, 0]]], dtype=torch.int32)


def place_ten_boxes(stored: Size, size: Size) -> Tensor:
    """The boxes of torchvision's TenCrop in its order, `(1, 10, 5)`: corners and centre, then those mirrored.

    >>> place_ten_boxes((4, 4), (2, 2))[0, [1, 4, 6]].tolist()
    [[0, 2, 2, 2, 0], [1, 1, 2, 2, 0], [0, 0, 2, 2, 1]]
    """
    (h, w), (H, W) = stored, size
    corners = [(0, 0), (0, w - W), (h - H, 0), (h - H, w - W), (centre(h, H), centre(w, W))]
    straight = [(top, left, H, W, 0) for top, left in corners]
    mirrored = [(top, w - W - left, H, W, 1) for top, left in corners]
    return torch.tensor([straight + mirrored], dtype=torch.int32)


def draw_crops(count: int, seed: int, epoch: int, stored: Size, size: Size, flip: bool) -> Tensor:
    """Boxes of the network's size, uniform over all places: `(n, 1, 5)`."""
    (h, w), (H, W) = stored, size
    rng = np.random.default_rng((seed, epoch, 1))
    boxes_n5 = np.zeros((count, 5), dtype=np.int32)
    boxes_n5[:, 0] = rng.integers(0, h - H + 1, size=count)
    boxes_n5[:, 1] = rng.integers(0, w - W + 1, size=count)
    boxes_n5[:, 2:4] = size
    boxes_n5[:, 4] = _draw_mirrored(rng, count, flip)
    return torch.from_numpy(boxes_n5)[:, None]


def draw_resized_crops(count: int, seed: int, epoch: int, stored: Size, flip: bool) -> Tensor:
    """Boxes as torchvision's RandomResizedCrop draws them, out of the stored image: `(n, 1, 5)`.

        area a = h w U(0.08, 1),  log aspect r = U(log 3/4, log 4/3),  width = sqrt(a r),  height = sqrt(a / r)

    drawn again, up to ten times, until the box fits, then put uniformly over all places. What fits never is the largest
    centred box with an allowed aspect ratio.

    Differs from torchvision in training on photographs: 1. where images are stored as centre squares, boxes lie in the
    square; the ends of the longer side are never seen.
    """
    h, w = stored
    rng = np.random.default_rng((seed, epoch, 1))
    height_n, width_n = (np.full(count, side, dtype=np.int64) for side in _largest(stored))
    open_n = np.arange(count)
    for _ in range(ATTEMPTS):
        area = h * w * rng.uniform(*AREA, size=len(open_n))
        ratio = np.exp(rng.uniform(*np.log(ASPECT), size=len(open_n)))
        width, height = np.rint(np.sqrt(area * ratio)).astype(int), np.rint(np.sqrt(area / ratio)).astype(int)
        fits = (width > 0) & (width <= w) & (height > 0) & (height <= h)
        height_n[open_n[fits]], width_n[open_n[fits]] = height[fits], width[fits]
        open_n = open_n[~fits]
    top_n, left_n = rng.integers(0, h - height_n + 1), rng.integers(0, w - width_n + 1)
    top_n[open_n], left_n[open_n] = (h - height_n[open_n]) // 2, (w - width_n[open_n]) // 2
    boxes_n5 = np.stack([top_n, left_n, height_n, width_n, _draw_mirrored(rng, count, flip)], axis=1)
    return torch.from_numpy(boxes_n5.astype(np.int32))[:, None]


def _draw_mirrored(rng: np.random.Generator, count: int, flip: bool) -> np.ndarray:
    return rng.integers(0, 2, size=count) if flip else np.zeros(count, dtype=np.int64)


def _largest(stored: Size) -> Size:
    """The largest (height, width) in the stored image whose aspect ratio is allowed."""
    h, w = stored
    narrowest, widest = ASPECT
    return min(h, round(w / narrowest)), min(w, round(h * widest))
