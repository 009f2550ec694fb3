"""Linear SVD: one linear layer into two thinner ones.

Legend: O out features, I in features, R rank; one group (G = 1).
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import skip_init

from lowrank_exp.decomposition.base import FITS
from lowrank_exp.decomposition.svd import SVDDecomposition, two, wrong_kind


class LinearSVD(SVDDecomposition):
    r"""Cut the SVD of the weight.

    .. math:: W_{i,o} \approx \sum_{r=1}^{R} (u_{i,r} \sqrt{s_r}) (\sqrt{s_r} v_{r,o})

    The first layer maps I to R without bias, the second R to O with the bias. Full rank: min(I, O).

    Source: Denton et al. 2014, "Exploiting linear structure" (matrix decomposition).
    """

    name = "linear_svd"

    @property
    def fits(self) -> frozenset[str]:
        return frozenset(FITS)

    @property
    def input_groups(self) -> int:
        return 1

    def refusal(self, layer: nn.Module) -> str | None:
        return wrong_kind(layer, self.name, (nn.Linear,))

    def first_axes(self, layer: nn.Module) -> tuple[bool, ...]:
        return ()

    def matrices(self, layer: nn.Module) -> Tensor:
        return layer.weight.t()[None]

    def unfold(self, layer: nn.Module, left_GMR: Tensor, right_GRN: Tensor) -> tuple[Tensor, Tensor]:
        return left_GMR[0].t(), right_GRN[0].t()

    def skeleton(self, layer: nn.Module, rank: int, device: Any = None) -> nn.Sequential:
        place = {"device": layer.weight.device if device is None else device, "dtype": layer.weight.dtype}
        return two(
            skip_init(nn.Linear, layer.in_features, rank, bias=False, **place),
            skip_init(nn.Linear, rank, layer.out_features, bias=layer.bias is not None, **place),
        )
