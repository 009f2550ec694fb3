"""What is said of errors: the place, what was got, what to do."""

import json
import subprocess
import sys

import pytest
from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from joblib.externals.loky.process_executor import TerminatedWorkerError

from lowrank_exp.command_line.mistakes import WORD, explained


def test_error_of_a_constructor_is_said_with_its_place():
    error = InstantiationException("Error in call to target\nfull_key: data")
    error.__cause__ = ValueError("data.root is not set")
    assert explained(error) == "data: data.root is not set"
    error.__cause__ = TypeError("takes 2 positional arguments")
    assert explained(error) == "data: TypeError: takes 2 positional arguments"


def test_an_override_outside_of_the_grammar_is_to_be_quoted():
    said = explained(OverrideParseException("data.root=~x/y", "LexerNoViableAltException"))
    assert said.endswith("is put in quotes: 'data.root=\"~x/y\"'")
    assert "an override is key=value" in explained(OverrideParseException("~", "missing"))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Config group override must be a string or a list. Got NoneType", "group=option, such as model=resnet20"),
        ("Could not delete from config. 'nosuch' does not exist.", "~nosuch takes away what is not there"),
    ],
)
def test_what_hydra_says_without_a_way_out_is_said_anew(said, expected):
    assert expected in explained(ConfigCompositionException(said))


def test_a_worker_that_was_killed_is_told_with_what_goes_on():
    said = explained(TerminatedWorkerError("A worker process managed by the executor was unexpectedly terminated"))
    assert said.endswith("often for want of memory. The same command goes on with what is missing")


def test_a_file_that_cannot_be_read_is_named():
    said = explained(FileNotFoundError(2, "No such file or directory", "/proc/x"))
    assert said == "/proc/x cannot be read or written: No such file or directory. Give a place where that is possible"


def test_no_more_than_the_beginning_of_a_long_value_is_said():
    said = explained(ValueError(f"root={'x' * 100_000} is not there"))
    assert said.startswith("root=xxx")
    assert "(100,005 letters)" in said
    assert said.endswith("is not there")
    assert len(said) < WORD + 50
    assert len(explained(ValueError("of these: " + "name, " * 10_000))) < 5000


def test_an_option_that_does_not_exist_is_told_with_those_that_do():
    error = MissingConfigException(
        "In 'config': Could not find 'decomposition/tuker1'", "decomposition/tuker1", ["cp", "tucker1", "tucker2"]
    )
    assert explained(error) == (
        "there is no decomposition/tuker1. Did you mean tucker1 or tucker2? "
        "The options of decomposition are: cp, tucker1, tucker2"
    )
    assert explained(MissingConfigException("Could not find 'x'", "x")) == "Could not find 'x'"


MISTAKES_WITHOUT_TORCH = {
    "training.epochz=3": "training.epochz",
    "rank.macs=-1": "rank.macs=-1",
    "model=resnet99": "resnet99",
    "seed=abc": "seed=abc is refused",
    "model._target_=no.such.Thing": "no.such.Thing",
    "model.weights=nowhere/small.pt": "no weights at nowhere/small.pt",
    "model.weights=.": ". is a folder, not a checkpoint",
}


def test_mistakes_that_need_no_network_are_told_without_torch(tmp_path):
    program = (
        "import json, sys\n"
        "from lowrank_exp import cli\n"
        "told = []\n"
        "for override in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['lowrank-exp', override]\n"
        "    try:\n"
        "        cli.main()\n"
        "    except SystemExit as end:\n"
        "        told.append(str(end))\n"
        "heavy = [name for name in ('torch', 'pytorch_lightning', 'sklearn', 'wandb') if name in sys.modules]\n"
        "print(json.dumps([told, heavy]))\n"
    )
    command = [sys.executable, "-c", program, json.dumps(list(MISTAKES_WITHOUT_TORCH))]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    told, heavy = json.loads(run.stdout.splitlines()[-1])
    for text, words in zip(told, MISTAKES_WITHOUT_TORCH.values(), strict=True):
        assert words in text
    assert heavy == []
