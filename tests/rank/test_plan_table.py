"""A plan in plain text: a row per layer, totals, reasons; names whole or broken after a dot."""

from lowrank_exp.rank.plan import Plan, PlannedLayer
from lowrank_exp.rank.plan_table import plan_table

LONG = "backbone.encoder.stages_of_the_network.bottleneck_projection.convolution"
PLAN = Plan(
    {
        "conv1": PlannedLayer(None, None, "too thin", 1000, 1000, 200, 200),
        LONG: PlannedLayer((3, 4), "tucker2", "chosen", 9000, 3000, 800, 300),
        "fc": PlannedLayer(None, None, "too thin", 10, 10, 10, 10),
    },
    policy="uniform",
)


def test_rows_totals_and_reasons():
    lines = plan_table(PLAN, 140).splitlines()
    assert lines[0] == "uniform: 1 of 3 layers decomposed, 40.06% of the MACs, 50.50% of the weights remain"
    rows = [line.split() for line in lines]
    assert ["conv1", "-", "dense", "1,000", "100.0%", "200", "100.0%"] in rows
    assert [LONG, "tucker2", "(3,", "4)", "3,000", "33.3%", "300", "37.5%"] in rows
    assert ["all", "4,010", "40.1%", "510", "50.5%"] in rows
    assert lines[-1] == "dense, too thin: conv1, fc"


def test_lines_fit_and_words_stay_whole():
    words = {*LONG.replace(".", ". ").split()}
    for width in (80, 60):
        text = plan_table(PLAN, width)
        assert max(map(len, text.splitlines())) <= width
        assert words <= {*text.replace(".", ". ").split()}
        assert "4,010" in text


def test_print_is_the_table_and_repr_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    assert str(PLAN) == plan_table(PLAN, 70)
    assert repr(PLAN) == f"<Plan {plan_table(PLAN, 140).splitlines()[0]}>"


def test_without_costs_nothing_is_said_of_what_remains():
    plan = Plan({"conv1": PlannedLayer(3, "channel_svd", "given")})
    assert repr(plan) == "<Plan fixed: 1 of 1 layers decomposed>"
    assert repr(Plan({})) == "<Plan fixed: 0 of 0 layers decomposed>"
    assert str(Plan({})).splitlines()[-1].split() == ["all", "0", "-", "0", "-"]
