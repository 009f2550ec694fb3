"""What a rank policy looks at beside the weights: gradients, responses, scores of whole networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lowrank_exp.files.results import digest
from lowrank_exp.machine.environment import tensors_digest
from lowrank_exp.phases.phase import Setting
from lowrank_exp.phases.rehearsal import Parts
from lowrank_exp.rank import LayerProfile, with_errors, with_sensitivity
from lowrank_exp.training import FirstImages, NetworkScore
from lowrank_exp.training.probes.pace import forward_seconds

GRADIENT = 3  # forward passes that one with gradients is worth


@dataclass(frozen=True)
class Looks:
    """What is measured for a policy.

    Args:
        needs: what the policy asks for, see `lowrank_exp.rank.needs`.
        measure: `quality`, `images`, `seed`, `gradients`, `batch_size`, see `Factorize`.
        fit: to what the factors will be fitted; None: to the weights.
    """

    needs: frozenset[str]
    measure: Mapping[str, Any]
    fit: str | None = None

    @property
    def scores(self) -> bool:
        """Whether whole networks are scored."""
        return bool(self.needs & {"accuracy", "score"})

    def complete(
        self, layers: Mapping[str, LayerProfile], network: nn.Module, setting: Setting
    ) -> Mapping[str, LayerProfile]:
        """The profiles with the sensitivities and the errors that the policy asks for."""
        if "sensitivity" in self.needs:
            layers = with_sensitivity(layers, network, self._images(setting, labels=True), store=setting.svds)
        if self.needs & {"errors", "responses"}:
            layers = self.with_errors(layers, network, setting)
        return layers

    def with_errors(
        self, layers: Mapping[str, LayerProfile], network: nn.Module, setting: Setting
    ) -> dict[str, LayerProfile]:
        """The profiles with errors as reached; with those of responses, by the fit that the factors will get."""
        options: dict[str, Any] = {"store": setting.svds, "folder": setting.scores / "errors"}
        if "responses" not in self.needs:
            return with_errors(layers, network, **options)
        fit = "response" if self.fit == "relu" else self.fit
        return with_errors(layers, network, self._images(setting), fit=fit, **options)

    def score(self, network: nn.Module, layers: Mapping[str, LayerProfile], setting: Setting) -> NetworkScore:
        """What gives the quality of the network at ranks, on validation images."""
        images, seed = self.measure["images"], self.measure["seed"]
        decides = [tensors_digest(network), setting.data.digest, images, seed]
        return NetworkScore(
            network,
            layers,
            setting.data.val_sample(images, seed, self.measure["batch_size"]),
            quality=self.measure["quality"],
            device=setting.device,
            svds=setting.svds,
            folder=setting.scores / digest(decides)[:16],
            progress=setting.progress,
        )

    def estimate(self, network: nn.Module, setting: Setting, scores: int) -> Parts:
        """What looking takes, with so many scores asked for."""
        loader = setting.data.train_loader(self.measure["batch_size"], 0, augment=False)
        forward, parts = forward_seconds(network, loader, setting.device), []
        images = self._count(setting)
        if "sensitivity" in self.needs:
            parts.append((f"gradients of {images:,} training images", GRADIENT * images * forward))
        if "responses" in self.needs:
            parts.append((f"responses to {images:,} training images", images * forward))
        if self.scores:
            scored = min(self.measure["images"], setting.data.sizes["val"])
            parts.append((f"{scores:,} rank sets scored on {scored:,} validation images", scores * scored * forward))
        return parts

    def _count(self, setting: Setting) -> int:
        return min(self.measure["gradients"], setting.data.sizes["train"])

    def _images(self, setting: Setting, labels: bool = False) -> FirstImages:
        loader = setting.data.train_loader(self.measure["batch_size"], self.measure["seed"], augment=False)
        return FirstImages(loader, self._count(setting), labels=labels)
