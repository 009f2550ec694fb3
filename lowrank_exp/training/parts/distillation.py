"""Knowledge distillation: a network learns the outputs of another one, beside the labels.

Legend: N images, C classes; z the logits of the network, v those of the teacher, T the temperature, alpha the weight.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from lowrank_exp.checks import fraction, positive
from lowrank_exp.machine.environment import tensors_digest
from lowrank_exp.training.divergence import TEACHER, TRY_TEACHER, Broken
from lowrank_exp.training.parts.part import AtWork, Fit, History, Part, Running, refuse_in_processes


@dataclass(frozen=True, kw_only=True)
class Distillation(Part):
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

    name: ClassVar[str] = "distill"

    teacher: nn.Module | str = field(repr=False)
    temperature: float = 4.0
    alpha: float = 0.9

    def __post_init__(self) -> None:
        wrong = f"distill: temperature is {self.temperature!r}; allowed is a number above 0"
        positive("temperature", self.temperature, wrong)
        fraction("alpha", self.alpha, f"distill: alpha is {self.alpha!r}; allowed is a fraction in [0, 1]", zero=True)
        if not isinstance(self.teacher, nn.Module | str):
            raise ValueError(f"distill: teacher is {self.teacher!r}; allowed are earlier phases, by name, and initial")

    def refuse(self, recipe: Any) -> None:
        refuse_in_processes(recipe, "a teacher is asked", "distill=null")

    def described(self) -> dict[str, Any]:
        told = {"temperature": self.temperature, "alpha": self.alpha, "teacher": tensors_digest(self.teacher)}
        return {self.name: told}

    def at_work(self, fit: Fit) -> "Teacher":
        return Teacher(self, fit.recipe.precision, fit.recipe.accumulate)


class Teacher(AtWork):
    """Distillation at work in one fit. Not a module, so that the fit's own network does not hold it.

    Args:
        option: the teacher, and its part in the loss.
        precision: as the network's.
        accumulate: batches per optimizer step.
    """

    def __init__(self, option: Distillation, precision: str = "fp32", accumulate: int = 1) -> None:
        self.option, self.precision, self.accumulate = option, precision, accumulate
        self.network = option.teacher.eval()
        self.reduction = "mean"
        self.before_epoch([])

    def start(self, running: Running) -> None:
        self.network.to(running.device)
        self.reduction = running.reduction

    def before_epoch(self, history: History) -> None:
        """Forget what the losses of the epoch before were made of."""
        self.parts: list[tuple[Tensor, Tensor]] = []  # of every batch: by the labels, and the divergence

    def broken(self) -> list[Broken]:
        """The teacher's part, where it alone was not finite in the first batch that was not."""
        if not self.parts:
            return []
        by_labels_B, divergence_B = (torch.stack(losses) for losses in zip(*self.parts, strict=True))
        bad = (~(by_labels_B.isfinite() & divergence_B.isfinite())).nonzero()
        if not len(bad) or not by_labels_B[bad[0]].isfinite():
            return []
        batch = int(bad[0])  # told before the whole loss of that step
        return [Broken(batch // self.accumulate, -1, TEACHER, divergence_B[batch].item(), TRY_TEACHER)]

    def on_loss(self, loss: Tensor, logits_NC: Tensor, images: Tensor) -> Tensor:
        """The loss with the teacher's part in it; images `(N, ...)`."""
        T, alpha = self.option.temperature, self.option.alpha
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            teachers_NC = self.network(images).float()
        divergence = kl_div(
            (logits_NC / T).log_softmax(1),
            (teachers_NC / T).log_softmax(1),
            log_target=True,
            reduction="batchmean" if self.reduction == "mean" else "sum",
        )
        self.parts.append((loss.detach(), divergence.detach()))
        return (1 - alpha) * loss + alpha * T**2 * divergence
