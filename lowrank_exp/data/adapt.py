"""Bring decoded images to the shape that a network takes, once, on the uint8 tensor.

Shapes: N images, C channels, H height, W width; C is 1 (grey) or 3 (RGB).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lowrank_exp.checks import is_whole

Shape = tuple[int, int, int]

# Images resized at a time: keeps the temporary buffers of the resize small beside the data themselves.
CHUNK = 1024


def choose_shape(
    source: Shape, network: Shape | None, image_size: tuple[int, int] | None, channels: int | None
) -> Shape:
    """The shape (C, H, W) that the batches will have.

    A network that declares its input shape decides; without one `image_size` and `channels` do; what neither
    gives stays as the source has it.

    Args:
        source: shape of the decoded images.
        network: input shape of the network, or None where it declares none (a bare module of the user).
        image_size: `data.image_size` as (H, W), or None.
        channels: `data.channels`, or None.

    Raises:
        ValueError: colour would have to become grey, a channel count is neither 1 nor 3, or the network and
            the settings of the data contradict each other.

    >>> choose_shape((1, 8, 8), network=(3, 32, 32), image_size=None, channels=None)
    (3, 32, 32)
    >>> choose_shape((1, 8, 8), network=None, image_size=(16, 16), channels=None)
    (1, 16, 16)
    """
    if network is None:
        height, width = image_size if image_size is not None else source[1:]
        shape = (channels if channels is not None else source[0], height, width)
        remedy = "set data.channels=3 or leave it null"
    else:
        if len(network) != 3 or min(network) < 1:
            raise ValueError(f"the network's input shape must be (C, H, W) with positive entries, got {tuple(network)}")
        shape = (int(network[0]), int(network[1]), int(network[2]))
        if image_size is not None and image_size != shape[1:]:
            raise ValueError(
                f"data.image_size is {image_size[0]}x{image_size[1]} and the network takes "
                f"{shape[1]}x{shape[2]} (height x width): "
                f"set data.image_size=[{shape[1]},{shape[2]}] or leave it null"
            )
        if channels is not None and channels != shape[0]:
            raise ValueError(
                f"data.channels is {channels} and the network takes {shape[0]}: "
                f"set data.channels={shape[0]} or leave it null"
            )
        remedy = "set model.in_channels=3"
    if source[0] == 3 and shape[0] == 1:
        raise ValueError(f"the images are in colour (3 channels) and 1 channel is asked for: {remedy}")
    if shape[0] not in (source[0], 3):
        raise ValueError(
            f"the images have {source[0]} channels and {shape[0]} are asked for; "
            f"allowed: 1 (grey images) or 3: {remedy}"
        )
    return shape


def adapt_images(images: Tensor, shape: Shape) -> Tensor:
    """Resize uint8 images `(N, c, h, w)` to `shape` (C, H, W) and repeat grey to C channels.

    Resizing is bilinear with antialiasing, in the integer arithmetic that Pillow uses; the aspect ratio is
    not kept.
    Repeated channels are a view: they take no memory. Nothing is copied where nothing changes.

    >>> adapt_images(torch.full((2, 1, 8, 8), 7, dtype=torch.uint8), (3, 4, 4))[1, 2, 3].tolist()
    [7, 7, 7, 7]
    """
    count, source_channels = images.shape[:2]
    channels, height, width = shape
    if images.shape[2:] != (height, width):
        resized = torch.empty(count, source_channels, height, width, dtype=torch.uint8)
        for start in range(0, count, CHUNK):
            chunk = images[start : start + CHUNK]
            resized[start : start + CHUNK] = functional.interpolate(
                chunk, size=(height, width), mode="bilinear", antialias=True, align_corners=False
            )
        images = resized
    return images if source_channels == channels else images.expand(-1, channels, -1, -1)


def image_size_pair(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """`data.image_size` as (H, W): an int means a square.

    >>> image_size_pair(32), image_size_pair([24, 32]), image_size_pair(None)
    ((32, 32), (24, 32), None)
    """
    if image_size is None:
        return None
    pair = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(pair) != 2 or not all(is_whole(side, least=1) for side in pair):
        raise ValueError(f"data.image_size={image_size}: an int, [height, width] or null is needed, each at least 1")
    return pair
