"""Order, length and contents of the loaders; what they do to the global random state; Lightning's epochs."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torchvision.transforms import functional as reference

from lowrank_exp.data import EpochBatches


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize(
    ("count", "batch_size", "shuffle", "sizes"),
    [
        (10, 5, True, [5, 5]),
        (11, 4, True, [4, 4, 3]),
        (9, 4, True, [4, 4]),  # a training batch of one image is dropped
        (9, 4, False, [4, 4, 1]),  # an evaluation batch never is
        (3, 1, True, [1, 1, 1]),
        (2, 128, True, [2]),
        (0, 4, False, []),
    ],
)
def test_batch_sizes(count, batch_size, shuffle, sizes):
    sampler = EpochBatches(count, batch_size, seed=3, shuffle=shuffle)
    batches = [positions for _, positions in sampler]
    assert [len(positions) for positions in batches] == sizes
    assert len(sampler) == len(sizes)
    seen = sorted(position for positions in batches for position in positions.tolist())
    assert len(set(seen)) == len(seen) == sum(sizes)
    assert set(seen) <= set(range(count))


def test_order_follows_from_seed_and_epoch_not_from_batch_size():
    def order(batch_size, seed, epoch):
        sampler = EpochBatches(60, batch_size, seed, shuffle=True)
        sampler.set_epoch(epoch)
        return torch.cat([positions for _, positions in sampler]).tolist()

    assert order(7, 1, 0) == order(60, 1, 0) == order(1, 1, 0)
    assert len({tuple(order(10, seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 0), "batch_size=0: at least 1"),
        ((4, 2, -1), "seed=-1: a whole number of at least 0"),
        ((1, 2, 0, True), "1 training images make no batch of 2"),
    ],
)
def test_sampler_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochBatches(*arguments)


def test_one_epoch_equals_a_per_image_pipeline(in_memory):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    data = in_memory(crop_padding=2, flip=True, mean=mean, std=std)
    data.setup()
    source = data._load()
    loader = data.train_loader(batch_size=16, seed=9)
    images, labels = epoch_of(loader, 3)
    assert len(loader) == 4
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64

    # The same epoch by torchvision, one image at a time, from the documented offsets and order.
    loader.sampler.set_epoch(3)
    positions = torch.cat([positions for _, positions in loader.sampler])
    offsets = loader.dataset.offsets(3)[positions]
    rows = data._train_rows[positions]
    for row, (dy, dx, flip), ours in zip(rows, offsets.tolist(), images, strict=True):
        pil = reference.pad(reference.to_pil_image(source.train_images[row]), 2)
        pil = reference.crop(pil, dy, dx, 8, 8)
        pil = reference.hflip(pil) if flip else pil
        torch.testing.assert_close(ours, reference.normalize(reference.to_tensor(pil), mean, std), rtol=0, atol=0)
    assert torch.equal(labels, source.train_labels[rows])


def test_augmentation_of_an_image_does_not_depend_on_the_batch_size(in_memory):
    data = in_memory(crop_padding=2, flip=True)
    data.setup()
    small, large = data.train_loader(5, seed=1), data.train_loader(100, seed=1)
    for ours, other in zip(epoch_of(small, 2), epoch_of(large, 2), strict=True):
        assert torch.equal(ours[:55], other[:55])


def test_epochs_differ_and_repeat(in_memory):
    data = in_memory(crop_padding=2, flip=True)
    data.setup()
    first, second = (epoch_of(data.train_loader(8, seed=1), epoch)[0] for epoch in (0, 1))
    assert not torch.equal(first, second)
    loader = data.train_loader(8, seed=1)
    epoch_of(loader, 1)
    assert torch.equal(epoch_of(loader, 0)[0], first)
    assert torch.equal(epoch_of(loader, 1)[0], second)


def test_repeated_grey_is_cropped_alike_in_every_channel(in_memory):
    data = in_memory(shape=(1, 8, 8), crop_padding=2, flip=True)
    data.setup()
    grey = epoch_of(data.train_loader(8, seed=1), 0)[0]
    data.adapt((3, 8, 8))
    assert torch.equal(epoch_of(data.train_loader(8, seed=1), 0)[0], grey.repeat(1, 3, 1, 1))


def test_without_augmentation_the_order_stays(in_memory):
    data = in_memory(crop_padding=2, flip=True)
    data.setup()
    images, labels = epoch_of(data.train_loader(8, seed=1, augment=False), 0)
    assert torch.equal(labels, epoch_of(data.train_loader(8, seed=1), 0)[1])
    positions = np.random.default_rng((1, 0, 0)).permutation(data.sizes["train"])[: len(labels)]
    expected = data._load().train_images[data._train_rows[positions]]
    torch.testing.assert_close(images, (expected / 255 - 0.5) / 0.5)


def test_evaluation_loaders_keep_every_image_in_order(in_memory):
    data = in_memory(crop_padding=2, flip=True)
    data.setup()
    source = data._load()
    images, labels = epoch_of(data.test_loader(11), 4)
    assert len(data.test_loader(11)) == 2
    torch.testing.assert_close(images, (source.test_images / 255 - 0.5) / 0.5)
    assert torch.equal(labels, source.test_labels)
    images, labels = epoch_of(data.val_loader(5), 0)
    torch.testing.assert_close(images, (source.train_images[data._val_rows] / 255 - 0.5) / 0.5)
    assert torch.equal(labels, source.train_labels[data._val_rows])


def test_loaders_leave_the_global_random_state_alone(in_memory):
    data = in_memory(crop_padding=2, flip=True)
    data.setup()
    torch.manual_seed(0)
    before = torch.get_rng_state(), str(np.random.get_state())
    for loader in (data.train_loader(8, seed=1), data.val_loader(8), data.test_loader(8)):
        list(loader)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())


class Recorder(pl.LightningModule):
    """Keeps the labels and the image sums that every epoch brought."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.epochs = {}

    def training_step(self, batch, batch_index):
        images, labels = batch
        self.epochs.setdefault(self.current_epoch, []).append((images.sum().item(), labels.tolist()))
        return self.layer(images.mean()[None]).sum()

    def validation_step(self, batch, batch_index):
        assert len(batch[0]) == len(batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*LeafSpec:FutureWarning")
def test_lightning_sets_the_epoch(in_memory):
    data = in_memory(crop_padding=2, flip=True, batch_size=16, seed=4)
    module = Recorder()
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert data.loads == 1
    assert sorted(module.epochs) == [0, 1]
    for epoch, batches in module.epochs.items():
        loader = data.train_loader(16, seed=4)
        loader.sampler.set_epoch(epoch)
        assert batches == [(images.sum().item(), labels.tolist()) for images, labels in loader]
    assert module.epochs[0] != module.epochs[1]
