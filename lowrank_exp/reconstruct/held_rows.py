r"""Second moments of rows too long for a matrix of their length squared: the rows themselves, while they are few.

Legend: G groups, P rows, D entries of a row, O rows of what is multiplied; X the rows, M = X^T X / P their second
moment, which P x P numbers tell as well as D x D.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lowrank_exp.reconstruct.moments import Moments
from lowrank_exp.reconstruct.patches import row_length
from lowrank_exp.reconstruct.reduced_rank import CUTOFF

_SOLVING = 3 * 8  # bytes for every pair of rows: their products, the eigenvectors and what finding them takes


class HeldRows:
    """What `Moments` tells of one kind of rows, exactly, of rows that are held.

    They are held in float32 where that is what they are.

    Args:
        room: bytes that they may take.
        name: of the layer, for the message.

    >>> held = HeldRows(1000, "fc")
    >>> held.add(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=torch.float64))
    >>> held.times(torch.eye(2, dtype=torch.float64)[None]).tolist()
    [[[5.0, 7.0], [7.0, 10.0]]]
    """

    def __init__(self, room: int, name: str) -> None:
        self.room, self.name, self.count = room, name, 0
        self._some_GPD: list[Tensor] = []

    def add(self, x_GPD: Tensor) -> None:
        """Keep the rows.

        Raises:
            ValueError: there is no room for them.
        """
        x_GPD = x_GPD.double()
        narrow_GPD = x_GPD.float()
        self._some_GPD.append(narrow_GPD if torch.equal(narrow_GPD.double(), x_GPD) else x_GPD.clone())
        self.count += x_GPD.shape[1]
        taken = sum(some.numel() * some.element_size() for some in self._some_GPD) + _SOLVING * self.count**2
        if taken > self.room:
            G, _, D = x_GPD.shape
            raise ValueError(
                f"{self.name}: {self.count:,} rows of its {D:,} inputs take {taken:,} bytes and their second moments "
                f"{8 * G * D * D:,}, and memory={self.room:,} is allowed; take fewer images, allow more memory, or "
                f"leave the layer alone by a rule ({{{self.name}: null}})"
            )

    def finite(self) -> bool:
        return all(bool(some.isfinite().all()) for some in self._some_GPD)

    @property
    def mean_GD(self) -> Tensor:
        """E[x]."""
        return sum(rows_GPD.sum(dim=1) for rows_GPD in self.rows()) / self.count

    @property
    def second(self) -> "HeldRows":
        """M, for `times`."""
        return self

    def times(self, what_GOD: Tensor) -> Tensor:
        """What M, `(G, O, D)`."""
        return sum((what_GOD @ rows_GPD.mT) @ rows_GPD for rows_GPD in self.rows()) / self.count

    def of_responses(self, weight_GOD: Tensor, bias_GO: Tensor | None = None) -> Moments:
        """Those of the responses y = W x + b."""
        moved = Moments()
        for rows_GPD in self.rows():
            y_GPO = rows_GPD @ weight_GOD.mT
            moved.add(y_GPO if bias_GO is None else y_GPO + bias_GO[:, None])
        return moved

    def solved(self, change_GOD: Tensor, cutoff: float = CUTOFF) -> Tensor:
        r"""change (M + lambda)^+, lambda = tr(M) / (D P); eigenvalues below `cutoff` of the largest count as zero.

        .. math:: X X^\top / P = U \Lambda U^\top \;\Rightarrow\; M = V \Lambda V^\top, \quad
            V = X^\top U (P \Lambda)^{-1/2}
        """
        products_GPP = torch.cat(
            [torch.cat([one @ other.mT for other in self.rows()], dim=2) for one in self.rows()], dim=1
        )
        values_GP, U_GPP = torch.linalg.eigh(products_GPP / self.count)
        told_GP = values_GP > cutoff * values_GP[:, -1:]
        scale_GP = torch.where(told_GP, values_GP, torch.inf).rsqrt() / self.count**0.5
        along_GOP = torch.cat([change_GOD @ rows.mT for rows in self.rows()], dim=2) @ (U_GPP * scale_GP[:, None])
        ridge_G1 = values_GP.sum(dim=1, keepdim=True) / change_GOD.shape[2] / self.count
        divisor_GP = torch.where(told_GP, values_GP + ridge_G1, 1.0)
        along_GOP = along_GOP / divisor_GP[:, None] @ (U_GPP * scale_GP[:, None]).mT
        sizes = [some.shape[1] for some in self._some_GPD]
        return sum(part @ rows for part, rows in zip(along_GOP.split(sizes, dim=2), self.rows(), strict=True))

    def rows(self) -> Iterator[Tensor]:
        """All of them, `(G, P, D)`, in float64, in the parts in which they came."""
        for some_GPD in self._some_GPD:
            yield some_GPD.double()


def times(what_GOD: Tensor, second: Tensor | HeldRows) -> Tensor:
    """What M, with M `(G, D, D)` or the rows that it is of."""
    return what_GOD @ second if isinstance(second, Tensor) else second.times(what_GOD)


def second_bytes(layer: nn.Module) -> int:
    """Of the second moments of its inputs."""
    return 8 * getattr(layer, "groups", 1) * row_length(layer) ** 2


def moments_within(memory: int, name: str, layer: nn.Module) -> Moments | HeldRows:
    """For the rows of inputs of `layer`: sums where there is room for them and those of a batch, else the rows."""
    return Moments() if 2 * second_bytes(layer) <= memory else HeldRows(memory, name)
