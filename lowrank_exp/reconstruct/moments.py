r"""First and second moments of rows, added up batch by batch in float64.

Legend: G groups, P rows (places of images), D entries of a row; x rows of the original network, x^ (`hat`) rows of the
network as compressed so far. M^ = E[x^ x^^T], C = E[x x^^T]; both uncentred.
"""

from torch import Tensor


class Moments:
    """Means and second moments of rows `(G, P, D)`; its size does not depend on the number of rows.

    With one kind of rows (symmetric) x^ is x; with two (asymmetric), the rows of both stand for the same places.

    >>> import torch
    >>> moments = Moments()
    >>> moments.add(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    >>> moments.count, moments.mean_GD.tolist(), moments.second_GDD.tolist()
    (2, [[2.0, 3.0]], [[[5.0, 7.0], [7.0, 10.0]]])
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}
        self._divisor = 1  # of what stands in the sums

    def add(self, x_GPD: Tensor, hat_GPD: Tensor | None = None) -> None:
        """Count the rows in; `hat_GPD` is given always or never."""
        x_GPD = x_GPD.double()
        if hat_GPD is None:
            self.add_sums(x_GPD.shape[1], x_GPD.sum(dim=1), x_GPD.mT @ x_GPD)
            return
        hat_GPD = hat_GPD.double()
        new = {
            "x": x_GPD.sum(dim=1),
            "hat": hat_GPD.sum(dim=1),
            "hat hat": hat_GPD.mT @ hat_GPD,
            "x hat": x_GPD.mT @ hat_GPD,
        }
        self._count_in(x_GPD.shape[1], new)

    def add_sums(self, count: int, x_GD: Tensor, second_GDD: Tensor) -> None:
        """Count rows in of which the sums are known: so many, of the rows, and of their products; one kind of rows."""
        self._count_in(count, {"x": x_GD, "hat hat": second_GDD})

    def _count_in(self, count: int, new: dict[str, Tensor]) -> None:
        self._divide(1)
        self.count += count
        for name, value in new.items():
            if name in self._sums:
                self._sums[name] += value
            else:
                self._sums[name] = value

    def _divide(self, divisor: int) -> None:
        """Sums become means or sums again, in place: of a wide layer there is no room for both."""
        if divisor != self._divisor:
            for value in self._sums.values():
                value.mul_(self._divisor).div_(divisor)
            self._divisor = divisor

    def _mean(self, name: str, otherwise: str = "") -> Tensor:
        self._divide(self.count)
        return self._sums[name if name in self._sums else otherwise]

    def of_responses(self, weight_GOD: Tensor, bias_GO: Tensor | None = None) -> "Moments":
        """Those of the responses y = W x + b to rows x of one kind."""
        mean_GO = (weight_GOD @ self.mean_GD[:, :, None])[:, :, 0]
        second_GOO = weight_GOD @ self.second_GDD @ weight_GOD.mT
        if bias_GO is not None:
            across_GOO = mean_GO[:, :, None] * bias_GO[:, None, :]
            second_GOO += across_GOO + across_GOO.mT + bias_GO[:, :, None] * bias_GO[:, None, :]
            mean_GO = mean_GO + bias_GO
        moved = Moments()
        moved.count = moved._divisor = self.count
        moved._sums = {"x": mean_GO, "hat hat": second_GOO}
        return moved

    def finite(self) -> bool:
        return all(bool(value.isfinite().all()) for value in self._sums.values())

    @property
    def asymmetric(self) -> bool:
        """Whether there are two kinds of rows."""
        return "hat" in self._sums

    @property
    def mean_GD(self) -> Tensor:
        """E[x]."""
        return self._mean("x")

    @property
    def hat_mean_GD(self) -> Tensor:
        """E[x^]."""
        return self._mean("hat", "x")

    @property
    def second_GDD(self) -> Tensor:
        """M^ = E[x^ x^^T]."""
        return self._mean("hat hat")

    @property
    def second(self) -> Tensor:
        """M^, as `HeldRows` tells it too."""
        return self.second_GDD

    @property
    def cross_GDD(self) -> Tensor:
        """C = E[x x^^T]; M^ where there is one kind of rows."""
        return self._mean("x hat", "hat hat")

    def covariance_GDD(self) -> Tensor:
        """Cov(x^)."""
        return self.second_GDD - self.hat_mean_GD[:, :, None] * self.hat_mean_GD[:, None, :]

    def cross_covariance_GDD(self) -> Tensor:
        """Cov(x, x^)."""
        return self.cross_GDD - self.mean_GD[:, :, None] * self.hat_mean_GD[:, None, :]
