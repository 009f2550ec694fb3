"""The phase that fits a linear classifier to the features of a frozen network."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lowrank_exp.checks import positive, whole
from lowrank_exp.files.whole import write_whole
from lowrank_exp.network.modes import kept_modes
from lowrank_exp.phases.phase import Done, Phase, Setting
from lowrank_exp.phases.rehearsal import Rehearsal
from lowrank_exp.training import FirstImages
from lowrank_exp.training.device import resolve
from lowrank_exp.training.generators import undisturbed
from lowrank_exp.training.probes.pace import forward_seconds

PARTS = ("train", "val", "test")
Features = tuple[np.ndarray, np.ndarray]  # (N, D) and labels (N,)


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Phase):
    """Logistic regression on the features of the network as it is, which stays so: what its features are good for.

    Features are what the submodule `features` gives, flattened, of images without augmentation. They are kept in the
    phase's folder, `features_<part>.npz`, so that a run that was killed goes on with them. Of several inverse strengths
    `C` the one of the best accuracy on validation images is taken, the first of equals.

    The values: `linear_probe`, the accuracy on test images, a fraction; `linear_probe_val`, on validation images, and
    `linear_probe_C`.

    Args:
        features: the name of the submodule, such as `visual`, CLIP's image encoder.
        C: inverse strengths of the penalty, scikit-learn's.
        images: training images, the first ones of an order drawn by `seed`, or all where there are fewer.
        iterations: of the fit (L-BFGS) at most.
        batch_size: images per forward pass.
        seed: draws the training images.

    Raises:
        ValueError: no `C`, or an option out of range; several `C` without validation images to choose by; a network
            without such a submodule, or one that is not used, or features that are not one row per image.

    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", appendix A.3.

    Differs from the paper: 1. it sweeps 96 strengths; the default is 0.316 alone, that of the authors' example.
    """

    features: str
    C: Sequence[float] = (0.316,)
    images: int = 50_000
    iterations: int = 1000
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.C:
            raise ValueError("C: there is no inverse strength; name at least one, such as C=[0.316]")
        for one in self.C:
            positive("C", one)
        for name in ("images", "iterations", "batch_size"):
            whole(name, getattr(self, name))

    @property
    def validates(self) -> str:
        return "strengths of the penalty are compared" if len(self.C) > 1 else ""

    def walk_(self, network: nn.Module, example: Tensor) -> None:
        self._find(network)

    def run_(self, network: nn.Module, setting: Setting) -> Done:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        found = {part: self._features(network, setting, part) for part in PARTS if self._has(setting, part)}
        (train_ND, labels_N), test = found["train"], found["test"]
        fits = [LogisticRegression(C=C, max_iter=self.iterations, random_state=self.seed) for C in self.C]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # told as a warning of the phase
            for fit in fits:
                fit.fit(train_ND, labels_N)
        on_val = [float(fit.score(*found["val"])) for fit in fits] if "val" in found else [0.0] * len(fits)
        best = max(range(len(fits)), key=lambda place: on_val[place])
        values = {"linear_probe": float(fits[best].score(*test)), "linear_probe_C": float(self.C[best])}
        unfinished = int(fits[best].n_iter_.max()) >= self.iterations
        told = [f"the linear probe had not converged after iterations={self.iterations}"] if unfinished else []
        return Done(values=values | ({"linear_probe_val": on_val[best]} if "val" in found else {}), warnings=told)

    def rehearse(self, network: nn.Module, setting: Setting) -> Rehearsal:
        per_image = forward_seconds(network, setting.data.test_loader(self.batch_size), setting.device)
        images = min(self.images, setting.data.sizes["train"]) + setting.data.sizes["val"] + setting.data.sizes["test"]
        return Rehearsal(network, [(f"features of {images:,} images", images * per_image)], "the logistic regression")

    def _has(self, setting: Setting, part: str) -> bool:
        if part == "val" and not setting.data.sizes["val"]:
            if len(self.C) > 1:
                raise ValueError(
                    f"C has {len(self.C)} values and there are no validation images: set one, or data.validation"
                )
            return False
        return True

    def _features(self, network: nn.Module, setting: Setting, part: str) -> Features:
        """Those of one part of the data, from the phase's folder if they are there."""
        path = Path(setting.folder) / f"features_{part}.npz"
        if path.is_file():
            with np.load(path) as stored:
                return stored["features"], stored["labels"]
        loaders = {
            "train": lambda: FirstImages(
                setting.data.train_loader(self.batch_size, self.seed, augment=False),
                min(self.images, setting.data.sizes["train"]),
                labels=True,
            ),
            "val": lambda: setting.data.val_loader(self.batch_size),
            "test": lambda: setting.data.test_loader(self.batch_size),
        }
        features_ND, labels_N = self.measure(network, loaders[part](), setting.device)
        with write_whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, features=features_ND, labels=labels_N)
        return features_ND, labels_N

    def measure(self, network: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], device: str = "cpu") -> Features:
        """The features (N, D) and labels (N,) of all images of a loader; modes and device stay as they were."""
        seen: list[Tensor] = []
        where, home = resolve(device), next(network.parameters()).device
        handle = self._find(network).register_forward_hook(lambda module, inputs, output: seen.append(output))
        rows, labels_N = [], []
        try:
            with kept_modes(network), undisturbed(where), torch.no_grad():
                network.eval().to(where)
                for images, labels in loader:
                    seen.clear()
                    network(images.to(where))
                    if len(seen) != 1 or not isinstance(seen[0], Tensor) or len(seen[0]) != len(images):
                        raise ValueError(
                            f"features={self.features!r} did not give one row of features per image, once in a forward "
                            "pass: name another submodule"
                        )
                    rows.append(seen[0].flatten(1).float().cpu())
                    labels_N.append(labels)
        finally:
            handle.remove()
            network.to(home)
        return torch.cat(rows).numpy(), torch.cat(labels_N).numpy()

    def _find(self, network: nn.Module) -> nn.Module:
        modules = dict(network.named_modules())
        if self.features not in modules or not self.features:
            known = ", ".join(name for name in modules if name and "." not in name)
            raise ValueError(f"features={self.features!r} is not a submodule of this network; at the top are {known}")
        return modules[self.features]
