"""Options of groups as their YAML files explain them, and the help made of them."""

import re
import textwrap

import pytest

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.help import asked_help, group_names
from lowrank_exp.command_line.option_pages import option_names, read_page


def test_a_page_has_every_key_with_its_comment(tmp_path):
    (tmp_path / "rank").mkdir()
    text = """\
        # What it is,
        # in two lines.
        defaults:
          - other # not a key
        _target_: lowrank_exp.rank.allocate
        policy: energy
        macs: 0.5 # what remains; null: all # of it
        nested: # of two
          inner: {a: 1}
    """
    (tmp_path / "rank" / "mine.yaml").write_text(textwrap.dedent(text))
    page = read_page(tmp_path, "rank", "mine")
    assert (page.what, page.target) == ("What it is, in two lines.", "lowrank_exp.rank.allocate")
    keys = {key.name: (key.value, key.what) for key in page.keys}
    assert keys == {
        "rank.policy": ("energy", ""),
        "rank.macs": ("0.5", "what remains; null: all # of it"),
        "rank.nested": ("", "of two"),
        "rank.nested.inner": ("{a: 1}", ""),
    }
    (macs,) = [key.allowed for key in page.keys if key.name == "rank.macs"]
    assert macs == "a number in (0, 1], or null"


def test_every_option_says_what_it_is():
    silent = [
        f"{group}={option}"
        for group in group_names([CONF])
        for option in option_names([CONF], group)
        if not read_page(CONF, group, option).what
    ]
    assert silent == []


def test_help_of_what_is_chosen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = asked_help(["rank=evbmf", "seed=3", "decomposition=tucker2", "--help"], CONF)
    for part in ("rank=evbmf", "rank.solver=global", "rank.round=up", "decomposition=tucker2", "decomposition.linear"):
        assert part in text
    assert "rank.metric" not in text  # of other policies
    assert max(map(len, text.splitlines())) <= 80
    assert "ENC-Map (Kim" in asked_help(["help", "rank"], CONF)
    assert "rank.first=map" in asked_help(["help", "rank", "enc_map"], CONF)
    assert asked_help(["rank=evbmf"], CONF) is None
    assert asked_help(["--help"], CONF) == asked_help(["help"], CONF) == asked_help(["seed=1", "--help"], CONF)


def test_help_of_keys(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")

    def helped(*names: str) -> str:
        return " ".join(asked_help(["help", *names], CONF).split())

    seed = helped("seed")
    assert seed.startswith("seed=0 of weights, order of images")
    assert seed.endswith(" [a whole number of at least 0, at most 4,294,967,295]")
    names = re.findall(r"^(\S+)=", asked_help(["help", "latency"], CONF), re.M)
    assert names == ["latency.batch_size", "latency.seconds", "latency.runtime", "latency.threads"]
    assert helped("latency.seconds", "seed") == (
        f"latency.seconds=0.2 how long to repeat it; 0 leaves latency out [a number in [0, 3600]] {seed}"
    )
    budgets = helped("rank.macs")
    assert re.search(r"rank\.macs=0\.5 fraction of the dense MACs[^=]* rank=alds, .* rank=knapsack", budgets)
    assert re.search(r"rank\.macs=null this policy takes no budget[^=]* rank=evbmf, rank=fixed ", budgets)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["help", "ranks"], "there is neither a group nor a key 'ranks'; groups: .*rank.*; keys: seed, .*latency"),
        (["help", "rank.mac"], "there is neither a group nor a key 'rank.mac'; groups: "),
        (["help", "rank", "knapsak"], "there is no rank=knapsak; rank has: .*knapsack"),
        (["rank=knapsak", "--help"], "there is no rank=knapsak; rank has: .*knapsack"),
    ],
)
def test_help_of_what_is_not_there(arguments, told):
    with pytest.raises(ValueError, match=told):
        asked_help(arguments, CONF)
