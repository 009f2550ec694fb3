"""Papers' tables: every row's ranks cost what the paper says, from shapes alone; one row of every table runs."""

import functools
import warnings

import pytest
import torch
from hydra.utils import instantiate

from lowrank_exp.files.results import LayerResult, PhaseResult, Result
from lowrank_exp.network.cost import layer_costs
from lowrank_exp.phases.factorize import Factorize
from lowrank_exp.report.quantities import measured, measured_over
from support.cells import cells
from support.composed import made
from support.enc_cases import PUBLISHED
from support.smoke import SMOKE
from support.table_rows import PUBLISHED as PAPERS
from support.table_rows import configured, row_of, rows_of

ROWS = {name: rows_of(name) for name in PAPERS}
# Round figures that label a row, and how far what its ranks cost may be off. AlexNet's 18.0 % of weights are 18.35 %,
# Zhang's 2x they give 2.10x, and Kim et al. print 15,484 million MACs where VGG-16 has 15,470.
LABELS = {"FLOPs": 0.02, "weights": 0.02, "conv FLOPs": 0.005, "speed-up": 0.053, "FLOPs dense": 0.001}
VGG16_SETS = {
    "enc_table1_vgg16/enc_map_ranks": "table 1 map",
    "enc_table1_vgg16/enc_model_ranks": "table 1 model",
    "enc_table1_vgg16/enc_inf_ranks": "table 1 inf",
    "enc_table2/enc_model_ranks": "table 2",
    "enc_table3/vgg16_model_ranks": "table 3",
}
# Zhang et al. 2016: dense cost of conv2 to conv7 over that of the ranks, the 1 x 1 layers counted, worked out by hand.
SPEED_UPS = {
    **{"same_2x": 2.104, "selected_2x": 2.101, "same_2_4x": 2.412, "selected_2_4x": 2.402, "same_3x": 3.011},
    **{"selected_3x": 3.003, "same_4x": 4.018, "selected_4x": 4.001, "same_5x": 5.016, "selected_5x": 5.003},
}


@functools.cache
def walked(row):
    """What the row's decompositions would leave of its network, without weights or data."""
    cfg = configured(row)
    with torch.device("meta"):
        network = instantiate(cfg.model)
    image = torch.zeros(1, *network.input_shape, device="meta")
    dense = layer_costs(network, image)
    phases = [made(cfg, name) for name in cfg.method.order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ranks that cost more than dense: some of Figure 7 (a) do
        for phase in phases:
            if isinstance(phase, Factorize):
                phase.walk_(network, image)
    small = layer_costs(network, image)
    layers = []
    for name, cost in dense.items():
        parts = [part for key, part in small.items() if f"{key}.".startswith(f"{name}.")]
        macs, weights = (sum(getattr(part, what) for part in parts) for what in ("macs", "weights"))
        layers.append(LayerResult(name, None, None, cost.macs, macs, cost.weights, weights))
    ends = [
        PhaseResult(name, macs=sum(c.macs for c in costs.values()), weights=sum(c.weights for c in costs.values()))
        for name, costs in (("dense", dense), ("small", small))
    ]
    return Result("ok", "0" * 16, None, row, 0, "decompose", {}, ends, layers, dense=ends[0])


def figures(row, paper):
    """Ours by column, in the paper's units, of all columns that need no data."""
    result = walked(row)
    ours = measured(result)
    for column in paper.columns.values():
        if column.layers:
            ours |= measured_over(result, column.layers)
    found = {name: ours.get(column.ours, float("nan")) * column.factor for name, column in paper.columns.items()}
    return {name: value for name, value in found.items() if value == value}


def published(row):
    """What the paper prints for a row, of the columns that need no data."""
    paper = PAPERS[row.partition("/")[0]]
    ours = figures(row, paper)
    return {name: value for name, value in paper.rows.get(row.rpartition("/")[2], {}).items() if name in ours}, ours


def by_hand(row):
    """The ranks that the row's file sets, by layer."""
    return row_of(row).set.get("rank", {}).get("ranks")


BY_TRAINING = {"svd_training_cifar10", "trp_cifar10", "trp_imagenet", "pufferfish"}  # test_svd_training_tables.py
WHOLE = {"repr_c3_32", "repr_metrics", "repr_resnet20"}  # networks as large as before: test_repr_tables.py
WHOLE |= {"clip_zero_shot", "stochastic_depth"}  # test_more_tables.py
QUANTIZED = {"ipq_imagenet"}  # as many MACs and weights as before: test_quantization_tables.py
PRUNED = {"sfp_cifar10", "taylor_macs", "taylor_spearman"}  # test_pruning_tables.py
ALL = [row for name, rows in ROWS.items() for row in rows if name not in BY_TRAINING | WHOLE | PRUNED | QUANTIZED]
RANKS = [row for row in ALL if by_hand(row) and row != "kim_tucker2/alexnet"]
SEARCHED = [row for row in ALL if not by_hand(row) and row != "kim_tucker2/vgg16"]


@pytest.mark.slow
@cells("row", RANKS)
def test_ranks_cost_what_the_paper_prints(row):
    printed, ours = published(row)
    assert printed or row == "zhang_vgg16/spatial_of_3c"  # of which no figure is published
    for name, value in printed.items():
        digits = len(repr(value).partition(".")[2]) if value % 1 else 0
        exact = pytest.approx(value, abs=0.5000001 * 10**-digits)
        assert ours[name] == (pytest.approx(value, rel=LABELS[name]) if name in LABELS else exact), name


@pytest.mark.slow
@cells("row", SEARCHED)
def test_a_search_ends_at_the_label_of_its_row(row):
    """Of several labels one is reached and none exceeded; ENC's 25 % is 25.2 %."""
    printed, ours = published(row)
    assert max(ours[name] / value for name, value in printed.items()) == pytest.approx(1, abs=0.0101)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["kim_tucker2/alexnet", "kim_tucker2/vgg16"])
def test_networks_whose_ranks_follow_the_weights(row):
    """Without weights EVBMF has no ranks; what is set by hand and the dense network are as printed."""
    printed, ours = published(row)
    assert ours["FLOPs dense"] == pytest.approx(printed["FLOPs dense"], rel=0.001)
    if row == "kim_tucker2/alexnet":
        assert (ours["conv2 weights dense"], ours["conv2 weights"]) == pytest.approx((307.2, 91.254), abs=1e-9)


@pytest.mark.parametrize("row", VGG16_SETS)
def test_ranks_of_enc_are_the_published_ones(row):
    assert list(by_hand(row).values()) == PUBLISHED[VGG16_SETS[row]]


@cells("name", SPEED_UPS)
def test_speed_ups_of_zhangs_ranks(name):
    ours = measured_over(walked(f"zhang_spp10/{name}"), "re:conv[2-7]")["macs_speedup over re:conv[2-7]"]
    assert ours == pytest.approx(SPEED_UPS[name], abs=0.0006)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [name for name in PAPERS if name not in WHOLE | PRUNED | QUANTIZED])
def test_one_row_of_every_table_runs(command, tmp_path, experiment):
    row = ROWS[experiment][0]
    sweep = (f"hydra.sweeper.params.row={row}", "hydra.sweeper.params.seed='0'")
    assert command(f"experiment={experiment}", *sweep, *SMOKE) == 0
    (path,) = (tmp_path / "outputs" / experiment).glob("*/result.json")
    result = Result.read(path)
    assert (result.status, result.experiment, result.row) == ("ok", experiment, row.rpartition("/")[2])
    assert [phase.name for phase in result.phases][-1] in ("finetune", "factorize", "train")
    assert result.config["data"]["_target_"] == "lowrank_exp.data.Digits"
    assert 0 < result.phases[-1].macs < result.phases[0].macs
    if by_hand(row):
        ranks = {layer.name: layer.rank for layer in result.layers if layer.rank is not None}
        eighth = {
            name: [max(1, round(r / 8)) for r in rank] if isinstance(rank, list) else max(1, round(rank / 8))
            for name, rank in by_hand(row).items()
        }
        assert {name: ranks[name] for name in eighth} == eighth


IMAGENET = ["enc_table1_vgg16", "enc_table2", "enc_table3", "enc_alexnet", "zhang_spp10", "zhang_vgg16", "kim_tucker2"]


@pytest.mark.parametrize("experiment", IMAGENET)
def test_rows_on_imagenet_ask_for_it_by_name(monkeypatch, tmp_path, experiment):
    monkeypatch.chdir(tmp_path)
    cfg = configured(ROWS[experiment][0])
    assert cfg.data.image_size == cfg.model.input_size
    with pytest.raises(
        ValueError, match=r"ImageNet \(ILSVRC-2012\) is not in data/imagenet .*data.root=.*/val/<class>"
    ):
        instantiate(cfg.data).setup()


def test_a_job_without_imagenet_ends_with_that(command, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    arguments = (
        "experiment=enc_table1_vgg16",
        "hydra.sweeper.params.row=enc_table1_vgg16/enc_map_ranks",
        "logger=none",
    )
    assert command(*arguments, "model.width=0.02") == 1
    said = capfd.readouterr().err.partition("error: ")[2]
    assert "ImageNet (ILSVRC-2012) is not in data/imagenet" in said
    assert str(tmp_path / "data/imagenet") in said
    assert "Traceback" not in said
