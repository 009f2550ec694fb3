"""The width multiplier: all layers of a network made thinner or wider together."""

from lowrank_exp.checks import positive


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """`width * channels`, rounded to the nearest multiple of `multiple`, at least one multiple.

    A grouped convolution needs `multiple` = its groups. 1.0 keeps the channels that are a multiple already.

    Raises:
        ValueError: unless `width` is a number above 0.

    >>> scaled(96, 1.0), scaled(96, 0.25), scaled(96, 0.001), scaled(96, 0.3, multiple=2)
    (96, 24, 1, 28)
    """
    allowed = "it must be a number above 0 (1.0: the paper's channels, 0.5: half)"
    positive("width", width, f"width={width!r}, but {allowed}")
    return multiple * max(1, round(width * channels / multiple))
