"""What the network sees of an image: its views, its augmentation, and the scale of its pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lowrank_exp.checks import boolean, whole
from lowrank_exp.data.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Options of every `ImageData`.

    Args:
        crop_padding: zero pixels put around a training image before a random crop back to its size; 0 = no
            crop. Counted in pixels of the network's input, after any resizing, at most its smaller side.
        flip: mirror a training image left to right with probability one half.
        cutout: side in pixels of the square that is set to the mean in every training image (see `cut_out_`);
            0 = none. Counted in pixels of the network's input, at most its smaller side.
        mean: subtracted from pixels in 0..1; one value, or one per channel.
        std: divides after that; as many values as `mean`.
        resize_short, train_view, test_view, channel_order: what is stored of an image and what the network sees of
            it, see `Geometry`.

    Raises:
        ValueError: an argument is out of its range.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.5,)
    resize_short: int | None = None
    train_view: str = "whole"
    test_view: str = "whole"
    channel_order: str = "rgb"

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            number = getattr(self, name)
            whole(name, number, 0, f"data.{name}={number!r}: a whole number of at least 0 is needed")
        boolean("flip", self.flip, f"data.flip={self.flip!r}: true or false is needed")
        mean, std = self.mean, self.std
        numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in (*mean, *std))
        if not numbers or len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
            raise ValueError(
                f"data.mean={list(mean)} and data.std={list(std)}: as many finite values in each, one or three, and "
                "std above 0, are needed"
            )
        _ = self.geometry  # whose options may contradict each other

    @cached_property
    def geometry(self) -> Geometry:
        """The views."""
        return Geometry(self.resize_short, self.train_view, self.test_view, self.channel_order, self.crop_padding)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError where the augmentation is larger than images of that size."""
        for name in ("cutout", "crop_padding"):
            if (pixels := getattr(self, name)) > min(height, width):
                raise ValueError(
                    f"data.{name}={pixels} is larger than the images, {height}x{width} (height x width): at most "
                    f"{min(height, width)} is needed, 0 = none"
                )

    def normalisation(self, channels: int) -> tuple[Tensor, Tensor]:
        """Mean and std, each `(channels, 1, 1)`.

        Raises:
            ValueError: three values for grey images.
        """
        if len(self.mean) not in (1, channels):
            raise ValueError(
                f"data.mean has {len(self.mean)} values and the images have {channels} channel: give "
                "data.mean and data.std one value each, as in data.mean=[0.5]"
            )
        mean, std = (torch.tensor([float(value) for value in values]) for values in (self.mean, self.std))
        return mean.expand(channels).view(-1, 1, 1), std.expand(channels).view(-1, 1, 1)

    def decisive(self, channels: int) -> dict[str, Any]:
        """What decides the numbers that a training sees, as plain data."""
        mean, std = self.normalisation(channels)
        return {
            "mean": mean.flatten().tolist(),
            "std": std.flatten().tolist(),
            "crop_padding": self.crop_padding,
            "flip": self.flip,
            **({"cutout": self.cutout} if self.cutout else {}),  # without it: as before there was a cutout
            **self.geometry.decisive(),
        }
