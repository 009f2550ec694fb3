"""Tables of Denton, Jaderberg, stochastic depth and CLIP: what their rows are, and what they cost by arithmetic."""

import pytest
import torch
from hydra.utils import instantiate

from lowrank_exp.files.results import Result
from lowrank_exp.report.quantities import measured
from lowrank_exp.training import StochasticDepth
from support.smoke import SMOKE
from support.table_rows import PUBLISHED, TABLES, configured, rows_of

VISUAL = {"RN50": 38_316_896, "ViT-B-32": 87_849_216}  # parameters of the image encoders, as published in millions


def test_denton_by_the_formulas_of_the_paper():
    """Weights and MACs of the dense layer over those of the row, from C, X Y, F and sizes of maps."""
    dense1, mono = (147 * 96 * 109**2, 147 * 96), (3 * 6 * 224**2 + 49 * 96 * 109**2, 3 * 6 + 49 * 96)
    dense2 = (25 * 96 * 256 * 50**2, 25 * 96 * 256)

    def outer(K, G=48, H=2):
        maps = G * H * K
        return maps * (96 // G * 54**2 + 25 * 50**2 + 256 // H * 50**2), maps * (96 // G + 25 + 256 // H)

    def svd(K1, K2, G=2, H=2):
        parts = (96 // G * K1, K1 * 25 * K2, K2 * 256 // H)
        return G * H * (parts[0] * 54**2 + sum(parts[1:]) * 50**2), G * H * sum(parts)

    expected = {
        "conv1_monochromatic_6": (dense1, mono),
        "conv2_outer_6": (dense2, outer(6)),
        "conv2_outer_8": (dense2, outer(8)),
        "conv2_svd_19_24": (dense2, svd(19, 24)),
        "conv2_svd_19_64": (dense2, svd(19, 64)),
    }
    rows = PUBLISHED["denton"].rows
    for name, (dense, small) in expected.items():
        layer = name[:5]
        figures = [rows[name][f"{layer} MACs"], rows[name][f"{layer} weights"]]
        assert figures == pytest.approx([one / other for one, other in zip(dense, small, strict=True)], abs=0.005), name


def test_blocks_that_survive():
    """The paper's linear decay to 1/2 keeps (3 L - 1) / 4 blocks in the mean; uniform_0_75 as many."""
    survive = {}
    for row in rows_of("stochastic_depth"):
        cfg = configured(row)
        assert (cfg.training.epochs, cfg.training.optimizer.nesterov, cfg.model.depth) == (500, True, 110)
        chosen = cfg.training.stochastic_depth
        survive[row.rpartition("/")[2]] = sum(StochasticDepth(**chosen).probabilities(54)) if chosen else 54.0
    assert survive["linear_0_5"] == pytest.approx((3 * 54 - 1) / 4, abs=1e-9)
    assert survive["uniform_0_75"] == pytest.approx(40.25, abs=0.01)
    assert [survive[name] for name in ("constant", "uniform_0_5", "uniform_0_8")] == pytest.approx([54, 27, 43.2])
    assert [survive[f"linear_0_{p}"] for p in (2, 8)] == pytest.approx([54 - 0.8 * 27.5, 54 - 0.2 * 27.5])
    errors = {name: row.get("error") for name, row in PUBLISHED["stochastic_depth"].rows.items()}
    assert errors == {"constant": 6.41, "linear_0_5": 5.25}
    assert {row["MACs"] for row in PUBLISHED["stochastic_depth"].rows.values()} == {round(252_887_040e-6 + 640e-6, 1)}


def test_clips_encoders_are_the_published_ones():
    for row in rows_of("clip_zero_shot"):
        cfg = configured(row)
        with torch.device("meta"):
            network = instantiate(cfg.model)
        count = sum(one.numel() for one in network.visual.parameters())
        assert count == VISUAL[cfg.model.name.removesuffix("-quickgelu")]
        printed = PUBLISHED["clip_zero_shot"].rows[row.rpartition("/")[2]]["parameters"]
        assert printed == pytest.approx(count / 1e6, abs=0.0051)
        assert list(cfg.method.order) == ["evaluate", "probe", "factorize", "recalibrate", "probe_compressed"]


def test_no_row_of_them_has_the_name_of_another_decomposition():
    assert len(TABLES["denton_ranks"].rows) == 10
    for row in rows_of("denton_ranks"):
        cfg = configured(row)
        kind = cfg.decomposition.conv._target_.rpartition(".")[2]
        assert kind == ("Monochromatic" if "/mono" in row else "Biclustering")
        if kind == "Biclustering":
            assert cfg.decomposition.conv.inner == row.rpartition("/")[2].partition("_")[0]
    for row in rows_of("jaderberg"):
        cfg = configured(row)
        scheme = {"SpatialSVD": "scheme2", "JaderbergScheme1": "scheme1"}
        assert row.rpartition("/")[2].startswith(scheme[cfg.decomposition.conv._target_.rpartition(".")[2]])
        assert (cfg.rank.macs == 0.4) == row.endswith("_2_5x")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch counts")  # of CLIP's attention
@pytest.mark.parametrize(
    ("experiment", "row"),
    [
        ("clip_zero_shot", "vit_b_32_cifar10"),
        ("denton", "fc6_950"),  # whose rank is above that of the small network's layer
        ("denton_ranks", "svd_2_4"),
        ("stochastic_depth", "uniform_0_5"),
    ],
)
def test_a_row_runs(command, tmp_path, experiment, row):
    sweep = (f"hydra.sweeper.params.row={experiment}/{row}", "hydra.sweeper.params.seed='0'")
    assert command(f"experiment={experiment}", *sweep, *SMOKE) == 0
    (path,) = (tmp_path / "outputs" / experiment).glob("*/result.json")
    result = Result.read(path)
    assert (result.status, result.row) == ("ok", row)
    assert measured(result)["macs_ratio"] == pytest.approx(
        {"stochastic_depth": 1, "clip_zero_shot": 0.7, "denton": 0.9986, "denton_ranks": 0.79}[experiment], abs=0.01
    )
    if experiment == "clip_zero_shot":
        probes = {phase.name: phase.values["linear_probe"] for phase in result.phases if "probe" in phase.name}
        assert list(probes) == ["probe", "probe_compressed"]
        assert probes["probe"] > 1.5 * result.phases[0].accuracy  # of random features, and of random words
