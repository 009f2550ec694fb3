"""Stochastic depth: residual blocks are skipped at random while a network is trained.

Legend: L blocks, l = 1 ... L in network order, p_l the probability that block l survives, b_l whether it does.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank_exp.checks import fraction, one_of
from lowrank_exp.training.parts.part import AtWork, Fit, Part, Running, refuse_together
from lowrank_exp.training.parts.residual_blocks import ResidualBlock, residual_blocks

SURVIVALS = ("linear", "uniform")
MODES = ("batch", "row")
STREAM = 0x5D  # tells the draws from those of the fit's own seed


@dataclass(frozen=True, kw_only=True)
class StochasticDepth(Part):
    r"""How residual blocks survive in a training: an option of `fit_`.

    .. math:: H_l = \mathrm{act}(b_l f_l(H_{l-1}) + \mathrm{shortcut}(H_{l-1})), \quad b_l \sim \mathrm{Bernoulli}(p_l)

    .. math:: p_l = 1 - \frac{l}{L} (1 - p_L) \text{ (linear)}, \qquad p_l = p_L \text{ (uniform)}

    A block that does not survive computes its shortcut and activation only, forward and backward; the gradients of its
    branch are 0 in that step, and weight decay and momentum go on. At inference every branch is multiplied by p_l.
    That factor lies in scale and shift of the batch norm that ends the branch: put there for every validation, and for
    good when the fit ends. So what is validated is the network that the fit leaves, a plain one, and it is saved,
    exported and compressed as any other.

    A fit that starts from such a network (a batch norm whose scale is not 1 or whose shift is not 0) divides its
    branches by p_l first: two fits in a row, or one that starts from a trained network, lose nothing in between.

    Args:
        survival: `linear` or `uniform`.
        last: p_L, in (0, 1]; 1 skips nothing.
        mode: `batch`: one draw per block and optimizer step, for all images of the step, in all processes. `row`: one
            per block and image; branches are computed for all images and set to 0, so no time is saved, and batch norm
            sees all of them.

    Raises:
        ValueError: an option out of range.

    Source: Huang, Sun, Liu, Sedra, Weinberger 2016, "Deep networks with stochastic depth", sections 3 and 4.

    Differs from the paper:
        1. Branches of a network that is trained already are divided by p_l at the start; new ones are not.
        2. `mode="row"` is not in the paper.

    Differs from `torchvision.ops.StochasticDepth`: that divides a surviving branch by p_l in training and leaves
    inference as it is. Expectations are the same; the scale of the branches, and so what weight decay does, is not.

    >>> StochasticDepth().probabilities(4), StochasticDepth(survival="uniform", last=0.8).probabilities(2)
    ([0.875, 0.75, 0.625, 0.5], [0.8, 0.8])
    """

    name: ClassVar[str] = "stochastic_depth"

    survival: str = "linear"
    last: float = 0.5
    mode: str = "batch"

    def __post_init__(self) -> None:
        for name, words in (("survival", SURVIVALS), ("mode", MODES)):
            value = getattr(self, name)
            one_of(name, value, words, f"stochastic_depth: {name} is {value!r}; allowed are {' and '.join(words)}")
        wrong = f"stochastic_depth: last is {self.last!r}; allowed is a probability in (0, 1]"
        fraction("last", self.last, wrong)

    def refuse(self, recipe: Any) -> None:
        again = "for each set of which the network would be compiled again"
        clash = ("compile is true", recipe.compile, "compile=false or stochastic_depth=null")
        refuse_together([clash], f"stochastic_depth skips other blocks at every step, {again}")

    def at_work(self, fit: Fit) -> "Survivors":
        return Survivors(self, fit.network, fit.seed)

    def probabilities(self, L: int) -> list[float]:
        """p_1 to p_L."""
        if self.survival == "uniform":
            return [float(self.last)] * L
        return [1 - l / L * (1 - self.last) for l in range(1, L + 1)]

    def check(self, network: nn.Module) -> None:
        """Raise ValueError for a network without blocks to skip, or with one that cannot be scaled."""
        self._blocks(network)

    def end_(self, network: nn.Module) -> None:
        """Multiply every branch by its p_l, in place: from the network in training to the one for inference."""
        for block, p_l in self._blocks(network):
            block.scale_(p_l)

    def _blocks(self, network: nn.Module) -> list[tuple[ResidualBlock, float]]:
        try:
            blocks = residual_blocks(network)
        except ValueError as error:
            raise ValueError(f"stochastic_depth: {error}; set stochastic_depth=null") from error
        return list(zip(blocks, self.probabilities(len(blocks)), strict=True))


class Survivors(AtWork):
    """Stochastic depth at work in one fit: which blocks survive, and the two states of the network.

    Args:
        option: how blocks survive.
        network: trained in training mode.
        seed: of the draws; other numbers than the fit's own, which has the same seed.
    """

    def __init__(self, option: StochasticDepth, network: nn.Module, seed: int) -> None:
        self.blocks = option._blocks(network)
        self.by_row = option.mode == "row"
        self.skips = not self.by_row
        self.generator = torch.Generator().manual_seed(seed ^ STREAM)
        self.generators = [self.generator]
        self.rank, self.processes = 0, 1
        self.p_L = torch.tensor([p_l for _, p_l in self.blocks], dtype=torch.float64)
        self.survive: list[bool] = [True] * len(self.blocks)
        self.rows: list[Tensor] = []
        self._before: list[tuple[Tensor, Tensor]] = []

    @contextmanager
    def around_fit(self) -> Iterator[None]:
        """Inside, blocks of the network are skipped in training mode; afterwards it is a plain network again."""
        handles = []
        for block, p_l in self.blocks:
            if not block.is_new:
                block.scale_(1 / p_l)
        for index, (block, _) in enumerate(self.blocks):
            if self.by_row:
                handles.append(block.norm.register_forward_hook(self._by_row(index, block)))
            else:
                block.module.forward = self._skipping(index, block)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.after_validation()
            for block, p_l in self.blocks:
                if not self.by_row:
                    del block.module.forward
                block.scale_(p_l)

    def start(self, running: Running) -> None:
        self.rank, self.processes = running.rank, running.processes

    def around_pass(self, images: Tensor, first: bool) -> AbstractContextManager:
        """Draw b_l for the coming forward pass; by batch, all passes of a step share a draw.

        All processes draw the same numbers, and by row each takes its part.
        """
        L = len(self.blocks)
        if self.by_row:
            uniform_PLN = torch.rand(self.processes, L, len(images), dtype=torch.float64, generator=self.generator)
            self.rows = list((uniform_PLN[self.rank] < self.p_L[:, None]).to(images.device))
        elif first:
            self.survive = (torch.rand(L, dtype=torch.float64, generator=self.generator) < self.p_L).tolist()
        return nullcontext()

    def on_gradients(self) -> None:
        """Gradients of 0 where a skipped block has none, so that optimizers treat all blocks alike."""
        for (block, _), survives in zip(self.blocks, self.survive, strict=True):
            for parameter in () if survives else block.module.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def before_validation(self) -> None:
        """From the network in training to the one for inference."""
        self._before = [
            (block.norm.weight.detach().clone(), block.norm.bias.detach().clone()) for block, _ in self.blocks
        ]
        for block, p_l in self.blocks:
            block.scale_(p_l)

    def after_validation(self) -> None:
        """Back again, to the bits that were there before; nothing where there was no validation."""
        with torch.no_grad():
            for (block, _), (scale, shift) in zip(self.blocks, self._before, strict=False):
                block.norm.weight.copy_(scale)
                block.norm.bias.copy_(shift)
        self._before = []

    def _skipping(self, index: int, block: ResidualBlock) -> Callable[[Tensor], Tensor]:
        whole = block.module.forward

        def forward(x: Tensor) -> Tensor:
            return whole(x) if self.survive[index] or not block.module.training else block.without_branch(x)

        return forward

    def _by_row(self, index: int, block: ResidualBlock) -> Callable[..., Tensor | None]:
        def hook(norm: nn.Module, inputs: tuple[Tensor, ...], branch: Tensor) -> Tensor | None:
            if not block.module.training:
                return None
            return branch * self.rows[index].to(branch.dtype).view(-1, *[1] * (branch.dim() - 1))

        return hook
