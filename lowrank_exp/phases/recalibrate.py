"""`Recalibrate`: batch-norm statistics are estimated again, and kept where that helps."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from lowrank_exp.checks import boolean, whole
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal
from lowrank_exp.training import FirstImages, answers_error, estimated_layers, evaluate, recalibrate_
from lowrank_exp.training.probes.pace import forward_seconds

KEPT = "kept"  # among the values of the phase
Judge = Callable[[nn.Module], tuple[dict[str, float], tuple[float, ...]]]


@dataclass(frozen=True, kw_only=True)
class Recalibrate(Phase):
    """Estimate batch-norm statistics again on training images; nothing to do where there is no batch norm.

    After a good fit to data the statistics that are there are often the better ones. So the network is judged with both
    on validation images, by its accuracy and, where that is the same, its loss. Where there are no validation images it
    is judged on training images that the statistics are not estimated on, as far as there are so many: by the error of
    its answers, ||y - y_before||^2 / ||y_before||^2 over the logits, against the network that the phase before started
    from.

    Weights have been trained for the statistics of augmented images, which images as they are do not have: zeros around
    a crop alone change those of the first layer. A trained ResNet-20 falls from 92.6 to 86.7 % of the validation images
    by statistics of images as they are, and stays at 92.4 % by those of augmented ones.

    Args:
        max_images: so many training images, or all where there are fewer.
        batch_size: images per forward pass.
        augment: images as in training; False: as they are.
        judged_on: images, or all where there are fewer, that decide whether the new statistics are kept; None keeps
            them always.

    The values of the phase: what both networks had (`val_accuracy_before`, `val_accuracy_estimated`, or
    `answers_error_...`), and `kept`, 1 or 0.
    """

    max_images: int
    batch_size: int
    augment: bool = False
    judged_on: int | None = None

    def __post_init__(self) -> None:
        boolean("augment", self.augment)
        for name, least in (("max_images", 2), ("batch_size", 1), ("judged_on", 1)):
            value = getattr(self, name)
            if name == "judged_on" and value is None:
                continue
            wrong = f"recalibration needs {name} of at least {least}, a whole number, got {value!r}"
            whole(name, value, least, wrong)

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        return

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        if self.judged_on is None or not (layers := estimated_layers(network)):
            return Done(applied=self._estimate_(network, setting) > 0)
        judge = self._judge(setting)
        before, merits_before = judge(network)
        statistics = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in layers]
        self._estimate_(network, setting)
        after, merits_after = judge(network)
        if not (kept := merits_after > merits_before):
            for layer, buffers in zip(layers, statistics, strict=True):
                layer.load_state_dict(buffers, strict=False)
        shown = {f"{name}_before": value for name, value in before.items()}
        shown |= {f"{name}_estimated": value for name, value in after.items()}
        return Done(values=shown | {KEPT: float(kept)})

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        if not estimated_layers(network):
            return Rehearsal(network)
        images = min(self.max_images, setting.data.sizes["train"])
        loader = setting.data.train_loader(self.batch_size, setting.seed, augment=False)
        forward = forward_seconds(network, loader, setting.device)
        parts = [(f"statistics of {images:,} images", images * forward)]
        if self.judged_on is not None:
            kind = "val" if setting.data.sizes["val"] else "train"
            judges = min(self.judged_on, setting.data.sizes[kind])
            parts.append((f"judged twice on {judges:,} images", 2 * judges * forward))
        return Rehearsal(network, parts)

    def _estimate_(self, network: nn.Module, setting: Setting) -> int:
        loader = setting.data.train_loader(self.batch_size, setting.seed, augment=self.augment)
        return recalibrate_(network, loader, min(self.max_images, setting.data.sizes["train"]), setting.device)

    def _judge(self, setting: Setting) -> Judge:
        """Gives what is shown of a network, and what decides: the larger, the better."""
        if setting.data.sizes["val"]:
            loader = setting.data.val_sample(self.judged_on, setting.seed, self.batch_size)

            def by_validation(network: nn.Module) -> tuple[dict[str, float], tuple[float, ...]]:
                scores = evaluate(network, loader, setting.device)
                if scores.accuracy is None or scores.loss is None:  # its answers are not finite
                    return {}, (-1.0,)
                return {"val_accuracy": scores.accuracy}, (scores.accuracy, -scores.loss)

            return by_validation

        reference = setting.network(["initial", *setting.folders][-2] if setting.folders else "initial")
        others = setting.data.train_loader(self.batch_size, setting.seed + 1, augment=False)
        images = FirstImages(others, min(self.judged_on or 0, setting.data.sizes["train"]))

        def by_answers(network: nn.Module) -> tuple[dict[str, float], tuple[float, ...]]:
            error = answers_error(network, reference, images, setting.device)
            return {"answers_error": error}, (-error,)

        return by_answers
