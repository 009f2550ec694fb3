"""Tables of product quantization: what the rows' codebooks take, from shapes alone, beside the published sizes."""

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from lowrank_exp.decomposition import Decompositions
from lowrank_exp.network.names import by_layer
from support.table_rows import PUBLISHED, configured, row_of, rows_of


@pytest.mark.parametrize("row", rows_of("ipq_imagenet"))
def test_sizes_are_those_of_the_paper(row):
    """Codebooks, the first layer, biases, norms without their statistics. It prints 3.19 where that is 3.18."""
    cfg = configured(row)
    with torch.device("meta"):
        network = instantiate(cfg.model)
    layers = {name: one for name, one in network.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)}
    ranks = by_layer(row_of(row).set["rank"]["ranks"], layers, "ranks")
    assert layers.keys() - ranks.keys() == {"conv1"}
    kinds = Decompositions.of(instantiate(cfg.decomposition)).by_layer(layers)
    size = 4 * sum(one.numel() for name, one in network.named_parameters() if name.endswith("bias") or one.dim() == 1)
    size += 4 * layers["conv1"].weight.numel()
    for name, rank in ranks.items():
        kind = kinds[name]
        assert rank == kind.clamped(layers[name], rank)
        size += int(kind.rank_bytes(layers[name], [rank])[0])
    published = PUBLISHED["ipq_imagenet"].rows[row.partition("/")[2]]
    assert size / 2**20 == pytest.approx(published["size"], abs=0.0151)
    dense = 4 * sum(one.numel() for one in network.parameters())
    assert dense / size == pytest.approx(published["size fewer"], abs=0.75)


def test_noise_and_codebooks_are_of_one_size():
    """Rows differ in their noise alone, and its blocks and centroids are those of the codebooks."""
    noises = {row.partition("/")[2]: configured(row).training.quant_noise for row in rows_of("quant_noise_digits")}
    assert noises["no_noise"] is None
    assert {name: (noise.phi, noise.p) for name, noise in noises.items() if noise is not None} == {
        "pq": ("pq", 0.1),
        "pq_all": ("pq", 1.0),
        "proxy": ("proxy", 0.1),
    }
    ranks = configured("quant_noise_digits/pq").rank.ranks
    assert noises["pq"].centroids == max(ranks.values()) == 16
