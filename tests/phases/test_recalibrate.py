"""Batch-norm statistics that are estimated again, and kept where images say so."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.job.phase_keys import by_content
from lowrank_exp.network.copying import copy_network
from lowrank_exp.phases import Recalibrate, Setting
from lowrank_exp.training import answers_error


class Images:
    """Two classes told apart by the sign of the first channel's mean; training images are the validation images."""

    def __init__(self, validation: int = 64) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(64) % 2
        shift = (self.labels * 2.0 - 1)[:, None, None, None] * torch.tensor([1.0, 0.0])[None, :, None, None]
        self.images = 5 + shift + 0.3 * torch.randn(64, 2, 4, 4, generator=generator)
        self.sizes = {"train": 64, "val": validation}

    def train_loader(self, batch_size: int, seed: int, *, augment: bool) -> DataLoader:
        """Augmented images are brighter."""
        return DataLoader(TensorDataset(self.images + 3.0 * augment, self.labels), batch_size=batch_size)

    def val_sample(self, images: int, seed: int, batch_size: int) -> DataLoader:
        return DataLoader(TensorDataset(self.images[:images], self.labels[:images]), batch_size=batch_size)


def good_network() -> nn.Sequential:
    """Right on every image with the statistics of the images: the sign of channel 0 after its batch norm."""
    network = nn.Sequential(nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[0].running_mean.fill_(5.0)
        network[3].weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    return network.eval()


def setting(data: Images, reference: nn.Module | None = None, **more) -> Setting:
    parts = ("recalibrate", data, 0, "cpu", False, Path(), Path(), SVDStore(), lambda metrics: None)
    return Setting(*parts, network=lambda name: reference if name == "initial" else nn.Linear(1, 1), **more)


def statistics(network: nn.Module) -> list[torch.Tensor]:
    return [network[0].running_mean.clone(), network[0].running_var.clone(), network[0].num_batches_tracked.clone()]


PHASE = Recalibrate(max_images=64, batch_size=64, judged_on=100)


def test_new_statistics_are_kept_where_validation_images_say_so():
    network = good_network()
    network[0].running_mean[0] = 9.0  # every image looks as if it were of class 0
    done = PHASE.run_(network, setting(Images()))
    assert done.applied
    assert done.values == {"val_accuracy_before": 0.5, "val_accuracy_estimated": 1.0, "kept": 1.0}
    torch.testing.assert_close(network[0].running_mean, Images().images.mean((0, 2, 3)))


def test_the_old_statistics_are_put_back_where_new_ones_are_worse():
    data = Images()
    data.images[:32:2, 0] += 30  # training images that are far off: half of class 0; the judges below are others
    judges = TensorDataset(data.images[32:], data.labels[32:])
    data.val_sample = lambda images, seed, batch_size: DataLoader(judges, batch_size=batch_size)
    network = good_network()
    before = statistics(network)
    done = PHASE.run_(network, setting(data))
    assert (done.values["val_accuracy_before"], done.values["kept"]) == (1.0, 0.0)
    assert done.values["val_accuracy_estimated"] == 0.5
    assert all(torch.equal(one, other) for one, other in zip(statistics(network), before, strict=True))


def test_equal_accuracies_are_told_apart_by_the_loss():
    network = good_network()
    network[0].running_var[0] = 100.0  # right, and unsure
    done = PHASE.run_(network, setting(Images()))
    assert done.values == {"val_accuracy_before": 1.0, "val_accuracy_estimated": 1.0, "kept": 1.0}


@pytest.mark.parametrize(
    "folders", [{}, {"factorize": Path()}, {"train": Path(), "prune": Path(), "factorize": Path()}]
)
def test_without_validation_images_the_answers_decide_against_the_network_before(folders):
    reference = good_network()
    asked = []

    def network(name: str) -> nn.Module:
        asked.append(name)
        return copy_network(reference)

    parts = ("recalibrate", Images(validation=0), 0, "cpu", False, Path(), Path(), SVDStore(), lambda metrics: None)
    place = Setting(*parts, network=network, folders=folders)
    spoilt, right = good_network(), good_network()
    spoilt[0].running_mean[0] = 9.0
    done = PHASE.run_(spoilt, place)
    assert done.values["answers_error_before"] > 1 > done.values["answers_error_estimated"]
    assert done.values["kept"] == 1
    done = PHASE.run_(right, place)
    assert (done.values["answers_error_before"], done.values["kept"]) == (0.0, 0.0)
    assert torch.equal(right[0].running_mean, reference[0].running_mean)
    assert asked == ["prune" if "train" in folders else "initial"] * 2


def test_none_keeps_them_always_under_the_key_of_old():
    network = good_network()
    done = Recalibrate(max_images=64, batch_size=64).run_(network, setting(Images()))
    assert done.values == {}
    torch.testing.assert_close(network[0].running_mean, Images().images.mean((0, 2, 3)))
    config = {"_target_": "lowrank_exp.phases.Recalibrate", "max_images": 2000, "batch_size": 250}
    assert by_content({**config, "augment": False, "judged_on": None}) == config
    assert by_content({**config, "augment": True, "judged_on": None}) != config
    assert by_content({**config, "judged_on": 5000}) != config


def test_statistics_are_of_augmented_images_where_that_is_asked_for():
    network = good_network()
    Recalibrate(max_images=64, batch_size=64, augment=True).run_(network, setting(Images()))
    torch.testing.assert_close(network[0].running_mean, Images().images.mean((0, 2, 3)) + 3)
    with pytest.raises(ValueError, match="augment='yes' is neither true nor false"):
        Recalibrate(max_images=64, batch_size=64, augment="yes")


def test_a_network_without_batch_norm_is_left_alone():
    network = nn.Sequential(nn.Flatten(), nn.Linear(32, 2))
    done = PHASE.run_(network, setting(Images()))
    assert (done.applied, done.values) == (False, {})


def test_judges_below_one_are_refused():
    with pytest.raises(ValueError, match="judged_on of at least 1, a whole number, got 0"):
        Recalibrate(max_images=64, batch_size=64, judged_on=0)


def test_answers_that_are_not_finite_are_infinitely_far():
    network, reference = good_network(), good_network()
    network[3].weight.data.fill_(float("nan"))
    assert answers_error(network, reference, [Images().images], "cpu") == float("inf")
    assert answers_error(reference, good_network(), [Images().images], "cpu") == 0.0
