"""MACs counted as soft filter pruning published them, and those of the network that is left."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp import models
from lowrank_exp.pruning import (
    channel_groups,
    keepable,
    molchanov_flops,
    remove_,
    removed_macs,
    sfp_published_macs,
)

IMAGE = torch.zeros(1, 3, 32, 32)
# FLOPs in 1e7 by depth and fraction of filters left: re-computed from the method, and as printed in table 1, with the
# printed percentage that is pruned. The 2.43 that is printed for ResNet-20 at 0.7 is a misprint for 2.34.
FLOPS = {
    20: {0.9: 3.4372, 0.8: 2.8665, 0.7: 2.3431, 0.6: 1.8668, 0.5: 1.4377},
    32: {0.9: 5.8578, 0.8: 4.9050, 0.7: 4.0276, 0.6: 3.2257, 0.5: 2.4994},
    56: {0.9: 10.699, 0.8: 8.9818, 0.7: 7.3967, 0.6: 5.9437, 0.5: 4.6227},
    110: {0.9: 21.592, 0.8: 18.155, 0.7: 14.977, 0.6: 12.059, 0.5: 9.4003},
}
PRINTED = {
    (20, 0.9): ("3.44e+07", 15.2),
    (20, 0.8): ("2.87e+07", 29.3),
    (20, 0.7): ("2.34e+07", 42.2),
    (32, 0.9): ("5.86e+07", 14.9),
    (32, 0.8): ("4.90e+07", 28.8),
    (32, 0.7): ("4.03e+07", 41.5),
    (56, 0.9): ("1.07e+08", 14.7),
    (56, 0.8): ("8.98e+07", 28.4),
    (56, 0.7): ("7.40e+07", 41.1),
    (56, 0.6): ("5.94e+07", 52.6),
    (110, 0.9): ("2.16e+08", 14.6),
    (110, 0.8): ("1.82e+08", 28.2),
    (110, 0.7): ("1.50e+08", 40.8),
}


@pytest.mark.parametrize("depth", FLOPS)
def test_the_published_column(depth):
    network = models.cifar_resnet(depth)
    dense = sfp_published_macs(network, IMAGE, 1.0)
    assert dense == {20: 40_550_400, 32: 68_861_952, 56: 125_485_056, 110: 252_887_040}[depth]
    for keep, wanted in FLOPS[depth].items():
        macs = sfp_published_macs(network, IMAGE, keep)
        assert macs / 1e7 == pytest.approx(wanted, rel=1e-4)
        if (depth, keep) in PRINTED:
            flops, percent = PRINTED[depth, keep]
            assert f"{macs:.2e}" == flops
            assert round(100 * (1 - macs / dense), 1) == percent


def test_the_network_that_is_left_has_other_macs():
    """Only channels inside the blocks go here; the stream keeps its width."""
    network = models.cifar_resnet(20)
    groups = channel_groups(network, IMAGE)
    keep = {g: keepable(g, range(int(0.3 * g.channels))) for g in groups if g.name.endswith("conv1") and "." in g.name}
    predicted = removed_macs(network, keep, IMAGE)
    assert network.layer1[0].conv1.out_channels == 16
    remove_(network, keep)
    with FlopCounterMode(display=False) as counter:
        network(IMAGE)
    assert 2 * predicted == counter.get_total_flops()
    kept = {16: 12, 32: 23, 64: 45}  # of 16, 32 and 64 channels, int(0.3 C) less
    stages = [(16, 16, 32), (16, 32, 16), (32, 64, 8)]
    inner = 0
    for inputs, width, side in stages:
        reads = [inputs, width, width]
        inner += sum(9 * side**2 * kept[width] * (read + width) for read in reads)
    assert predicted == 9 * 32**2 * 3 * 16 + inner + 640
    assert predicted != round(sfp_published_macs(models.cifar_resnet(20), IMAGE, 0.7))


def test_what_the_published_count_does_not_know():
    with pytest.raises(ValueError, match="use removed_macs"):
        sfp_published_macs(models.vgg(11, width=0.1), IMAGE, 0.7)
    with pytest.raises(ValueError, match='shortcut "a" only'):
        sfp_published_macs(models.cifar_resnet(20, shortcut="b"), IMAGE, 0.7)
    with pytest.raises(ValueError, match="above 0 and up to 1; got 0"):
        sfp_published_macs(models.cifar_resnet(20), IMAGE, 0)


def test_only_shapes_are_computed():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).to("meta")
    assert removed_macs(network, {"0": [1]}, IMAGE[..., :8, :8]) == 64 * (3 + 2)


def test_flops_of_molchanov():
    """VGG-16: 30.968e9, of which the paper prints 30.96; AlexNet with two groups and 102 classes: 1.443e9."""
    with torch.device("meta"):
        vgg = models.vgg(16, batch_norm=False, head="imagenet", num_classes=1000, input_size=224)
        alexnet = models.alexnet(num_classes=102)
    assert molchanov_flops(vgg, torch.zeros(1, 3, 224, 224)) / 1e9 == pytest.approx(30.968, abs=5e-4)
    assert molchanov_flops(alexnet, torch.zeros(1, *alexnet.input_shape)) / 1e9 == pytest.approx(1.443, abs=5e-4)
    with pytest.raises(ValueError, match="transposed"):
        molchanov_flops(nn.Sequential(nn.ConvTranspose2d(2, 3, 2)), torch.zeros(1, 2, 4, 4))
