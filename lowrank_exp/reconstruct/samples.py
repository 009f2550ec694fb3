"""Responses at random places of the first images: a sample whose size does not depend on the data."""

import torch
from torch import Tensor, nn

from lowrank_exp.reconstruct.patches import places_NPC, real


class Sample:
    """Some places of each image, the same whatever the batch size.

    Every call of the layer counts its images from the first one again where the network calls it several times, and
    the same places are drawn for all calls. Where an image has as many places as asked for or fewer, all are taken.

    Args:
        images: at most so many of the first images.
        positions: places of each image, drawn with replacement.
        seed: of the generator, which serves nothing else.
    """

    def __init__(self, images: int, positions: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.positions = positions
        self._drawn = torch.rand(images, positions, generator=generator, dtype=torch.float64)
        self._rows: list[tuple[Tensor, ...]] = []

    def add(self, layer: nn.Module, first_image: int, *outputs: Tensor) -> None:
        """Keep the sampled places of one batch; `outputs` are one layer's, in networks whose places correspond."""
        rows = []
        for y_NPC in (places_NPC(layer, real(y)) for y in outputs):
            drawn_NS = self._drawn[first_image : first_image + len(y_NPC)].to(y_NPC.device)
            y_NPC = y_NPC[: len(drawn_NS)]
            if y_NPC.shape[1] > self.positions:
                places_NS = (drawn_NS * y_NPC.shape[1]).long()
                y_NPC = y_NPC.gather(1, places_NS[:, :, None].expand(-1, -1, y_NPC.shape[2]))
            rows.append(y_NPC.flatten(0, 1).clone())
        self._rows.append(tuple(rows))

    @property
    def count(self) -> int:
        """Sampled places."""
        return sum(len(rows[0]) for rows in self._rows)

    def finite(self) -> bool:
        return all(bool(rows.isfinite().all()) for both in self._rows for rows in both)

    def rows_GPO(self, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """y and y^ in float64, each `(G, P, O)`; the same twice where `add` was given one output."""
        G = getattr(layer, "groups", 1)
        both = [torch.cat(rows).double() for rows in zip(*self._rows, strict=True)]
        rows_GPO = [rows.unflatten(1, (G, -1)).transpose(0, 1) for rows in both]
        return rows_GPO[0], rows_GPO[-1]
