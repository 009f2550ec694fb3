"""`ImageData`: what every data set has in common, from decoded images to normalised batches."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lowrank_exp.checks import one_of, whole
from lowrank_exp.data.adapt import Shape, choose_shape, image_size_pair
from lowrank_exp.data.appearance import Appearance
from lowrank_exp.data.batches import EpochBatches, ImageBatches, batch_loader
from lowrank_exp.data.images import GIB, LabelledImages, check_memory
from lowrank_exp.data.split import check_fraction, stratified_split
from lowrank_exp.data.streamed import StreamedImages, StreamedSource
from lowrank_exp.data.views import ImageView

# Raised by hand when the order, the augmentation or the normalisation changes: results stored under an older
# digest are then not taken for results of this code.
DIGEST_VERSION = 1


class ImageData(LightningDataModule, ABC):
    """A data set in memory as uint8 tensors, or streamed from its files, cut into training, validation and test images.

    The constructor reads nothing. `setup` decodes, or lists the files, and splits; `adapt` brings the images to a
    network's input shape, before or after `setup`; the loaders give `(images float32 (B, C, H, W), labels int64 (B,))`.
    For one device: the sampler is not made to be shared among processes.

    A data set is a final class that gives `_load`. Batches, their order and their augmentation: see
    `batches.py`.

    Args:
        num_classes: how many outputs the network has; checked against the data. None = not checked.
        validation: fraction of every class's training images kept for validation, 0 or more and below 1;
            with 0 the validation loader is empty. The test images are for reporting only.
        split_seed: of the validation split; apart from the experiment's seed, so that all seeds share one
            split.
        image_size: H = W, or (H, W), for a network that declares no input shape, and for folders whose images
            differ in size. None = as the data are.
        channels: 1 or 3, for a network that declares no input shape. None = as the data are.
        cache_dir: folder for decoded images; None = decode at every start. Unused where nothing is decoded.
        memory_limit: bytes that the decoded or resized images may take.
        progress: show a progress bar while decoding.
        batch_size: of the loaders that Lightning asks for (`train_dataloader` ...).
        seed: of the training loader that Lightning asks for.
        appearance: what the network sees of an image, see `Appearance`: `flip`, `mean`, `train_view` ...

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        validation: float = 0.1,
        split_seed: int = 0,
        image_size: int | Sequence[int] | None = None,
        channels: int | None = None,
        cache_dir: str | None = "outputs/cache/data",
        memory_limit: int = 8 * GIB,
        progress: bool = False,
        batch_size: int = 128,
        seed: int = 0,
        **appearance: Any,
    ) -> None:
        super().__init__()
        check_fraction(validation, "validation")
        for name, number, least in (
            ("split_seed", split_seed, 0),
            ("memory_limit", memory_limit, 1),
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
        ):
            whole(name, number, least, f"data.{name}={number!r}: a whole number of at least {least} is needed")
        wrong = f"data.channels={channels!r}: 1 (grey), 3 (RGB) or null is needed"
        one_of("channels", channels, (None, 1, 3), wrong)
        self.appearance = Appearance(**appearance)
        self.geometry = self.appearance.geometry
        self._declared_classes = num_classes
        self.validation = validation
        self.split_seed = split_seed
        self.image_size = image_size_pair(image_size)
        self.channels = channels
        self.cache_dir = cache_dir
        self.memory_limit = memory_limit
        self.progress = progress
        self.batch_size = batch_size
        self.seed = seed
        self._network_shape: Shape | None = None
        self._dtype = torch.float32
        self._source: LabelledImages | StreamedSource | None = None

    @abstractmethod
    def _load(self) -> LabelledImages | StreamedSource:
        """Read the data set; raise ValueError saying what is missing where."""

    def count_classes(self) -> int:
        """How many classes the data have, before they are read; a data set that cannot tell raises ValueError."""
        raise ValueError("data.num_classes is null, and only image folders tell it themselves: set data.num_classes")

    def setup(self, stage: str | None = None) -> None:
        """Decode and split everything; a second call does nothing. `stage` is Lightning's and is not used.

        Raises:
            ValueError: the data are missing, damaged, too large, or do not fit `num_classes`, `image_size`,
                `channels` or the network's shape.
        """
        if self._source is not None:
            return
        source = self._load()
        number = len(source.classes)
        if self._declared_classes is not None and self._declared_classes != number:
            raise ValueError(
                f"data has {number} classes, data.num_classes is {self._declared_classes}: set "
                f"data.num_classes={number}"
            )
        train_rows, val_rows = stratified_split(source.train_labels, self.validation, self.split_seed, source.classes)
        self._fit(source, self._network_shape)
        self._source, self._train_rows, self._val_rows = source, train_rows, val_rows

    def adapt(self, input_shape: tuple[int, int, int] | None, dtype: torch.dtype = torch.float32) -> None:
        """Bring the images to a network's input shape (C, H, W) and type, before or after `setup`; callable again.

        Images are resized to H x W (bilinear, antialiased; once, not per batch), unless views of that size are cut
        from them (see `Geometry`), and grey is repeated to 3 channels. None, for a network that declares no shape,
        leaves it to `image_size` and `channels`.

        Raises:
            ValueError: colour images and a network of 1 channel, a contradiction to `image_size`, `channels` or the
                views, or too large for `memory_limit`. Before `setup` nothing can be checked: `setup`
                raises then.
        """
        if self._source is not None:
            self._fit(self._source, input_shape)
        self._network_shape, self._dtype = input_shape, dtype

    def _fit(self, source: LabelledImages | StreamedSource, network_shape: Shape | None) -> None:
        stored = self.geometry.shape_stored(source.image_shape)
        shape = choose_shape(stored, network_shape, self.image_size, self.channels)
        waiting = self.geometry.shape_kept(stored, shape)
        self.appearance.check_size(*shape[1:])
        if isinstance(source, LabelledImages):
            count = len(source.train_images) + len(source.test_images)
            check_memory(count, (source.image_shape[0], *waiting[1:]), self.memory_limit)
        images = self.geometry.bring(source.train_images, waiting), self.geometry.bring(source.test_images, waiting)
        (self._train_images, self._test_images), self._shape, self._kept = images, shape, waiting

    def _ready(self) -> LabelledImages | StreamedSource:
        if self._source is None:
            raise ValueError(f"{type(self).__name__} holds no data yet: call setup() first")
        return self._source

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels (after setup)."""
        source = self._ready()
        return source.names or source.classes

    @property
    def num_classes(self) -> int:
        """Number of classes that the data have (after setup)."""
        return len(self.classes)

    @property
    def test_views(self) -> int:
        """How many views of a test image the network sees; if more than one, a test batch is (B, views, C, H, W)."""
        return self.geometry.test_views

    @property
    def input_shape(self) -> Shape:
        """(C, H, W) of the images in a batch (after setup)."""
        self._ready()
        return self._shape

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images in `train`, `val` and `test` (after setup)."""
        source = self._ready()
        return {"train": len(self._train_rows), "val": len(self._val_rows), "test": len(source.test_labels)}

    @property
    def digest(self) -> str:
        """32 hex digits of SHA-256 over all that decides the numbers a training sees (after setup).

        Pixels, labels, class names, split, input shape, normalisation and augmentation; not paths, cache or
        progress, nor batch size and seed, which belong to the training.
        """
        decisive = {
            "version": DIGEST_VERSION,
            "content": self._ready().digest,
            "input_shape": self._shape,
            **self.appearance.decisive(self._shape[0]),
        }
        sha = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
        for rows in (self._train_rows, self._val_rows):
            sha.update(f"{len(rows)} rows".encode())
            sha.update(rows.numpy())
        return sha.hexdigest()[:32]

    def train_loader(self, batch_size: int, seed: int, augment: bool = True) -> DataLoader:
        """Shuffled training batches; order and augmentation follow from `seed` and the epoch alone.

        The last, incomplete batch is kept, unless it would hold a single image (see `EpochBatches`).

        Args:
            batch_size: images per batch.
            seed: of order and augmentation, at least 0.
            augment: False leaves out crop, flip and cutout (calibration, say), where `train_view` cuts for the centre
                crop; the order stays the same.
        """
        source, seen = self._ready(), self.appearance
        view = (self.geometry.view_in_training if augment else self.geometry.view_unaugmented)(self._kept, self._shape)
        batches = ImageBatches(
            self._train_images,
            source.train_labels,
            self._train_rows,
            *seen.normalisation(self._shape[0]),
            crop_padding=seen.crop_padding if augment else 0,
            flip=seen.flip and augment,
            cutout=seen.cutout if augment else 0,
            view=view,
            bgr=self.geometry.channel_order == "bgr",
            seed=seed,
            dtype=self._dtype,
        )
        return batch_loader(batches, EpochBatches(len(batches), batch_size, seed, shuffle=True))

    def val_loader(self, batch_size: int) -> DataLoader:
        """Validation batches in a fixed order, without augmentation; no image is left out."""
        source = self._ready()
        view = self.geometry.view_unaugmented(self._kept, self._shape)
        return self._make_fixed_loader(self._train_images, source.train_labels, self._val_rows, batch_size, view)

    def val_sample(self, images: int, seed: int, batch_size: int) -> DataLoader:
        """Batches of so many validation images drawn by `seed`, or of all where there are fewer."""
        source = self._ready()
        drawn = torch.randperm(len(self._val_rows), generator=torch.Generator().manual_seed(seed))[:images]
        view = self.geometry.view_unaugmented(self._kept, self._shape)
        return self._make_fixed_loader(self._train_images, source.train_labels, self._val_rows[drawn], batch_size, view)

    def test_loader(self, batch_size: int) -> DataLoader:
        """Test batches in a fixed order, without augmentation; no image is left out. For reporting only."""
        labels = self._ready().test_labels
        view = self.geometry.view_in_testing(self._kept, self._shape)
        return self._make_fixed_loader(self._test_images, labels, torch.arange(len(labels)), batch_size, view)

    def _make_fixed_loader(
        self, images: Tensor | StreamedImages, labels: Tensor, rows: Tensor, batch_size: int, view: ImageView | None
    ) -> DataLoader:
        bgr = self.geometry.channel_order == "bgr"
        scale = self.appearance.normalisation(self._shape[0])
        batches = ImageBatches(images, labels, rows, *scale, view=view, bgr=bgr, dtype=self._dtype)
        return batch_loader(batches, EpochBatches(len(batches), batch_size))

    def train_dataloader(self) -> DataLoader:
        """Lightning's hook: `train_loader` with the constructor's batch size and seed."""
        return self.train_loader(self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader:
        """Lightning's hook: `val_loader` with the constructor's batch size."""
        return self.val_loader(self.batch_size)

    def test_dataloader(self) -> DataLoader:
        """Lightning's hook: `test_loader` with the constructor's batch size."""
        return self.test_loader(self.batch_size)
