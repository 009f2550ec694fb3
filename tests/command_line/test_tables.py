"""A table's file: what it means, what is refused, and how it becomes options of the command line."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.object_type import ObjectType

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.mistakes import explained
from lowrank_exp.command_line.table_options import FileConfigSource, offer_tables
from lowrank_exp.command_line.tables import Row, read_table, table_names, table_path

TABLE = """
title: Table 2
source: {paper: A. Author 2026}
columns: {top-1: {quantity: accuracy, unit: "%"}}
defaults:
  choose: {method: oneshot, rank: uniform}
  set: {rank: {macs: 0.9}, seed: 5}
  smoke: {rank: {macs: 0.6}, evaluation: {batch_size: 100}}
seeds: [0, 1]
rows:
  half:
    set: {rank: {macs: 0.5, rules: {conv1: 3}}}
    published: {top-1: 91.2}
  third:
    like: half
    choose: {rank: energy}
    set: {rank: {macs: 3e-1}}
    smoke: {evaluation: {batch_size: 50}}
    published: {top-1: null}
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A folder of configuration of one's own, with a table."""
    (tmp_path / "own" / "table").mkdir(parents=True)
    (tmp_path / "own" / "table" / "mine.yaml").write_text(TABLE)
    return tmp_path / "own"


def composed(conf: Path, *overrides: str):
    offer_tables()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"hydra.searchpath=[file://{conf}]", *overrides], return_hydra_config=True)


def test_a_row_takes_over_what_the_row_has_that_it_is_like(conf):
    table = read_table(conf / "table" / "mine.yaml")
    assert [row.own for row in table.rows.values()] == [["rank.macs", "rank.rules.conv1"], ["rank", "rank.macs"]]
    assert table.rows == {
        "half": Row({}, {"rank": {"macs": 0.5, "rules": {"conv1": 3}}}, {}, {"top-1": 91.2}),
        "third": Row(
            {"rank": "energy"}, {"rank": {"macs": 0.3, "rules": {"conv1": 3}}}, {"evaluation": {"batch_size": 50}}, {}
        ),
    }
    assert (table.name, table.seeds, table.axes["row"]) == ("mine", [0, 1], ["mine/half", "mine/third"])


def test_a_table_has_three_seeds_unless_it_says(conf):
    path = conf / "table" / "plain.yaml"
    for text, seeds in (
        ("rows: {a: {}}", (0, 1, 2)),
        ("rows: {a: {}}\nseeds: [4]", (4,)),
        ("rows: {a: {}}\nseeds: []", ()),
        ("rows: {a: {}, b: {set: {seed: 7}}}", ()),
        ("rows: {a: {}}\ndefaults: {set: {seed: 7}}", ()),
    ):
        path.write_text(text)
        read_table.__globals__["_read"].cache_clear()
        assert tuple(read_table(path).seeds) == seeds
        assert ("seed" in read_table(path).axes) == bool(seeds)


def test_a_table_takes_over_the_defaults_of_one_of_ours(conf):
    (conf / "table" / "more.yaml").write_text("defaults: {like: enc_table1_vgg16, set: {seed: 3}}\nrows: {a: {}}")
    base = read_table(table_path("enc_table1_vgg16", [CONF])).defaults
    more = read_table(conf / "table" / "more.yaml").defaults
    assert (more.choose, more.smoke) == (base.choose, base.smoke)
    assert more.set == {**base.set, "seed": 3}


@pytest.mark.parametrize(
    ("row", "scale", "rank", "macs", "images"),
    [
        ("half", "full", "uniform", 0.5, 128),
        ("third", "full", "energy", 0.3, 128),
        ("half", "smoke", "uniform", 0.6, 100),
        ("third", "smoke", "energy", 0.6, 50),
        (None, "full", "uniform", 0.9, 128),
        (None, "smoke", "uniform", 0.6, 100),
    ],
)
def test_what_a_row_sets_stands_above_the_defaults_and_smoke_above_both(conf, row, scale, rank, macs, images):
    cfg = composed(conf, "experiment=mine", f"scale={scale}", *([f"row=mine/{row}"] if row else []))
    choices = cfg.hydra.runtime.choices
    assert (choices.rank, cfg.rank.macs, choices.method, cfg.evaluation.batch_size) == (rank, macs, "oneshot", images)
    seeds = "0" if scale == "smoke" else "0,1"
    assert (cfg.seed, dict(cfg.hydra.sweeper.params)) == (5, {"row": "mine/half,mine/third", "seed": seeds})


def test_a_smoke_run_has_one_seed_and_one_value_of_what_is_swept_beside_rows(conf):
    table = read_table(conf / "table" / "mine.yaml")
    assert table.smoke_axes == {"row": ["mine/half", "mine/third"], "seed": [0]}
    beside = replace(table, sweep={"rank.macs": [0.5, 0.25]})
    assert beside.smoke_axes == {"row": table.axes["row"], "rank.macs": [0.5], "seed": [0]}
    assert replace(beside, rows={}).smoke_axes == {"rank.macs": [0.5, 0.25], "seed": [0]}


def test_options_are_listed_for_completion_and_near_names(conf):
    source = FileConfigSource("own", f"file://{conf}")
    assert list(source.list("", ObjectType.GROUP)) == ["experiment", "row", "table"]
    assert list(source.list("experiment", ObjectType.CONFIG)) == ["mine"]
    assert list(source.list("row", ObjectType.CONFIG)) == ["mine/half", "mine/third"]
    assert list(source.list("row/mine", None)) == ["half", "third"]
    assert [source.is_config(f"row/mine/{row}") for row in ("half", "x", "")] == [True, False, False]
    assert [source.is_group(group) for group in ("row/mine", "row/other", "rank")] == [True, False, False]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["row=mine/halve"], "there is no row/mine/halve. Did you mean half? The rows of mine are: half, third"),
        (["row=mind/half"], "there is no row/mind/half. Did you mean mine? The tables are: alds_resnet20"),
        (["experiment=minee"], "there is no experiment/minee. Did you mean mine? The options of experiment are: alds_"),
    ],
)
def test_names_that_there_are_not(conf, overrides, message):
    with pytest.raises(Exception, match="Could not find") as caught:
        composed(conf, "experiment=mine", *overrides) if "row" in overrides[0] else composed(conf, *overrides)
    assert explained(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0, 1]", "seed: [0, 1]", "seed is read by nobody. Did you mean seeds"),
        ("seeds: [0, 1]", "seeds: [0, -1]", "seeds=[0, -1] is refused: allowed is a list, each a whole number"),
        ("choose: {rank: energy}", "choose: {rank: 5}", "rows.third.choose.rank=5 is refused: allowed is a text"),
        (
            "    smoke: {ev",
            "    smokes: {ev",
            "rows.third.smokes is read by nobody. Did you mean rows.third.smoke",
        ),
        (
            "{top-1: 91.2}",
            "{top1: 91.2}",
            "rows.half.published.top1 is read by nobody. Did you mean rows.half",
        ),
        ("{top-1: 91.2}", "{top-1: high}", "rows.half.published.top-1=high is refused: allowed is a number"),
        ("like: half", "like: halve", "rows.third.like is halve, which is not a row before it. Before it are: half"),
        (
            "defaults:",
            "defaults:\n  like: nowhere",
            "defaults.like is nowhere, which is not another table. There are:",
        ),
        ("  third:", "  a third:", "rows: 'a third' is refused: allowed are letters, digits, _, - and ."),
        ("  third:", "  half:", "half stands twice"),
        (
            "seeds: [0, 1]",
            "sweep: {seed: [0]}",
            "sweep.seed is refused: rows and seeds are swept from",
        ),
        ("seeds: [0, 1]", "sweep: {rank.macs: []}", "sweep.rank.macs=[] is refused: a sweep has at least one value"),
        ("title: Table 2", "title: [", "is not YAML"),
    ],
)
def test_mistakes_name_the_file_the_row_and_the_key(conf, old, new, message):
    path = conf / "table" / "mine.yaml"
    assert TABLE.count(old) == 1
    path.write_text(TABLE.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_table(path)
    assert str(caught.value).startswith(str(path))


def test_a_table_needs_jobs(conf):
    (conf / "table" / "empty.yaml").write_text("title: none\n")
    with pytest.raises(ValueError, match="the table has neither rows nor a sweep"):
        read_table(conf / "table" / "empty.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{rank: energy}",
            "{rank: energi}",
            "rows.third.choose.rank is energi: there is no rank/energi. Did you mean",
        ),
        (
            "{rank: energy}",
            "{ranks: energy}",
            "rows.third.choose.ranks is energy: there is no such group. Groups",
        ),
    ],
)
def test_choices_that_there_are_not_name_the_file_the_row_and_the_group(conf, old, new, message):
    path = conf / "table" / "mine.yaml"
    path.write_text(TABLE.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        composed(conf, "experiment=mine", "row=mine/third")
    assert composed(conf, "experiment=mine", "row=mine/half").rank.macs == 0.5


def test_a_table_that_is_not_named_is_not_read(conf):
    (conf / "table" / "broken.yaml").write_text("[")
    assert composed(conf, "experiment=mine", "row=mine/half").rank.macs == 0.5
    with pytest.raises(ValueError, match=r"broken\.yaml is not YAML"):
        composed(conf, "experiment=broken")


def test_a_file_is_read_again_when_it_has_changed(conf):
    path = conf / "table" / "mine.yaml"
    assert read_table(path) is read_table(path)
    path.write_text(TABLE.replace("seeds: [0, 1]", "seeds: [2]"))
    assert read_table(path).seeds == [2]
    assert table_names([conf, CONF / "nowhere"]) == ["mine"]
