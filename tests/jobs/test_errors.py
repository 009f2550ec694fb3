"""A mistake ends before any training, with what was got, what is allowed and what to do, and no traceback."""

import pytest

from lowrank_exp.files.results import Result
from lowrank_exp.job.receipts import RECEIPT
from support.smoke import SMOKE

MISTAKES = {
    "misspelt key": (["rank.mcs=0.4"], ["rank.mcs", "Did you mean macs?", "ranks", "rules"]),
    "a network without a width": (
        ["model=vanilla3", "model.width=0.5"],
        [
            "There is model.width with model=alexnet | alexnet_small | alexnet_torchvision | lenet5 |",
            "vgg19",
            "num_classes",
        ],
    ),
    "misspelt optimizer key": (["training.optimizer.lrr=1"], ["Did you mean lr?", "momentum"]),
    "unknown option of a group": (["model=resnet21"], ["model/resnet21", "resnet20", "lenet5"]),
    "unknown layer in a rule": (["rank.rules={conv9: null}"], ["'conv9'", "conv1, conv2, fc1, fc2, fc3"]),
    "pattern without a layer": (["rank.rules={re\\:blk.*: null}"], ["re:blk.*", "matches no layer", "conv1"]),
    "rank above full rank": (["rank=fixed", "rank.ranks={re\\:.*conv1.*: 99999}"], ["99999", "full rank", "1 to 5"]),
    "rank zero": (["rank=fixed", "rank.ranks={conv1: 0}"], ["rank 0", "1 to 5"]),
    "fixed without ranks": (["rank=fixed"], ["needs `ranks`", "conv1, conv2"]),
    "budget above one": (["rank.macs=1.5"], ["macs=1.5", "(0, 1]"]),
    "budget of zero": (["rank.macs=0"], ["macs=0", "(0, 1]"]),
    "budget out of reach": (["rank.macs=0.01"], ["macs=0.01", "the smallest possible is macs=0.0985"]),
    "share and budget": (["rank=energy", "rank.share=0.9"], ["share=0.9", "set the other to null"]),
    "missing data root": (["data=image_folder"], ["data.root is not set", "train/<class>"]),
    "missing data set": (["data=cifar10"], ["data.download=true"]),
    "missing weights": (["model.weights=nowhere.pt"], ["nowhere.pt", "model.weights"]),
    "missing plan": (["rank=fixed", "rank.ranks=nowhere.yaml"], ["nowhere.yaml", "does not exist"]),
    "network with too few outputs": (["model.num_classes=7"], ["(1, 7)", "10 classes", "model.num_classes=10"]),
    "unknown phase": (["method.order=[train,prune]"], ["'prune'", "train, factorize, recalibrate, finetune"]),
    "negative epochs": (["method.phases.finetune.epochs=-1"], ["method.phases.finetune", "-1", "at least 0"]),
    "no GPU": (["device=cuda:99"], ["cuda:99"]),
    "key inside another group": (["method.phases.factorize.rank.macs=0.3"], ["stands for another group", "rank.macs"]),
    "nothing to decompose": (["decomposition=linear_svd", "rank.over=conv"], ["no layer may be decomposed"]),
    "seed": (["seed=nine"], ["seed", "nine"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(command, tmp_path, capfd, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    arguments, expected = MISTAKES[mistake]
    assert command(*SMOKE, *arguments) == 1
    said = capfd.readouterr().err
    last_lines = said.partition("error: ")[2]
    assert all(text in last_lines for text in expected), said
    assert "Traceback" not in said
    assert not list((tmp_path / "outputs").glob("store/*/last.ckpt"))
    assert not list((tmp_path / "outputs").glob("store/*/network.pt"))


def test_weights_that_do_not_fit(command, tmp_path, capfd):
    assert command(*SMOKE, "method=train") == 0
    (network,) = (tmp_path / "outputs/runs").glob("*/model.pt")
    assert command(*SMOKE, "model=resnet20", f"model.weights={network}") == 1
    said = capfd.readouterr().err
    assert "does not fit this network" in said
    assert "lenet5" in said


def test_a_mistake_in_the_configuration_leaves_no_result(command, tmp_path, capfd):
    assert command(*SMOKE, "rank.macs=0.01") == 1
    assert "the smallest possible is macs=0.0985" in capfd.readouterr().err
    assert not list(tmp_path.rglob("result.json"))


def test_failed_job_records_its_traceback_and_a_good_result_is_kept(command, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no layers")

    with monkeypatch.context() as patched:
        patched.setattr("lowrank_exp.job.network_job.layer_results", broken)
        assert command(*SMOKE, "method=train") == 1
    (path,) = (tmp_path / "outputs/runs").glob("*/result.json")
    failed = Result.read(path)
    assert (failed.status, failed.phases) == ("failed", [])
    assert failed.error.startswith("Traceback")
    assert failed.error.endswith("ValueError: no layers\n")

    assert command(*SMOKE, "method=train", outputs=tmp_path / "good") == 0
    (good,) = (tmp_path / "good/runs").glob("*/result.json")
    (good.parent / RECEIPT).unlink()  # else it answers without looking at the data
    monkeypatch.setattr("lowrank_exp.data.Digits._load", lambda self: (_ for _ in ()).throw(ValueError("disk gone")))
    assert command(*SMOKE, "method=train", outputs=tmp_path / "good") == 1
    assert Result.read(good).status == "ok"


def test_debug_shows_the_traceback(command):
    with pytest.raises(ValueError, match="smallest possible"):
        command(*SMOKE, "rank.macs=0.01", "debug=true")
