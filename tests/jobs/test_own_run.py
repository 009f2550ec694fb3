"""Data, network, decomposition, rank policy and phase of one's own, from a folder of one's own, in whole jobs."""

import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from lowrank_exp import load
from lowrank_exp.decomposition import Decomposition
from lowrank_exp.edits import Factorize, edits_of
from lowrank_exp.files.results import Result
from lowrank_exp.rank import Plan
from lowrank_exp.report.cli import main as report
from support.smoke import SMOKE

PARTS = '''
import os
import signal
from dataclasses import dataclass, replace

import torch
from torch import nn

from lowrank_exp.data import ImageData
from lowrank_exp.data.images import LabelledImages
from lowrank_exp.decomposition import SpatialSVD, SVDDecomposition
from lowrank_exp.decomposition.svd import two
from lowrank_exp.phases.phase import Done, Phase
from lowrank_exp.phases.train import Train
from lowrank_exp.rank import declares


class Stripes(ImageData):
    """Noise with a bright row; the class says which."""

    def __init__(self, images=90, **common):
        super().__init__(**common)
        self.images = images

    def _load(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(self.images) % 3
        pixels = torch.randint(0, 100, (self.images, 1, 12, 12), generator=generator, dtype=torch.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[0, 4 * label] += 100
        half = self.images // 3
        return LabelledImages(pixels[half:], labels[half:], pixels[:half], labels[:half], ("top", "middle", "low"))


class Net(nn.Sequential):
    def __init__(self, num_classes, width=6):
        head = nn.Linear(width * 64, 8), nn.ReLU(), nn.Linear(8, num_classes)
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, width, 3), nn.ReLU(), nn.Flatten(), *head)


class SwappedSVD(SpatialSVD):
    name = "swapped_svd"

    def __init__(self, order="horizontal_first"):
        super().__init__(order)

    def options(self):
        return {"order": self.order}


class OwnRowsSVD(SVDDecomposition):
    """Linear layers, by the SVD of the weight as it is."""

    name = "own_rows_svd"

    def refusal(self, layer):
        return None if type(layer) is nn.Linear else "own_rows_svd takes linear layers"

    def matrices(self, layer):
        return layer.weight[None]

    def unfold(self, layer, left_GMR, right_GRN):
        return right_GRN[0], left_GMR[0]

    def skeleton(self, layer, rank, device=None):
        first = nn.Linear(layer.in_features, rank, bias=False, device=device)
        return two(first, nn.Linear(rank, layer.out_features, bias=layer.bias is not None, device=device))


@declares(looks_at="score")
def share_of_rungs(problem, *, share, score=None):
    """The rung at that share of each ladder, if the network keeps its accuracy there, else the highest."""
    chosen = {c.profile.name: c.ranks[int(share * (len(c.ranks) - 1))] for c in problem.candidates}
    if score(chosen) > 0:
        return chosen
    return {c.profile.name: c.ranks[-1] for c in problem.candidates}


@dataclass(frozen=True, kw_only=True)
class Warm(Phase):
    """The first half of a training, with the head alone."""

    trains = True

    train: Train
    head: str = "7"

    def walk_(self, network, example):
        if not isinstance(network.get_submodule(self.head), nn.Linear):
            raise ValueError(f"head={self.head} is not a linear layer")
        self.train.walk_(network, example)

    def run_(self, network, setting):
        def on_epoch(metrics):
            setting.on_epoch(metrics)
            if metrics["epoch"] == 1 and os.path.exists("kill me"):
                os.unlink("kill me")
                os.kill(os.getpid(), signal.SIGKILL)

        network.requires_grad_(False).get_submodule(self.head).requires_grad_(True)
        done = self.train.run_(network, replace(setting, on_epoch=on_epoch))
        network.requires_grad_(True)
        return Done(done.history, values={"warmed": 1.0})
'''
CONF = {
    "data/stripes.yaml": """
        _target_: own_parts.Stripes
        num_classes: 3
        images: 90
        validation: 0.2
    """,
    "model/net.yaml": """
        _target_: own_parts.Net
        num_classes: ${data.num_classes}
        width: 6
        weights: null
    """,
    "decomposition/own.yaml": """
        conv: {_target_: own_parts.SwappedSVD, order: horizontal_first}
        linear: {_target_: own_parts.OwnRowsSVD}
        layers: null
    """,
    "rank/own.yaml": """
        _target_: lowrank_exp.rank.allocate
        _partial_: true
        policy: {_target_: own_parts.share_of_rungs, _partial_: true, share: 0.5}
        ranks: null
        rules: null
    """,
    "method/own.yaml": """
        defaults: [decompose, _self_]
        order: [warm, train, factorize, finetune]
        phases:
          warm:
            _target_: own_parts.Warm
            train: ${method.phases.train}
            head: '7'
    """,
}
RUN = (*SMOKE, "data=stripes", "model=net", "decomposition=own", "rank=own", "method=own", "training.epochs=3")


@pytest.fixture
def own(tmp_path, monkeypatch) -> tuple[str, ...]:
    """The overrides of a job with all of them; the working folder is that of the module."""
    (tmp_path / "own_parts.py").write_text(PARTS)
    for name, text in CONF.items():
        path = tmp_path / "own_conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return ("--config-dir", str(tmp_path / "own_conf"), *RUN)


def only_job(outputs: Path) -> tuple[Result, Path]:
    (path,) = (outputs / "runs").glob("*/result.json")
    return Result.read(path), path.parent


@pytest.mark.slow
def test_a_job_with_parts_of_ones_own_goes_on_after_a_kill_and_is_replayed(command, own, tmp_path, capsys):
    assert command(*own, "dry_run=true", outputs=tmp_path / "alone") == 0
    printed = capsys.readouterr().out
    assert re.search(r"share_of_rungs looks at data, so its plan is not known", printed)
    assert re.search(r"^warm +unknown +accuracy .*without Warm itself *$", printed, re.MULTILINE)
    assert re.search(r"^all +at least \d", printed, re.MULTILINE)
    assert command(*own, outputs=tmp_path / "alone") == 0
    result, folder = only_job(tmp_path / "alone")
    assert [phase.name for phase in result.phases] == ["warm", "train", "factorize", "finetune"]
    assert result.phases[0].values == {"warmed": 1.0}
    assert list(result.phases[-1].class_accuracy) == ["top", "middle", "low"]
    by = {layer.name: (layer.decomposition, layer.reason) for layer in result.layers}
    assert {name: one[0] for name, one in by.items()} == {
        **{"0": "swapped_svd", "2": "swapped_svd", "5": "own_rows_svd", "7": "own_rows_svd"},
    }
    assert {one[1] for one in by.values()} == {"chosen by share_of_rungs"}

    network = load(folder / "model.pt", model=sys.modules["own_parts"].Net(3))
    assert {edit.decomposition for edit in edits_of(network) if isinstance(edit, Factorize)} == {
        *("swapped_svd", "own_rows_svd"),
    }
    assert network(torch.zeros(2, 1, 12, 12)).shape == (2, 3)

    (tmp_path / "kill me").touch()
    killed = tmp_path / "killed"
    arguments = [sys.executable, "-m", "lowrank_exp.cli", *own, f"paths.outputs={killed}", "threads=1"]
    ended = subprocess.run(arguments, capture_output=True, timeout=600)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "kill me").exists()
    assert list(killed.glob("store/warm-*/last.ckpt"))
    ended_phases = {path.parent.name.partition("-")[0] for path in killed.glob("store/*/outcome.json")}
    assert ended_phases == {"initial"}  # the measurement of the network before the first phase
    assert command(*own, outputs=killed) == 0
    again, there = only_job(killed)
    assert [(p.key, p.accuracy, p.loss) for p in again.phases] == [(p.key, p.accuracy, p.loss) for p in result.phases]
    resumed = load(there / "model.pt", model=sys.modules["own_parts"].Net(3)).state_dict()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in network.state_dict().items())

    evaluated = tmp_path / "evaluated"
    weights = f"model.weights={folder / 'model.pt'}"
    assert command(*own, "method=evaluate", weights, outputs=evaluated) == 0
    assert only_job(evaluated)[0].phases[-1].accuracy == result.phases[-1].accuracy

    replayed = tmp_path / "replayed"
    assert command(*own, "rank=fixed", f"rank.ranks={folder / 'plan.yaml'}", outputs=replayed) == 0
    assert Plan.read(only_job(replayed)[1] / "plan.yaml").ranks == Plan.read(folder / "plan.yaml").ranks

    capsys.readouterr()
    assert report([str(tmp_path / name) for name in ("alone", "replayed")]) == 0
    printed = capsys.readouterr().out
    assert [re.findall(rf"^{row} +(\d+\.\d\d) ", printed, re.MULTILINE) for row in ("own", "fixed")] == [
        ["33.33"],
        ["33.33"],
    ]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["method.order=[factorize]", "reconstruct=whitened"], "chosen by share_of_rungs"),
        (
            ["method=svd_training", "method.order=[to_svd,truncate]", "method.phases.truncate.costly=truncate"],
            "energy removed up to 0.01, resvd",
        ),
    ],
)
def test_the_fit_and_the_svd_form_that_its_class_declares(command, own, tmp_path, options, reason):
    linear = "decomposition.linear=null"  # own_rows_svd has no SVD form
    assert command(*own, linear, *options) == 0
    result, _ = only_job(tmp_path / "outputs")
    by = {layer.name: (layer.decomposition, layer.reason) for layer in result.layers if layer.decomposition}
    assert by == dict.fromkeys(("0", "2"), ("swapped_svd", reason))


def test_a_decomposition_and_a_policy_by_a_single_line_each(command, own, tmp_path):
    (tmp_path / "own_conf/decomposition/alone.yaml").write_text("_target_: own_parts.SwappedSVD\n")
    (tmp_path / "own_conf/rank/alone.yaml").write_text(
        "_target_: lowrank_exp.rank.allocate\n_partial_: true\npolicy: own_parts.share_of_rungs\nshare: 0.5\n"
    )
    assert command(*own, "decomposition=alone", "rank=alone", "method.order=[factorize]") == 0
    result, _ = only_job(tmp_path / "outputs")
    assert {layer.name: layer.decomposition for layer in result.layers} == {
        **{"0": "swapped_svd", "2": "swapped_svd", "5": "linear_svd", "7": "linear_svd"},
    }
    assert {layer.reason for layer in result.layers} == {"chosen by share_of_rungs"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method.phases.warm.head='0'"], "phase warm: head=0 is not a linear layer"),
        (
            ["decomposition.conv.order=diagonal"],
            "order must be one of vertical_first, horizontal_first, got 'diagonal'",
        ),
        (["rank.policy._target_=own_parts.nowhere"], "rank.policy._target_=own_parts.nowhere cannot be imported"),
        (["rank.policy=own_parts.nowhere"], "the rank policy 'own_parts.nowhere' cannot be imported"),
        (["~rank.policy._partial_"], "needs problem, share. Give it a value, or set rank.policy._partial_=true"),
        (
            ["data._target_=own_parts.Net", "~data.images", "~data.validation"],
            "data._target_=own_parts.Net makes a Net",
        ),
        (["reconstruct=relu"], "there is no fit 'relu' for"),
        (["method.phases.warm._target_=own_parts.Net"], "own_parts.Net does not take train"),
    ],
)
def test_mistakes_in_them_end_before_any_training(command, own, tmp_path, capsys, options, message):
    assert command(*own, *options) == 1
    said = capsys.readouterr().err
    print(" ".join(said.split())[-400:])
    assert message in " ".join(said.split())
    assert "Traceback" not in said
    assert not list((tmp_path / "outputs").glob("store/*/outcome.json"))


def test_weights_by_a_decomposition_that_nothing_imports_say_so(command, own, tmp_path, capsys, monkeypatch):
    zoo = ("data=digits", "model=lenet5")
    assert command(*own, *zoo, "method.order=[factorize]", outputs=tmp_path / "first") == 0
    result, folder = only_job(tmp_path / "first")
    for name in ("swapped_svd", "own_rows_svd"):
        monkeypatch.delitem(Decomposition._named, name)
    monkeypatch.delitem(sys.modules, "own_parts")
    evaluate = ("method=evaluate", f"model.weights={folder / 'model.pt'}")
    assert command(*own, *zoo, *evaluate, "decomposition=spatial_svd", "rank=uniform", outputs=tmp_path / "second") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "unknown decomposition 'swapped_svd'" in said
    assert "import the module that defines it first" in said
    assert command(*own, *zoo, *evaluate, outputs=tmp_path / "third") == 0
    assert only_job(tmp_path / "third")[0].phases[-1].accuracy == result.phases[-1].accuracy
