"""Costs that papers print, from their ranks and the shapes of their networks alone."""

import pytest
from torch import nn

from lowrank_exp.decomposition import ChannelSVD, LinearSVD
from support.cells import cells

# SPP-10 of Zhang et al. 2015, conv2 ... conv7: in and out channels, kernel, side of the map.
SPP10 = [(96, 256, 5, 35), (256, 512, 3, 18)] + [(512, 512, 3, 18)] * 4
# His table of rank selection: nominal speed-up, selected or not, ranks of conv2 ... conv7. conv1 is left out of the
# count and the 1 x 1 convolution is in it; the 2x rows give 2.10, the others their label to 0.5 %.
ZHANG = [
    (2.104, (110, 199, 219, 219, 219, 219)),
    (2.101, (83, 182, 211, 239, 237, 253)),
    (2.412, (96, 174, 191, 191, 191, 191)),
    (2.402, (74, 162, 187, 207, 205, 219)),
    (3.011, (77, 139, 153, 153, 153, 153)),
    (3.003, (62, 138, 149, 166, 162, 167)),
    (4.018, (57, 104, 115, 115, 115, 115)),
    (4.001, (50, 112, 114, 122, 117, 119)),
    (5.016, (46, 83, 92, 92, 92, 92)),
    (5.003, (41, 94, 93, 98, 92, 90)),
]


@cells(("speedup", "ranks"), ZHANG)
def test_speed_ups_of_zhangs_ranks_on_spp10(speedup, ranks):
    dense = small = 0
    for (I, O, K, side), rank in zip(SPP10, ranks, strict=True):
        layer = nn.Conv2d(I, O, K, padding=K // 2, device="meta")
        dense += O * I * K * K * side * side
        small += int(ChannelSVD().rank_macs(layer, ((1, I, side, side),), [rank])[0])
    assert dense / small == pytest.approx(speedup, abs=0.0006)


@pytest.mark.parametrize(
    ("features", "rank", "printed"),
    [
        ((18432, 4096), 250, 13.4),
        ((18432, 4096), 950, 3.5),
        ((4096, 4096), 350, 5.8),
        ((4096, 4096), 650, 3.14),
        ((4096, 4096), 250, 8.1),  # printed for the last layer, whose 4096 x 1000 weight gives 3.22
        ((4096, 4096), 850, 2.4),
    ],
)
def test_weight_reductions_of_dentons_linear_layers(features, rank, printed):
    layer = nn.Linear(*features, device="meta")
    reduction = layer.weight.numel() / LinearSVD().rank_weights(layer, [rank])[0]
    assert reduction == pytest.approx(printed, rel=0.013)


def test_dentons_last_layer_as_it_is():
    layer = nn.Linear(4096, 1000, device="meta")
    assert layer.weight.numel() / LinearSVD().rank_weights(layer, [250])[0] == pytest.approx(3.22, abs=0.005)
