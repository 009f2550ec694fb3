r"""Layers that are trained as an SVD, `W = U diag(s) V` with all three as parameters.

Legend: G groups, M rows and N columns of each group's matrix, R rank.
"""

import copy
from abc import ABC
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lowrank_exp.decomposition import SVD, LinearSVD, SVDDecomposition
from lowrank_exp.decomposition.convolution import weight_like
from lowrank_exp.svd_form.apply_layer import apply_layer
from lowrank_exp.svd_form.layout import Layout, names_with_form
from lowrank_exp.svd_form.routes import factors_are_cheaper
from lowrank_exp.svd_form.start import draw_layer, orthonormal_svd

ROUTES = ("cost", "weight", "factors")


class SVDForm(nn.Module, ABC):
    r"""A layer whose weight is a product of three parameters.

    .. math:: W_g = U_g \, \mathrm{diag}(s_g) \, V_g, \qquad g = 1 \dots G

    `U` is `(G, M, R)`, `s` `(G, R)` of any sign, `V` `(G, R, N)`, `bias` that of the dense layer or None. The matrices
    are `decomposition.matrices` of the dense layer but for the order of rows and columns, which is that of
    channels-last memory, so that no product has to be copied; `svd` gives them in the order of `matrices`.

    The output is that of the dense layer with the product as weight, in training and in evaluation. It is computed by
    the cheaper of two routes, chosen for every shape of the input: the product is multiplied out and serves as weight,
    or the input goes through the two factors. `route` sets one by hand: `weight` or `factors` in the place of `cost`.

    Where the input of a convolution lies in channels-last memory, so does the output; else it does not.

    Args:
        layer: the dense layer whose place is taken; its numbers are not used, see `from_dense`.
        decomposition: channel, spatial or linear SVD.
        rank: from 1 to the full rank, which None stands for.

    Raises:
        ValueError: a decomposition that does not fit the layer, or a rank out of range.

    Source: Yang et al. 2020, "Learning low-rank deep neural networks via singular vector orthogonality regularization
    and singular value sparsification", section 3.1.

    Differs from the paper:
        1. s may have any sign and enters as it is. The authors' code takes its absolute value and puts the root on both
           factors, whose gradient is infinite at 0.
        2. U and V start from the SVD of a dense weight, one from a checkpoint or one freshly drawn. The authors' code
           draws each of U, s and V on its own, so that the weight's scale is not that of the usual start.
    """

    kind: ClassVar[type[nn.Module]]

    def __init__(self, layer: nn.Module, decomposition: SVDDecomposition, rank: int | None = None) -> None:
        super().__init__()
        if type(layer) is not self.kind:
            raise ValueError(f"{type(self).__name__} takes the place of {self.kind.__name__}, not of {layer}")
        if refusal := decomposition.refusal(layer):
            raise ValueError(f"no SVD form by {decomposition.name}: {refusal}")
        self.decomposition = decomposition
        self.layout = Layout.of(layer, decomposition)
        R = decomposition.full_rank(layer) if rank is None else decomposition.check_rank(layer, rank)
        G, M, N = decomposition.matrices(layer).shape
        self.U = nn.Parameter(layer.weight.new_empty(G, R, M).mT, layer.weight.requires_grad)
        self.s = nn.Parameter(layer.weight.new_empty(G, R), layer.weight.requires_grad)
        self.V = nn.Parameter(layer.weight.new_empty(G, N, R).mT, layer.weight.requires_grad)
        bias = layer.bias
        self.bias = None if bias is None else nn.Parameter(torch.empty_like(bias), bias.requires_grad)
        self.route = "cost"
        self.train(layer.training)
        # In tuples, so that they are not modules of the network: they hold settings, not numbers.
        self._like = (_on_meta(layer),)
        self._factors = tuple(decomposition.skeleton(layer, R, device="meta"))
        self._cheaper: dict[tuple[int, ...], bool] = {}

    @classmethod
    def skeleton(cls, layer: nn.Module, decomposition: SVDDecomposition, rank: int | None = None) -> "SVDForm":
        """The SVD form of a layer like `layer`, numbers not set.

        Raises:
            ValueError: a layer of another kind, a decomposition that does not fit it, or a rank out of range.
        """
        return _form_of(cls, layer)(layer, decomposition, rank)

    @classmethod
    def from_dense(
        cls, layer: nn.Module, decomposition: SVDDecomposition, rank: int | None = None, svd: SVD | None = None
    ) -> "SVDForm":
        """The SVD form of `layer`, cut at `rank`: at full rank (None) its output is that of `layer`.

        Args:
            layer: a convolution or linear layer; it is not changed.
            decomposition: channel, spatial or linear SVD.
            rank: from 1 to `decomposition.full_rank(layer)`.
            svd: `decomposition.svd(layer)`, where it is at hand already.

        Raises:
            ValueError: a layer of another kind, a decomposition that does not fit it, a rank out of range, or a weight
                that is not finite.

        >>> from lowrank_exp.decomposition import SpatialSVD
        >>> form = SVDForm.from_dense(nn.Conv2d(4, 6, 3), SpatialSVD())
        >>> form.rank, tuple(form.U.shape), tuple(form.V.shape)
        (12, (1, 12, 12), (1, 12, 18))
        """
        form = cls.skeleton(layer, decomposition, rank)
        decomposition.check_weight(layer)
        with torch.no_grad():
            if not layer.weight.is_meta:
                form.set_svd_(*orthonormal_svd(decomposition, layer, form.rank, svd))
            if form.bias is not None:
                form.bias.copy_(layer.bias)
        return form

    @classmethod
    def from_scratch(
        cls,
        *sizes: int,
        decomposition: SVDDecomposition | None = None,
        rank: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """A new layer: torch's usual start of the dense layer, and the SVD of that cut at `rank`.

        Called spectral initialisation where the rank is not full: Khodak, Tenenholtz, Mackey, Fusi 2021,
        "Initialization and regularization of factorized neural layers".

        Args:
            sizes: as of the dense layer: channels and kernel size, or features.
            decomposition: channel, spatial or linear SVD; linear SVD by default for a linear layer.
            rank: None: full.
            seed: of the numbers; those of the dense layer that torch makes after `torch.manual_seed(seed)`.
            settings: as of the dense layer: stride, padding, groups, bias ...

        >>> SVDLinear.from_scratch(8, 4, rank=2, bias=False).U.shape
        torch.Size([1, 8, 2])
        """
        if decomposition is None:
            if cls.kind is not nn.Linear:
                raise ValueError(f"{cls.__name__}.from_scratch needs a decomposition: ChannelSVD() or SpatialSVD()")
            decomposition = LinearSVD()
        layer = draw_layer(cls.kind, *sizes, seed=seed, **settings)
        return cls.from_dense(layer, decomposition, rank)

    @property
    def rank(self) -> int:
        """R, the number of singular values of each group."""
        return self.s.shape[1]

    @property
    def groups(self) -> int:
        """G, the number of matrices."""
        return self.s.shape[0]

    @property
    def weight(self) -> Tensor:
        """The weight of the dense layer, multiplied out; gradients go through it."""
        return weight_like(self._like[0], self.layout.kernel(self._product())).contiguous()

    @property
    def svd(self) -> SVD:
        """The parameters in the order of `decomposition.matrices`: `U_GMR`, `s_GR`, `V_GRN`; not sorted, any sign."""
        U_GMR, V_GRN = self.layout.to_svd(self.U, self.V)
        return SVD(U_GMR, self.s, V_GRN)

    def set_svd_(self, U_GMR: Tensor, s_GR: Tensor, V_GRN: Tensor) -> None:
        """Set the parameters, in place, from factors in the order of `decomposition.matrices`."""
        U_GMR, V_GRN = self.layout.from_svd(U_GMR, V_GRN)
        with torch.no_grad():
            for parameter, value in ((self.U, U_GMR), (self.s, s_GR), (self.V, V_GRN)):
                parameter.copy_(value)

    @property
    def like(self) -> nn.Module:
        """The dense layer without numbers, on the meta device."""
        return self._like[0].to(self.U.dtype).train(self.training)

    def dense(self) -> nn.Module:
        """The plain dense layer with the weight multiplied out, its parameters its own."""
        layer = copy.deepcopy(self.like).to_empty(device=self.U.device)
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        layer.weight.requires_grad_(self.U.requires_grad)
        if self.bias is not None:
            layer.bias.requires_grad_(self.bias.requires_grad)
        return layer

    def forward(self, input: Tensor) -> Tensor:  # called as the dense layer is, by keyword too
        x = input
        if not self._through_factors(x):
            kernel = self.layout.kernel(self._product())
            return apply_layer(self._like[0], x, kernel, self.bias)
        U_GRM, V_GNR = self._scale_factors()
        first, second = self._factors
        x = apply_layer(first, x, self.layout.first_kernel(U_GRM), None)
        return apply_layer(second, x, self.layout.second_kernel(V_GNR), self.bias)

    def _through_factors(self, x: Tensor) -> bool:
        if self.route != "cost":
            if self.route not in ROUTES:
                raise ValueError(f"route must be one of {', '.join(ROUTES)}, got {self.route!r}")
            return self.route == "factors"
        shape = tuple(x.shape)
        if shape not in self._cheaper:
            self._cheaper[shape] = factors_are_cheaper(self._like[0], self._factors, shape)
        return self._cheaper[shape]

    def _scale_factors(self) -> tuple[Tensor, Tensor]:
        """The factors `(G, R, M)` and `(G, N, R)`, contiguous, with s on the smaller one."""
        U_GRM, V_GNR = self.U.mT, self.V.mT
        if U_GRM.shape[2] < V_GNR.shape[1]:
            return U_GRM * self.s[:, :, None], V_GNR
        return U_GRM, V_GNR * self.s[:, None, :]

    def _product(self) -> Tensor:
        """The transposed matrices, `(G, N, M)`."""
        U_GRM, V_GNR = self._scale_factors()
        if self.groups == 1:
            return torch.mm(V_GNR.squeeze(0), U_GRM.squeeze(0)).unsqueeze(0)
        return torch.bmm(V_GNR, U_GRM)

    def extra_repr(self) -> str:
        return f"{self._like[0]}, {self.decomposition.name}, rank={self.rank}"


class SVDLinear(SVDForm):
    """A linear layer as an SVD; see `SVDForm`."""

    kind = nn.Linear


class SVDConv1d(SVDForm):
    """A one-dimensional convolution as an SVD; see `SVDForm`."""

    kind = nn.Conv1d


class SVDConv2d(SVDForm):
    """A convolution as a channel or spatial SVD; see `SVDForm`."""

    kind = nn.Conv2d


class SVDConv3d(SVDForm):
    """A three-dimensional convolution as a channel SVD; see `SVDForm`."""

    kind = nn.Conv3d


class SVDConvTranspose1d(SVDForm):
    """A transposed one-dimensional convolution as an SVD; see `SVDForm`."""

    kind = nn.ConvTranspose1d


class SVDConvTranspose2d(SVDForm):
    """A transposed convolution as a channel or spatial SVD; see `SVDForm`."""

    kind = nn.ConvTranspose2d


class SVDConvTranspose3d(SVDForm):
    """A transposed three-dimensional convolution as a channel SVD; see `SVDForm`."""

    kind = nn.ConvTranspose3d


_FORMS = {
    form.kind: form
    for form in (
        SVDLinear,
        SVDConv1d,
        SVDConv2d,
        SVDConv3d,
        SVDConvTranspose1d,
        SVDConvTranspose2d,
        SVDConvTranspose3d,
    )
}


def form_refusal(layer: nn.Module, decomposition: Any) -> str | None:
    """Why `layer` has no SVD form by `decomposition`; None where it has one."""
    if not isinstance(decomposition, SVDDecomposition):
        return f"{decomposition.name} is not a decomposition by one SVD, such as {', '.join(names_with_form())}"
    if refusal := decomposition.refusal(layer):
        return refusal
    try:
        Layout.of(layer, decomposition)
    except ValueError as error:
        return str(error)
    return None


def _form_of(cls: type[SVDForm], layer: nn.Module) -> type[SVDForm]:
    if cls is not SVDForm:
        return cls
    if type(layer) not in _FORMS:
        raise ValueError(f"no SVD form of {type(layer).__name__}; it takes {', '.join(k.__name__ for k in _FORMS)}")
    return _FORMS[type(layer)]


def _on_meta(layer: nn.Module) -> nn.Module:
    """A copy of `layer` whose parameters have shapes and no numbers."""
    parameters = list(layer.parameters())
    return copy.deepcopy(layer, {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in parameters})
