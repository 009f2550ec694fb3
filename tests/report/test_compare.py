"""Two rows side by side on the terminal."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lowrank_exp.report.cli import main
from support.synthetic_page import write_comparison, write_table


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    folder = tmp_path_factory.mktemp("compared")
    runs, conf = write_comparison(folder / "runs"), write_table(folder / "conf")
    return lambda *names, folders=(runs,): main([*map(str, folders), "--compare", *map(str, names)], conf=conf)


def lines(text: str, title: str) -> list[list[str]]:
    part = text.split(f"{title}\n")[1].split("\n\n")[0]
    return [line.split() for line in part.splitlines()]


def test_figures_configuration_and_layers(compared: Callable, capsys: pytest.CaptureFixture) -> None:
    assert compared("svd", "energy") == 0
    said = capsys.readouterr().out
    assert [line[:2] for line in map(str.split, said.splitlines()[:2])] == [["A:", "svd"], ["B:", "energy"]]
    figures = {" ".join(line[:2]): line for line in lines(said, "figures")}
    assert figures["accuracy %"][2:] == ["89.80", "±", "0.14", "89.40", "±", "0.14", "-0.40"]
    assert figures["MACs ratio"][2:] == ["0.500", "0.300", "-0.200"]
    assert lines(said, "configuration")[1:] == [
        ["rank._target_", *(f"lowrank_exp.rank.policies.{name}.{name}" for name in ("uniform", "energy"))],
        ["rank.macs", "0.5", "0.3"],
    ]
    assert "conv1 spatial_svd rank 4, 50.0% of its MACs spatial_svd rank 4, 30.0% of its MACs" in said
    assert "\nfc " not in said


def test_a_row_is_found_by_hash_and_folder(compared: Callable, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert compared("svd", "poor") == 0
    (first, second) = (line.split("(")[1][:6] for line in capsys.readouterr().out.splitlines()[:2])
    assert compared(first, second) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("A: svd (")
    runs = write_comparison(tmp_path / "runs")
    assert compared(runs / "00", runs / "02", folders=()) == 0
    assert [line[:8] for line in capsys.readouterr().out.splitlines()[:2]] == ["A: svd (", "B: energ"]


def test_the_same_twice_and_mistakes(compared: Callable, capsys: pytest.CaptureFixture) -> None:
    assert compared("svd", "svd") == 0
    said = capsys.readouterr().out
    assert "their configurations are the same but for seeds" in said
    assert "no layers that differ are known" in said
    assert compared("svd", "nothing") == 2
    error = capsys.readouterr().err
    assert "--compare: nothing is called 'nothing'; there are svd, energy, cheap, poor" in error
    assert compared("a", "b", folders=()) == 2
    assert "no folder is given; name one that holds jobs" in capsys.readouterr().err
