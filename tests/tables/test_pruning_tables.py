"""Tables of Taylor pruning and of soft filter pruning: rows that cost what is published, schedules, one run of each."""

import pytest
import torch
from hydra.utils import instantiate

from lowrank_exp.files.results import Result
from lowrank_exp.network.cost import layer_costs
from support.cells import cells
from support.composed import made
from support.smoke import SMOKE
from support.table_rows import PUBLISHED, configured, row_of, rows_of

SFP, MACS, SPEARMAN = "sfp_cifar10", "taylor_macs", "taylor_spearman"


def built(row):
    """The network of a row and an image, on the meta device."""
    with torch.device("meta"):
        network = instantiate(configured(row).model)
    return network, torch.zeros(1, *network.input_shape, device="meta")


# FLOPs of table 1 re-computed to five digits, by depth and share of the filters that is pruned.
FLOPS = {
    20: {0.1: 34.372, 0.2: 28.665, 0.3: 23.431},
    32: {0.1: 58.578, 0.2: 49.050, 0.3: 40.276},
    56: {0.1: 106.99, 0.2: 89.818, 0.3: 73.967, 0.4: 59.437},
    110: {0.1: 215.92, 0.2: 181.55, 0.3: 149.77},
}


@pytest.mark.slow
@cells("row", [row for row in rows_of(SFP) if not row.endswith("dense")])
def test_flops_of_soft_filter_pruning(row):
    """What the phase `remove` of a row will say beside the paper, in its units."""
    cfg, (network, image) = configured(row), built(row)
    remove = made(cfg, "remove")
    said = remove.prune.schedule.published_costs(network, image)
    depth, percent = (int(number) for number in row.partition("/resnet")[2].split("_")[:2])
    assert percent / 100 == cfg.pruning.share
    assert said["sfp_published_macs"] / 1e6 == pytest.approx(FLOPS[depth][percent / 100], rel=2e-5)
    columns, printed = PUBLISHED[SFP].columns, row_of(row).published
    for name, figure in (("FLOPs", "sfp_published_macs"), ("pruned", "sfp_published_reduction")):
        assert columns[name].quantity == f"values.{figure}.remove"
        digits = 2 if printed[name] < 10 else 1 if printed[name] < 100 else 0
        digits = 1 if name == "pruned" else digits
        assert said[figure] * columns[name].factor == pytest.approx(printed[name], abs=0.50001 * 10**-digits)


def test_the_count_of_soft_filter_pruning_is_left_out_where_there_is_none():
    remove = made(configured(f"{SFP}/resnet20_30"), "remove")
    image = torch.zeros(1, 3, 32, 32, device="meta")
    for overrides in ("model.shortcut=b", "model=resnet50", "model=vgg11"):
        with torch.device("meta"):
            network = instantiate(configured(f"{SFP}/resnet20_30", *overrides.split()).model)
        assert remove.prune.schedule.published_costs(network, image) == {}


def test_soft_filter_pruning_trains_as_the_authors():
    """0.01 in the first of 200 epochs, then 0.1, x 0.2 at epochs 60, 120 and 160; a tenth of it from a trained one."""
    phases = configured(f"{SFP}/resnet56_30_pretrained").method.phases
    steps = 352  # of 45,000 images in batches of 128
    wanted = {0: 0.01, 1: 0.1, 59: 0.1, 60: 0.02, 119: 0.02, 120: 0.004, 159: 0.004, 160: 0.0008, 199: 0.0008}
    for train, fraction in ((phases.train, 1), (phases.prune.train, 0.1)):
        optimizer = instantiate(train.optimizer)([torch.nn.Parameter(torch.zeros(1))])
        group = optimizer.param_groups[0]
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 5e-4)
        assert (train.epochs, train.batch_size, train.augment) == (200, 128, True)
        rate = instantiate(train.schedule)
        for epoch, lr in wanted.items():
            for step in (epoch * steps, epoch * steps + steps - 1):
                assert group["lr"] * rate(step / (200 * steps)) == pytest.approx(fraction * lr, rel=1e-12)
    scratch = configured(f"{SFP}/resnet56_30").method
    assert (list(scratch.order), scratch.phases.prune.train.optimizer.lr) == (["prune", "remove"], 0.1)
    assert list(configured(f"{SFP}/resnet56_30_pretrained").method.order) == ["train", "prune", "remove"]


def test_a_slow_start_refuses_what_it_cannot_be():
    schedule = configured(f"{SFP}/resnet20_10").training.schedule
    for option, told in (({"until": 0.0}, "until is 0.0"), ({"factor": 0}, "factor is 0")):
        with pytest.raises(ValueError, match=told):
            instantiate(schedule, **option)(0.5)


@pytest.mark.parametrize("row", rows_of(MACS))
def test_targets_of_taylor_on_vgg16(row):
    cfg, (network, image), printed = configured(row), built(row), row_of(row).published
    dense = sum(cost.macs for cost in layer_costs(network, image).values())
    share = 1.0 if row.endswith("dense") else cfg.pruning.macs
    assert 2e-9 * dense * share == pytest.approx(printed["GFLOPs"], rel=0.0012)  # the paper counts biases too
    if row.endswith("dense"):
        return
    assert (cfg.pruning.updates, cfg.pruning.cost_weight, cfg.pruning.filters) == (30, 1e-3, 1)
    prune, finetune = (made(cfg, name) for name in ("prune", "finetune"))
    assert (prune.train.recipe.epochs, finetune.recipe.epochs, prune.train.recipe.batch_size) == (2, 5, 32)
    assert (prune.schedule.criterion.absolute, prune.schedule.form) == ("image", "l2")
    for train in (prune.train.recipe, finetune.recipe):
        group = train.optimizer([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]
        assert (group["lr"], group["momentum"], group["weight_decay"], train.schedule) == (1e-4, 0.9, 1e-4, None)


@pytest.mark.parametrize(("row", "filters"), [("vgg16_birds", 4224), ("alexnet_imagenet", 1376)])
def test_filters_that_the_oracle_of_a_table_silences(row, filters):
    network, _ = built(f"{SPEARMAN}/{row}")
    agree = made(configured(f"{SPEARMAN}/{row}"), "agree")
    assert sum(network.get_submodule(name).out_channels for name in agree.find_compared(network)) == filters
    figures = {column.quantity for column in PUBLISHED[SPEARMAN].columns.values()}
    known = {f"values.spearman_{name}_{form}.agree" for name in agree.criteria for form in ("per_layer", "raw", "l2")}
    assert figures <= known


def run(command, tmp_path, row):
    experiment = row.partition("/")[0]
    assert command(f"experiment={experiment}", f"hydra.sweeper.params.row={row}", *SMOKE) == 0
    (path,) = (tmp_path / "outputs" / experiment).glob("*/result.json")
    result = Result.read(path)
    assert (result.status, result.row) == ("ok", row.partition("/")[2])
    return {phase.name: phase for phase in result.phases}


@pytest.mark.slow
def test_a_row_of_soft_filter_pruning_runs(command, tmp_path):
    phases = run(command, tmp_path, f"{SFP}/resnet20_30")
    assert list(phases) == ["prune", "remove"]
    said = phases["remove"].values
    # eight layers of 4, 8 and 16 channels on 8 x 8 pixels: r = 0.7 counts once for the stem and the convolutions that
    # widen a stage, squared for the four others
    once, squared = 6912 + 2 * 4608, 4 * 9216
    macs = 0.7 * once + 0.49 * squared
    assert said["sfp_published_macs"] == pytest.approx(macs, rel=1e-6)
    assert said["sfp_published_reduction"] == pytest.approx(1 - macs / (once + squared), rel=1e-6)
    assert phases["prune"].values == {}
    assert said["sfp_published_macs"] < phases["remove"].macs < phases["prune"].macs


@pytest.mark.slow
def test_a_row_of_taylor_runs(command, tmp_path):
    phases = run(command, tmp_path, f"{MACS}/vgg16_8g")
    assert list(phases) == ["dense", "prune", "finetune"]
    assert 0.2 < phases["prune"].macs / phases["dense"].macs <= 0.2583
    assert phases["finetune"].macs == phases["prune"].macs
    assert phases["prune"].top5 is not None


@pytest.mark.slow
@pytest.mark.parametrize("row", rows_of(SPEARMAN))
def test_rows_of_correlations_run(command, tmp_path, row):
    *_, (name, agree) = run(command, tmp_path, row).items()
    assert name == "agree"
    wanted = {column.quantity for column in PUBLISHED[SPEARMAN].columns.values()}
    assert wanted <= {f"values.{figure}.agree" for figure in agree.values}
    assert all(-1 <= S <= 1 for S in agree.values.values())
