"""Knowledge distillation: a network learns the outputs of another one, beside the labels.

Legend: N images, C classes; z the logits of the network, v those of the teacher, T the temperature, alpha the weight.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from lowrank_exp.machine.environment import tensors_digest


@dataclass(frozen=True, kw_only=True)
class Distillation:
    r"""How a network is taught: an option of `fit_`.

    .. math:: (1 - \alpha) \, L(z, \text{label}) + \alpha \, T^2 \,
        \mathrm{KL}(\mathrm{softmax}(v / T) \,\|\, \mathrm{softmax}(z / T))

    L is the training loss without distillation. T squared keeps the gradients of both parts at one scale, whatever T.
    The teacher sees the same, augmented images, in evaluation mode.

    Args:
        teacher: a network; for a phase, the name of an earlier phase that left it, or `initial`, the one that the first
            phase got.
        temperature: T, above 0.
        alpha: weight of the teacher, in [0, 1].

    Raises:
        ValueError: an option out of range.

    Source: Hinton, Vinyals, Dean 2015, "Distilling the knowledge in a neural network", section 2.

    Differs from the paper:
        1. The paper weighs cross-entropies with the teacher's outputs; KL has the same gradients, and is 0 where the
           network has learnt all of it.
    """

    teacher: nn.Module | str = field(repr=False)
    temperature: float = 4.0
    alpha: float = 0.9

    def __post_init__(self) -> None:
        for name, allowed, fits in (
            ("temperature", "a number above 0", lambda value: 0 < value < float("inf")),
            ("alpha", "a fraction in [0, 1]", lambda value: 0 <= value <= 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
                raise ValueError(f"distill: {name} is {value!r}; allowed is {allowed}")
        if not isinstance(self.teacher, nn.Module | str):
            raise ValueError(f"distill: teacher is {self.teacher!r}; allowed are earlier phases, by name, and initial")

    def described(self) -> dict[str, Any]:
        """What decides it, as plain data."""
        return {"temperature": self.temperature, "alpha": self.alpha, "teacher": tensors_digest(self.teacher)}


class Teacher:
    """Distillation at work in one fit. No module, so that the fit's own network does not hold it."""

    def __init__(self, option: Distillation | None) -> None:
        self.option = option
        self.network = None if option is None else option.teacher.eval()
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Forget what the losses of the epoch before were made of."""
        self.parts: list[tuple[Tensor, Tensor]] = []  # of every batch: by the labels, and the divergence

    def broke(self, batch: int) -> bool:
        """Whether the teacher's part alone was not finite in a batch of this epoch."""
        if not self.parts:
            return False
        by_labels, divergence = self.parts[batch]
        return bool(by_labels.isfinite()) and not bool(divergence.isfinite())

    def to(self, device: torch.device) -> None:
        """Bring the teacher to where the images are."""
        if self.network is not None:
            self.network.to(device)

    def teach(self, loss: Tensor, logits_NC: Tensor, images: Tensor, precision: str, reduction: str) -> Tensor:
        """The loss with the teacher's part in it; as it is where there is no teacher.

        Args:
            loss: of the labels, a mean or a sum over the images.
            logits_NC: of the network.
            images: `(N, ...)`.
            precision: as the network's.
            reduction: `mean` or `sum`, of `loss`.
        """
        if self.option is None:
            return loss
        T, alpha = self.option.temperature, self.option.alpha
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            teachers_NC = self.network(images).float()
        divergence = kl_div(
            (logits_NC / T).log_softmax(1),
            (teachers_NC / T).log_softmax(1),
            log_target=True,
            reduction="batchmean" if reduction == "mean" else "sum",
        )
        self.parts.append((loss.detach(), divergence.detach()))
        return (1 - alpha) * loss + alpha * T**2 * divergence
