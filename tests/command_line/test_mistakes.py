"""What is said of errors: the place, what was got, what to do."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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


def test_a_mistake_is_told_once(command, capsys):
    assert command("rank.macs=1.5") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "\nerror: rank.macs=1.5 is refused: allowed is a number in (0, 1], or null. Write for instance rank.macs=0.5\n"
        "(debug=true shows the traceback)\n"
    )


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
    "data=image_folder data.root=nowhere": "data.root=nowhere is not a folder: expected <root>/train/<class>/<image>",
    "data=image_folder data.root=nowhere data.num_classes=3": "data.root=nowhere is not a folder",
    "data=image_folder": "data.root is not set: give the image folder, data.root=<folder>",
    "data=imagenet_caffe": "ImageNet (ILSVRC-2012) is not in data/imagenet",
    "data=cifar10": "CIFAR10 is not in data/cifar-10-batches-py: set data.root to the folder that holds",
    "data=svhn data.root=there": "SVHN is not in there/SVHN",
}


MISTAKES_WITHOUT_LIGHTNING = {
    "rank.macs=0.0001": "phase factorize: the budget macs=0.0001 cannot be reached: the smallest possible is macs=",
    "rank.rules={conv9: null}": "rules names the layer 'conv9', which does not exist. Did you mean 'conv2' or 'conv1'?",
    "rank=fixed rank.ranks={conv1: 400}": "conv1",
    "model=resnet20 decomposition=cp rank.macs=0.00001": "the budget macs=1e-05 cannot be reached",
}


def told_in_one_process(mistakes: Sequence[str], folder: Path) -> tuple[list[str], list[str]]:
    """What is said of each mistake, and which packages that take seconds were imported for that."""
    program = (
        "import json, sys\n"
        "from lowrank_exp import cli\n"
        "told = []\n"
        "for overrides in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['lowrank-exp', *overrides]\n"
        "    try:\n"
        "        cli.main()\n"
        "    except SystemExit as end:\n"
        "        told.append(str(end))\n"
        "heavy = ('torch', 'pytorch_lightning', 'torchmetrics', 'sklearn', 'wandb', 'matplotlib')\n"
        "print(json.dumps([told, [name for name in heavy if name in sys.modules]]))\n"
    )
    typed = [re.split(" (?=[a-z._]+=)", one) for one in mistakes]
    command = [sys.executable, "-c", program, json.dumps(typed)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    told, heavy = json.loads(run.stdout.splitlines()[-1])
    return told, heavy


@pytest.mark.parametrize(
    ("mistakes", "imported"), [(MISTAKES_WITHOUT_TORCH, []), (MISTAKES_WITHOUT_LIGHTNING, ["torch"])]
)
def test_mistakes_are_told_before_what_takes_seconds_is_imported(tmp_path, mistakes, imported):
    told, heavy = told_in_one_process(list(mistakes), tmp_path)
    for text, words in zip(told, mistakes.values(), strict=True):
        assert words in text
    assert heavy == imported
