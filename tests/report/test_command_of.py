"""The command that repeats a job."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lowrank_exp.report.command_of import command_of


def test_what_was_typed_comes_back_quoted(job: Callable, tmp_path: Path) -> None:
    words = ["rank=energy", "data.root=/my data/$HOME", "notes='a;b'"]
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    line = command_of(replace(job(), folder=tmp_path))
    assert shlex.split(line) == ["lowrank-exp", *words]


def test_what_is_no_note_of_hydra_is_not_taken(job: Callable, tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    made = replace(job(row="svd", experiment="t", seed=3), folder=tmp_path)
    for text in ("{a: 1}", "- [1]", ": :", "- &x [*x]", "\x00"):
        (tmp_path / ".hydra" / "overrides.yaml").write_text(text)
        assert command_of(made) == "lowrank-exp hydra.mode=RUN experiment=t row=t/svd seed=3"
    assert command_of(replace(made, experiment=None)) == ""
    (tmp_path / ".hydra" / "overrides.yaml").write_text('- "a\\e[31m"')
    assert command_of(made) == "lowrank-exp 'a\\x1b[31m'"
