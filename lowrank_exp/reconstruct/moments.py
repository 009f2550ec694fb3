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

    def add(self, x_GPD: Tensor, hat_GPD: Tensor | None = None) -> None:
        """Count the rows in; `hat_GPD` is given always or never."""
        x_GPD = x_GPD.double()
        if hat_GPD is None:
            new = {"x": x_GPD.sum(dim=1), "hat hat": x_GPD.mT @ x_GPD}
        else:
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
        self.count += count
        for name, value in new.items():
            if name in self._sums:
                self._sums[name] += value
            else:
                self._sums[name] = value

    def of_responses(self, weight_GOD: Tensor, bias_GO: Tensor | None = None) -> "Moments":
        """Those of the responses y = W x + b to rows x of one kind."""
        moved = Moments()
        mean_GO = (weight_GOD @ self._sums["x"][:, :, None])[:, :, 0]
        second_GOO = weight_GOD @ self._sums["hat hat"] @ weight_GOD.mT
        if bias_GO is not None:
            across_GOO = mean_GO[:, :, None] * bias_GO[:, None, :]
            second_GOO += across_GOO + across_GOO.mT + self.count * bias_GO[:, :, None] * bias_GO[:, None, :]
            mean_GO = mean_GO + self.count * bias_GO
        moved.count, moved._sums = self.count, {"x": mean_GO, "hat hat": second_GOO}
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
        return self._sums["x"] / self.count

    @property
    def hat_mean_GD(self) -> Tensor:
        """E[x^]."""
        return self._sums.get("hat", self._sums["x"]) / self.count

    @property
    def second_GDD(self) -> Tensor:
        """M^ = E[x^ x^^T]."""
        return self._sums["hat hat"] / self.count

    @property
    def cross_GDD(self) -> Tensor:
        """C = E[x x^^T]; M^ where there is one kind of rows."""
        return self._sums.get("x hat", self._sums["hat hat"]) / self.count

    def covariance_GDD(self) -> Tensor:
        """Cov(x^)."""
        return self.second_GDD - self.hat_mean_GD[:, :, None] * self.hat_mean_GD[:, None, :]

    def cross_covariance_GDD(self) -> Tensor:
        """Cov(x, x^)."""
        return self.cross_GDD - self.mean_GD[:, :, None] * self.hat_mean_GD[:, None, :]
