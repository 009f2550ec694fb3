"""The centre square of a photograph: the shorter side resized, the longer one cut, as Resize and CenterCrop do.

Shapes: N images, C channels, H height, W width, S side of the square.
"""

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

# Images resized at a time: keeps the temporary buffers of the resize small beside the data themselves.
CHUNK = 256


def cut_centre_square(image: Image.Image, side: int) -> Image.Image:
    """Resize the shorter side of a decoded file to S (bilinear, antialiased, aspect kept) and cut the centre square.

    Pixel for pixel torchvision's `CenterCrop(S)` of `Resize(S)` of the same Pillow image.

    >>> cut_centre_square(Image.new("RGB", (40, 30)), 15).size
    (15, 15)
    """
    width, height = image.size
    new_height, new_width = resized_size(height, width, side)
    if (new_height, new_width) != (height, width):
        image = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    top, left = centre(new_height, side), centre(new_width, side)
    return image.crop((left, top, left + side, top + side))


def cut_centre_squares(images: Tensor, side: int | None) -> Tensor:
    """The same of uint8 images `(N, C, H, W)` of one size: `(N, C, S, S)`, or as they are where S is None.

    Pixel for pixel what torchvision's transforms give for tensors.

    >>> cut_centre_squares(torch.full((2, 1, 8, 6), 7, dtype=torch.uint8), 3).shape
    torch.Size([2, 1, 3, 3])
    """
    count, channels, height, width = images.shape
    if side is None or (height, width) == (side, side):
        return images
    size = resized_size(height, width, side)
    top, left = centre(size[0], side), centre(size[1], side)
    squares_NCSS = torch.empty(count, channels, side, side, dtype=images.dtype)
    for start in range(0, count, CHUNK):
        chunk = images[start : start + CHUNK]
        if size != (height, width):
            chunk = functional.interpolate(chunk, size=size, mode="bilinear", antialias=True, align_corners=False)
        squares_NCSS[start : start + CHUNK] = chunk[:, :, top : top + side, left : left + side]
    return squares_NCSS


def resized_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(H, W) after the shorter side has become `side`; the longer one is rounded down.

    >>> resized_size(375, 500, 256)
    (256, 341)
    """
    return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)


def centre(whole: int, part: int) -> int:
    """Where a centred part begins; halves are rounded to even, as torchvision's CenterCrop does.

    >>> centre(256, 227), centre(257, 224)
    (14, 16)
    """
    return round((whole - part) / 2)
