"""Tables of SVD training, trained rank pruning and Pufferfish: rows that cost what is published, from shapes alone."""

import functools
import json
import warnings

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lowrank_exp.files.results import Result
from lowrank_exp.network.cost import layer_costs
from lowrank_exp.phases.factorize import Factorize
from lowrank_exp.phases.svd import ToSVD, Truncate
from lowrank_exp.report.cli import main as report
from support.cells import cells
from support.composed import made
from support.smoke import SMOKE
from support.table_rows import PUBLISHED, configured, row_of, rows_of

SURGERY = (Factorize, ToSVD, Truncate)


@functools.cache
def walked(row):
    """The dense network of a row and what its method makes of it, on the meta device."""
    cfg = configured(row)
    with torch.device("meta"):
        dense, network = instantiate(cfg.model), instantiate(cfg.model)
    image = torch.zeros(1, *network.input_shape, device="meta")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in cfg.method.order:
            phase = made(cfg, name)
            if isinstance(phase, SURGERY):
                phase.walk_(network, image)
    return dense, network


def costs(network, what, linear=True):
    image = torch.zeros(1, *network.input_shape, device="meta")
    named = layer_costs(network, image).items()
    return sum(getattr(cost, what) for name, cost in named if linear or not name.startswith("linear"))


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_published_ranks_of_svd_training():
    """The reproduction prints 2.175783x; MACs and weights are worked out from its ranks by hand."""
    dense, small = walked("svd_training_cifar10/resnet20_channel_hoyer_ranks")
    assert (costs(dense, "macs", linear=False), costs(small, "macs", linear=False)) == (40_812_544, 18_757_632)
    assert (costs(dense, "weights", linear=False), costs(small, "weights", linear=False)) == (270_256, 144_648)
    values = PUBLISHED["svd_training_cifar10"].rows["resnet20_channel_hoyer_ranks"]
    assert values["FLOPs fewer"] == pytest.approx(40_812_544 / 18_757_632, abs=5e-7)
    assert (values["FLOPs dense"], values["weights"]) == (40.812544, 144.648)


@pytest.mark.parametrize("depth", [20, 32, 56, 110])
def test_networks_of_svd_training_are_the_authors(depth):
    rows = [row for row in rows_of("svd_training_cifar10") if f"/resnet{depth}_" in row]
    models = [row_of(row).set.get("model") for row in rows]
    assert models == [models[0]] * len(rows)  # so one row tells for all of its network
    with torch.device("meta"):
        network = instantiate(configured(rows[0]).model)
    macs, weights = costs(network, "macs", linear=False), costs(network, "weights", linear=False)
    for row in rows:
        values = PUBLISHED["svd_training_cifar10"].rows[row.partition("/")[2]]
        assert macs == round(1e6 * values["FLOPs dense"])
        assert weights == round(1e3 * values["weights dense"]) if depth == 20 else "weights dense" not in values


# The command lines in the authors' repository: weight of the penalty, what is removed of the energy (or up to a value).
COMMAND_LINES = {
    "resnet20_channel": {"hoyer": (0.07, 3e-6), "hoyer_square": (1e-2, 5e-6), "l1": (0.3, 1e-1), "none": 3e-1},
    "resnet20_spatial": {"hoyer": (0.1, 1e-1), "hoyer_square": (1e-2, "0.1"), "l1": (0.3, 1e-1), "none": 3e-1},
    "resnet32_channel": {"hoyer": (0.03, 5e-3), "hoyer_square": (0.007, 1e-3), "l1": (0.1, 5e-2)},
    "resnet32_spatial": {"hoyer": (0.005, 5e-4), "hoyer_square": (3e-4, 5e-3), "l1": (0.1, 1e-2)},
    "resnet56_channel": {"hoyer": (0.001, 5e-3), "hoyer_square": (1e-4, 7e-3), "l1": (0.3, 1e-1), "none": 3e-1},
    "resnet56_spatial": {"hoyer": (0.003, 1e-1), "hoyer_square": (1e-4, 1e-1), "l1": (0.1, 1e-1), "none": 3e-1},
    "resnet110_channel": {"hoyer": (0.001, 1e-2), "hoyer_square": (3e-4, 1e-3), "l1": (0.1, 3e-1)},
    "resnet110_spatial": {"hoyer": (0.01, 1e-3), "hoyer_square": (3e-4, 1e-3), "l1": (0.3, 5e-2)},
}
ROWS = [(network, penalty) for network, of in COMMAND_LINES.items() for penalty in of]


def test_rows_of_svd_training_are_the_command_lines():
    names = [f"svd_training_cifar10/{network}_{penalty}" for network, penalty in ROWS]
    assert sorted([*names, "svd_training_cifar10/resnet20_channel_hoyer_ranks"]) == sorted(
        rows_of("svd_training_cifar10")
    )


@cells(("network", "penalty"), ROWS)
def test_weights_and_energies_of_svd_training(network, penalty):
    row, given = row_of(f"svd_training_cifar10/{network}_{penalty}"), COMMAND_LINES[network][penalty]
    assert row.choose["decomposition"] == f"{network.partition('_')[2]}_svd"
    if penalty == "none":
        assert (row.set["method"]["phases"]["truncate"], row.set.get("regularizer")) == ({"energy": given}, None)
        assert row.set["method"]["order"] == ["to_svd", "train", "truncate", "finetune"]
        return
    weight, removed = given
    cut = {"energy": None, "threshold": 0.1} if removed == "0.1" else {"energy": removed}
    assert row.set["method"]["phases"]["truncate"] == cut
    assert row.set["method"]["order"] == ["to_svd", "train", "sparse", "truncate", "finetune"]
    assert row.choose["regularizer"] == f"svd_{penalty}"
    assert row.set["regularizer"]["terms"] == {penalty: {"weight": weight}}


@pytest.mark.parametrize("kind", ["channel_hoyer_square", "spatial_l1", "spatial_none"])
def test_phases_of_svd_training_get_what_a_row_says(kind):
    phases, penalty = configured(f"svd_training_cifar10/resnet56_{kind}").method.phases, kind.partition("_")[2]
    sparse = {"hoyer_square": {"hoyer_square": 1e-4}, "l1": {"l1": 0.1}, "none": {}}[penalty]
    order = ("train", "sparse") if sparse else ("train",)
    weights = [{name: term.weight for name, term in phases[one].regularizer.terms.items()} for one in order]
    assert weights == [{"orthogonality": 1.0}, {"orthogonality": 1.0, **sparse}][: len(order)]
    conv = instantiate(phases.to_svd.decomposition.conv)
    assert (conv.name, phases.to_svd.decomposition.linear) == (f"{kind.partition('_')[0]}_svd", None)
    assert (phases.train.epochs, phases.sparse.epochs, phases.finetune.epochs) == (164, 164, 164)
    cut = instantiate(phases.truncate)
    energy = {"hoyer_square": 7e-3, "l1": 0.1, "none": 0.3}[penalty]
    assert (cut.by, cut.costly, cut.energy) == ("by_s", "truncate", energy)


def test_rates_drop_at_the_authors_epochs():
    """Of 164 epochs of 450 steps the learning rate falls tenfold at the first step of epochs 81 and 122."""
    for phase in ("train", "finetune"):
        options = configured("svd_training_cifar10/resnet20_channel_l1").method.phases[phase]
        rate, steps = instantiate(options.schedule), 164 * 450
        factors = [rate(step / steps) for step in (0, 81 * 450 - 1, 81 * 450, 122 * 450 - 1, 122 * 450)]
        assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01], abs=1e-12)
        optimizer = instantiate(options.optimizer)([torch.nn.Parameter(torch.zeros(1))])
        assert type(optimizer) is torch.optim.Adam
        assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"], options.batch_size) == (1e-3, 0, 100)


@pytest.mark.parametrize("depth", [20, 32])
def test_dense_parameters_of_trp(depth):
    dense, _ = walked(f"trp_cifar10/resnet{depth}_dense")
    assert round(parameters(dense) / 1e6, 2) == PUBLISHED["trp_cifar10"].rows[f"resnet{depth}_dense"]["params"]


@pytest.mark.parametrize("row", [row for row in rows_of("trp_cifar10") if "resnet20" in row])
def test_penalty_of_trp_and_decomposition_agree(row):
    cfg = configured(row)
    regularizer = instantiate(cfg.method.phases.train.regularizer, _convert_="all")
    if row.endswith("dense"):
        assert (regularizer.terms, regularizer.projection) == ({}, None)
        return
    kind = "spatial_svd" if row.endswith("spatial") else "channel_svd"
    term, conv = regularizer.terms["nuclear_norm"], instantiate(cfg.method.phases.to_svd.decomposition.conv)
    assert {term.penalty.decomposition.name, regularizer.projection.decomposition.name, conv.name} == {kind}
    assert (term.weight, regularizer.projection.energy, regularizer.projection.period) == (3e-4, 0.9, 1)
    cut = instantiate(cfg.method.phases.truncate)
    assert (cut.threshold, cut.energy, cut.rank) == (0.05, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("row", rows_of("trp_imagenet"))
def test_budgets_of_trp_on_imagenet(row):
    dense, small = walked(row)
    ratio = costs(small, "macs") / costs(dense, "macs")
    (values,) = [values for name, values in PUBLISHED["trp_imagenet"].rows.items() if row.endswith(f"/{name}")]
    ours, wanted = (
        (1 / ratio, values["FLOPs fewer"]) if "resnet50" in row else (100 * (1 - ratio), values["FLOPs gone"])
    )
    assert ours == pytest.approx(wanted, rel=0.01)
    weight = configured(row).method.phases.train.regularizer.terms.nuclear_norm.weight
    assert weight == (0 if row.endswith("plain") else 3e-4)


STEM_NORM = 2 * 64  # the authors' ResNet-18 has no batch norm behind its stem


@pytest.mark.parametrize(
    ("row", "fewer"),
    [
        ("resnet18_hybrid", STEM_NORM),
        ("resnet18_hybrid_cold", STEM_NORM),
        ("resnet18_dense", STEM_NORM),
        ("vgg19_hybrid", 0),
        ("vgg19_dense", 0),
    ],
)
def test_parameters_of_pufferfish(row, fewer):
    dense, small = walked(f"pufferfish/{row}")
    values = PUBLISHED["pufferfish"].rows[row]
    assert parameters(small) - fewer == values["params"]
    of_dense = PUBLISHED["pufferfish"].rows[f"{row.partition('_')[0]}_dense"]["params"]
    assert parameters(dense) - fewer == of_dense == values.get("params dense", of_dense)


def test_parameters_that_the_notes_of_pufferfish_name():
    assert [parameters(network) for network in walked("pufferfish/resnet18_hybrid")] == [11_173_962, 3_336_266]


def test_low_rank_everywhere_has_fewer_parameters_than_the_hybrid():
    """Two more convolutions at rank 16 of 64 x 64 x 3 x 3."""
    _, hybrid = walked("pufferfish/resnet18_hybrid")
    _, everywhere = walked("pufferfish/resnet18_low_rank")
    assert parameters(hybrid) - parameters(everywhere) == 2 * (64 * 64 * 9 - 16 * (64 * 9 + 64))


def test_pufferfish_goes_on_with_the_schedule_of_300_epochs():
    cfg = configured("pufferfish/resnet18_hybrid")
    warmup, train = cfg.method.phases.warmup, cfg.method.phases.train
    assert (warmup.epochs, train.epochs, warmup.schedule) == (80, 220, None)
    rate = instantiate(train.schedule)
    whole = instantiate(configured("pufferfish/resnet18_dense").method.phases.train.schedule)
    for epoch in (80, 149, 150, 249, 250, 299):  # at the middle of each
        assert rate((epoch + 0.5 - 80) / 220) == pytest.approx(whole((epoch + 0.5) / 300), abs=1e-12)
    assert (rate(69.5 / 220), rate(70.5 / 220), rate(170.5 / 220)) == pytest.approx((1, 0.1, 0.01), abs=1e-12)


def test_rows_on_imagenet_ask_for_it_by_name(monkeypatch, tmp_path):
    row = "trp_imagenet/resnet50_channel_2_23x"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"ImageNet \(ILSVRC-2012\) is not in data/imagenet .*data.root="):
        instantiate(configured(row).data).setup()


CPU = rows_of("svd_training_resnet20")


def epochs(cfg):
    phases = [cfg.method.phases[name] for name in cfg.method.order]
    return [phase.epochs for phase in phases if "epochs" in phase]


@pytest.mark.slow
def test_rows_on_a_cpu_are_trained_for_as_many_epochs():
    for row in CPU:
        cfg = configured(row)
        assert epochs(cfg) == [6, 4, 3], row


@pytest.mark.slow
def test_rows_on_a_cpu_that_differ_in_energy_or_budget_share_their_training():
    before = {}
    for row in CPU:
        cfg = configured(row)
        order = list(cfg.method.order)
        end = next(index for index, name in enumerate(order) if name in ("truncate", "factorize", "finetune"))
        shared = [OmegaConf.to_container(cfg.method.phases[name], resolve=True) for name in order[:end]]
        before.setdefault(json.dumps([order[:end], shared], sort_keys=True), []).append(row.partition("/")[2])
    assert sorted(map(len, before.values())) == [3, 3, 3, 3, 7]
    assert max(before.values(), key=len) == [
        "dense", *(f"{kind}_knapsack_{macs}" for kind in ("channel", "spatial") for macs in (70, 50, 30)),
    ]  # fmt: skip


@pytest.mark.slow
def test_rows_on_a_cpu_run(command, tmp_path, capsys):
    names = ["dense", "channel_hoyer_20", "channel_knapsack_50"]
    sweep = ",".join(f"svd_training_resnet20/{name}" for name in names)
    assert command("experiment=svd_training_resnet20", f"hydra.sweeper.params.row='{sweep}'", *SMOKE) == 0
    results = {Result.read(path).row: Result.read(path) for path in (tmp_path / "outputs").glob("*/*/result.json")}
    assert sorted(results) == sorted(names)
    ended = {name: [phase.name for phase in result.phases] for name, result in results.items()}
    assert ended["dense"] == ["train", "sparse", "finetune"]
    assert ended["channel_hoyer_20"] == ["to_svd", "train", "sparse", "truncate", "recalibrate", "finetune"]
    assert ended["channel_knapsack_50"] == ["train", "sparse", "factorize", "recalibrate", "finetune"]
    keys = {name: {phase.name: phase.key for phase in result.phases} for name, result in results.items()}
    assert keys["dense"]["sparse"] == keys["channel_knapsack_50"]["sparse"]
    ratio = {name: result.phases[-1].macs / result.phases[0].macs for name, result in results.items()}
    assert ratio["dense"] == 1
    assert ratio["channel_knapsack_50"] == pytest.approx(0.5, rel=0.01)
    assert 0.3 < ratio["channel_hoyer_20"] < 0.95
    assert report([str(tmp_path / "outputs" / "svd_training_resnet20")]) == 1  # the other rows are missing
    assert "channel_hoyer_05" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [
        "svd_training_cifar10/resnet20_spatial_hoyer_square",
        "svd_training_cifar10/resnet20_channel_hoyer_ranks",  # in a smoke run no phase uses its ranks
        "svd_training_cifar10/resnet110_channel_hoyer",
        "trp_cifar10/resnet20_spatial",
        "pufferfish/vgg19_hybrid",
    ],
)
def test_other_kinds_of_rows_run(command, tmp_path, row):
    assert command(f"experiment={row.partition('/')[0]}", f"hydra.sweeper.params.row={row}", *SMOKE) == 0
    (path,) = (tmp_path / "outputs").glob("*/*/result.json")
    result = Result.read(path)
    assert (result.status, result.row) == ("ok", row.partition("/")[2])
    assert 0 < result.phases[-1].macs < result.phases[0].macs
