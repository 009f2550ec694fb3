"""Thirty percent of every layer's channels pruned by every criterion: forward, backward, save, load."""

import copy

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.nn.functional import cross_entropy

from lowrank_exp import load, models, save
from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.pruning import remove_
from lowrank_exp.pruning.combine import normalise
from lowrank_exp.pruning.schedules import View
from lowrank_exp.pruning.selection import pick_lowest_of_each

NAMES = sorted(path.stem for path in (CONF / "pruning/criterion").glob("*.yaml"))
CRITERIA = [name for name in NAMES if name != "oracle"]  # which takes an evaluation for every filter
WITHOUT_NORM = ("alexnet", "vgg16 without batch norm", "densenet", "efficientnet_b0")  # behind one layer at least
NETWORKS = {
    "resnet20": (lambda: models.cifar_resnet(20, input_size=8), 8),
    "resnet18": (lambda: models.resnet(18, stem="cifar", width=0.1, input_size=16), 16),
    "vgg16": (lambda: models.vgg(16, width=0.1), 32),
    "vgg16 without batch norm": (lambda: models.vgg(16, width=0.1, batch_norm=False), 32),
    "alexnet": (lambda: models.alexnet(width=0.1, num_classes=7, input_size=67), 67),
    "densenet": (lambda: models.densenet(depth=22, growth=4, input_size=8), 8),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=7, width_mult=0.2), 64),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(num_classes=7), 64),
}


def configured(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=["method=prune", f"pruning/criterion={name}"])
    return instantiate(cfg.pruning.criterion, _convert_="all")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_thirty_percent_by_every_criterion(name, tmp_path):
    build, side = NETWORKS[name]
    torch.manual_seed(0)
    network = build()
    images, labels = torch.randn(4, 3, side, side), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        network.train()(torch.randn(16, 3, side, side))  # batch norms see some images
    view = View.of(network, (3, side, side), batches=lambda ranking: [(images, labels)])
    kept = set()
    for criterion in CRITERIA:
        if criterion == "bn_scale" and name in WITHOUT_NORM:
            with pytest.raises(ValueError, match="batch norm"):
                view.scores(configured(criterion))
            continue
        scores = view.of_groups(normalise(view.scores(configured(criterion)), "l2"))
        chosen = pick_lowest_of_each(scores, 0.3, groups=view.groups)
        channels = sum(group.channels for group in view.groups)
        assert 0.2 * channels < sum(map(len, chosen.values())) <= 0.3 * channels
        small = copy.deepcopy(network)
        remove_(small, view.without(chosen), groups=view.groups)
        assert 0.2 < sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in network.parameters()) < 0.98
        cross_entropy(small.train()(images), labels).backward()
        assert all(p.grad.shape == p.shape and p.grad.isfinite().all() for p in small.parameters())
        save(small, tmp_path / f"{criterion}.pt")
        again = load(tmp_path / f"{criterion}.pt", model=build())
        with torch.no_grad():
            assert torch.equal(again.eval()(images), small.eval()(images))
        kept.add(tuple(map(tuple, chosen.items())))
    assert len(kept) > len(CRITERIA) / 2  # criteria differ in what they choose
