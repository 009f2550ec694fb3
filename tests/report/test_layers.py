"""Which layers lost most: `lowrank-report --layers`."""

from dataclasses import replace

import pandas as pd
import pytest

from lowrank_exp.files.results import LayerResult
from lowrank_exp.report.cli import main
from lowrank_exp.report.configuration import configurations
from lowrank_exp.report.layers import layer_table, shown


def layer(name, weight, response, alone=None, rank=3):
    return LayerResult(name, "channel_svd", rank, 100, 25, 10, 5, 8, 8, "x", weight, response, alone)


def test_layers_are_ranked_by_what_was_measured(job):
    dense = LayerResult("stem", None, None, 50, 50)
    one = replace(job(seed=0), layers=[dense, layer("a", 0.1, 0.3), layer("b", 0.2, 0.1)])
    other = replace(job(seed=1), layers=[dense, layer("a", 0.3, 0.4), layer("b", 0.2, 0.2, rank=4)])
    (row,) = configurations([one, other])
    frame = layer_table(row)
    assert frame["layer"].tolist() == ["a", "b"]
    assert frame["rank"].tolist() == ["3", "3 4"]
    assert frame["response_error"].tolist() == pytest.approx([0.35, 0.15])
    assert frame["weight_error"].tolist() == pytest.approx([0.2, 0.2])
    assert frame["macs_left"].tolist() == [0.25, 0.25]
    assert frame["accuracy_lost"].isna().all()
    what, text = shown(frame)
    assert (what, list(text.columns)) == (
        "layers by what they lost",
        ["layer", "decomposition", "rank", "MACs left %", "weight error %", "response error %"],
    )
    assert text.iloc[0].tolist() == ["a", "channel_svd", "3", "25.00", "20.00", "35.00"]
    alone = replace(one, layers=[layer("a", 0.1, 0.3, 0.85), layer("b", 0.2, 0.1, 0.75)])
    (row,) = configurations([alone])
    frame = layer_table(row)
    assert frame["layer"].tolist() == ["b", "a"]  # b loses most accuracy, whatever its errors
    assert frame["accuracy_lost"].tolist() == pytest.approx([0.14, 0.04])  # of 0.89 on validation images


def test_a_report_of_layers(runs, job, conf, capsys):
    many = [layer(f"l{k}", 0.01 * k, 0.02 * k) for k in range(12)]
    folder = runs(replace(job(epochs=1), layers=many), job(epochs=2))
    assert main([str(folder), "--layers"], conf=conf) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "epochs=1: the 10 of 12 layers that lost most" in printed
    assert "epochs=2: what its layers lost is not known" in printed
    lines = pd.read_csv(folder / "report" / "layers.csv")
    assert lines["layer"].tolist() == [f"l{k}" for k in reversed(range(12))]
    for kind in ("md", "tex"):
        assert "l11" in (folder / "report" / f"results.{kind}").read_text()
    assert main([str(folder), "--out", str(folder / "plain")], conf=conf) == 0
    assert not (folder / "plain" / "layers.csv").exists()
