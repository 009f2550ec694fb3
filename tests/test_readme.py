"""The commands of README and pages, and their examples, end as they say: ranks, budgets, phases, accuracies."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lowrank_exp import load, profile
from lowrank_exp.command_line.keys.check import check_values
from lowrank_exp.export import open_exported, read_metadata
from lowrank_exp.files.results import Result
from lowrank_exp.files.searches import Search
from lowrank_exp.job.store_command import main as store
from lowrank_exp.rank import Plan
from lowrank_exp.report.cli import main as report
from lowrank_exp.search.space import read_space
from support.composed import composed, flattened
from support.smoke import SMOKE
from support.wandb_files import wandb_tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))]
WRITTEN = [
    line for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page, re.S) for line in block.splitlines()
]
BASH = list(dict.fromkeys(filter(None, WRITTEN)))
PYTHON = list(dict.fromkeys(block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page, re.S)))
STORE = [line for line in BASH if line.startswith("lowrank-exp store")]
CLUSTER = [line for line in BASH if "launcher=slurm" in line]  # see tests/cluster
JOBS = [line for line in BASH if line.startswith("lowrank-exp") and "<" not in line and line not in CLUSTER + STORE]
ABSENT = [line for line in BASH if line.startswith("lowrank-exp") and "<" in line]  # needs files of the reader's
QUICK = "hydra.sweeper.params.seed='0'"
DENSE = 416520  # MACs of LeNet-5 on the digits
LAYERS = ["conv1", "conv2", "fc1", "fc2", "fc3"]


@dataclass(frozen=True)
class Ended:
    """A job that a command has left behind."""

    result: Result
    outputs: Path

    @property
    def phases(self) -> list[str]:
        return [phase.name for phase in self.result.phases]

    @property
    def ranks(self) -> dict:
        return {layer.name: layer.rank for layer in self.result.layers}

    @property
    def used(self) -> set:
        """The decompositions of the layers that have one."""
        return {layer.decomposition for layer in self.result.layers if layer.rank is not None}

    @property
    def plan(self) -> Plan:
        return Plan.read(self.result.folder / "plan.yaml")

    def macs(self, phase: str) -> int:
        (found,) = [one.macs for one in self.result.phases if one.name == phase]
        return found

    def history(self, phase: str) -> list[dict]:
        (key,) = [one.key for one in self.result.phases if one.name == phase]
        return json.loads((self.outputs / "store" / f"{phase}-{key[:16]}" / "outcome.json").read_text())["history"]

    def network(self) -> torch.nn.Module:
        return load(self.result.folder / "model.pt")


def near(share: float, asked: float) -> bool:
    """The rule of budgets: within 1 % on either side."""
    return abs(share / asked - 1) <= 0.01 + 1e-9


def halved(job: Ended, share: float = 0.5, phases: tuple = ("train", "factorize", "finetune")) -> None:
    """A decomposition under a budget of MACs, which fine-tuning keeps."""
    assert job.phases == list(phases)
    assert job.macs("train") == DENSE
    assert near(job.macs("factorize") / DENSE, share)
    assert job.macs("finetune") == job.macs("factorize")
    assert job.plan.ranks == job.ranks


def energy_under_a_budget(job: Ended) -> None:
    halved(job, 0.4)
    assert (job.result.seed, job.plan.policy, job.used) == (3, "energy", {"channel_svd", "linear_svd"})


def the_share_of_energy(job: Ended) -> None:
    """The smallest rank that keeps 0.95 of the squared singular values of the trained layer, where it is cheaper."""
    (path,) = (job.outputs / "store").glob("train-*/network.pt")
    dense = profile(
        load(path), torch.zeros(1, 1, 32, 32), decomposition={"conv": "spatial_svd", "linear": "linear_svd"}
    )
    for name, rank in job.ranks.items():
        squares = torch.as_tensor(dense[name].singular_values).double().square().sum(0)
        kept = squares.cumsum(0) / squares.sum()
        fewest = int((kept < 0.95).sum()) + 1
        assert rank in (fewest, None)
    nothing = "no layer is decomposed, the network is what it was"
    assert any(nothing in told for told in job.result.told()) == (set(job.ranks.values()) == {None})


def ranks_by_hand(job: Ended) -> None:
    assert job.ranks == {"conv1": None, "conv2": 4, "fc1": 8, "fc2": 8, "fc3": 8}
    network = job.network()
    assert [network.conv2[0].out_channels, network.fc1[0].out_features] == [4, 8]


def rules(job: Ended) -> None:
    halved(job)
    assert job.ranks["fc3"] is None
    assert all(job.ranks[name] is None or job.ranks[name] >= 2 for name in ("conv1", "conv2"))
    assert job.ranks["conv2"] is not None


def epochs_and_rate(job: Ended) -> None:
    halved(job)
    history = job.history("finetune")
    assert (len(history), history[0]["learning_rate"]) == (3, pytest.approx(0.02))


def cut_images(job: Ended) -> None:
    assert job.phases == ["train", "factorize", "recalibrate", "finetune"]
    assert near(job.macs("finetune") / job.macs("train"), 0.5)
    assert (job.result.config["data"]["cutout"], job.result.config["data"]["crop_padding"]) == (4, 1)


def tucker(job: Ended) -> None:
    assert job.ranks == {"conv1": None, "conv2": [3, 8], "fc1": None, "fc2": None, "fc3": None}
    assert job.used == {"tucker2"}
    assert [layer.out_channels for layer in job.network().conv2] == [3, 8, 16]


def fitted_to_responses(job: Ended) -> None:
    halved(job)
    assert "channel_svd" in job.used
    assert job.result.config["reconstruct"]["fit"] == "relu"
    (train,) = (job.outputs / "store").glob("train-*/network.pt")
    (fitted,) = (job.outputs / "store").glob("factorize-*/network.pt")
    before, after = load(train), load(fitted)
    (name,) = [name for name in ("conv2",) if job.ranks[name] is not None]
    assert not torch.equal(after.get_submodule(name)[-1].bias, before.get_submodule(name).bias)


def a_tenth_of_the_bytes(job: Ended) -> None:
    assert near(job.plan.remaining("bytes"), 0.1)
    assert job.used == {"product_quantization"}
    assert job.macs("finetune") == DENSE
    assert job.result.phases[-1].bytes < 0.15 * job.result.phases[0].bytes


def multiples_of_evbmf(job: Ended) -> None:
    assert {layer.reason for layer in job.result.layers if layer.rank} == {"chosen by evbmf"}
    assert "cp" in job.used
    assert all(rank % 8 == 0 for rank in job.ranks.values() if rank)


def solved_by_tensorly(job: Ended) -> None:
    reasons = [layer.reason for layer in job.plan.layers.values() if layer.decomposition == "cp"]
    assert reasons
    assert all("; tensorly: error 0." in reason and ", ours: error 0." in reason for reason in reasons)


def joined(job: Ended) -> None:
    halved(job)
    assert job.used <= {"spatial_svd", "channel_svd", "tucker2", "linear_svd"}
    assert job.plan.policy == "knapsack"


def even_ranks(job: Ended) -> None:
    halved(job)
    assert job.plan.policy == "enc_inf"
    assert all(rank is None or rank % 2 == 0 for rank in job.ranks.values())


SVD_TRAINING = ["to_svd", "train", "sparse", "truncate", "finetune"]


def sparse_training(job: Ended) -> None:
    assert job.phases == SVD_TRAINING
    assert [job.macs(name) for name in SVD_TRAINING[:3]] == [DENSE] * 3
    assert job.macs("truncate") <= DENSE
    assert {"penalty_l1", "penalty_orthogonality"} <= job.history("sparse")[-1].keys()
    assert not any("outweigh" in told for told in job.result.told())


def truncated_to_a_budget(job: Ended) -> None:
    assert job.phases == SVD_TRAINING
    assert near(job.macs("truncate") / DENSE, 0.4)
    assert "penalty_hoyer" in job.history("sparse")[-1]


def orthogonal_filters(job: Ended) -> None:
    halved(job)
    penalties = [line["penalty_soft_orthogonality"] for line in job.history("train")]
    assert penalties[-1] > 0
    assert "penalty_soft_orthogonality" not in job.history("finetune")[-1]


def two_processes(job: Ended) -> None:
    halved(job)
    recipe = job.result.config["training"]
    assert (recipe["precision"], recipe["accumulate"], job.result.config["devices"]) == ("bf16", 2, 2)


def depth_and_noise(job: Ended) -> None:
    assert job.phases == ["train", "factorize", "recalibrate", "finetune"]
    assert near(job.macs("finetune") / job.macs("train"), 0.5)
    assert job.result.config["training"]["stochastic_depth"] == {"survival": "linear", "last": 0.8}


def filters_removed(job: Ended) -> None:
    assert job.phases == ["train", "prune", "finetune"]
    assert 0.3 < job.macs("prune") / DENSE <= 0.404  # a channel is worth up to a seventh of all
    assert job.macs("finetune") == job.macs("prune")
    assert job.network().conv2.out_channels < 16
    assert job.used == set()


def filters_reborn(job: Ended) -> None:
    assert (job.phases, job.macs("prune")) == (["prune"], DENSE)
    assert job.result.phases[0].values["gradient_revived"] > 0
    assert job.result.config["pruning"]["scope"] == "layer"


def half_of_the_channels(job: Ended) -> None:
    assert job.phases == ["train", "prune", "remove", "finetune"]
    left = {layer.name: layer.channels_after for layer in job.result.layers}
    assert (left["conv1"], left["conv2"]) == (3, 8)
    assert job.result.config["finetune"]["distill"]["teacher"] == "train"


def ranks_pruned(job: Ended) -> None:
    assert job.phases[:3] == ["train", "factorize", "prune"]
    assert near(job.macs("factorize") / DENSE, 0.7)
    assert 0.6 < job.macs("prune") / job.macs("factorize") <= 0.707
    assert job.macs("finetune") == job.macs("prune")


def of_budgets(jobs: list[Ended]) -> None:
    assert [job.result.config["rank"]["macs"] for job in jobs] == [0.3, 0.5, 0.75]
    for job in jobs:
        halved(job, job.result.config["rank"]["macs"])
    assert len(list((jobs[0].outputs / "store").glob("train-*/network.pt"))) == 1
    assert "lowrank-report outputs/runs --html report.html" in BASH
    assert report(["outputs/runs", "--html", "report.html"]) == 0
    assert "rank.macs=0.75" in Path("report.html").read_text(encoding="utf-8")


def of_policies(jobs: list[Ended]) -> None:
    assert sorted(job.plan.policy for job in jobs) == ["energy", "uniform"]
    for job in jobs:
        halved(job)


def of_the_experiment(jobs: list[Ended]) -> None:
    found = {(job.plan.policy, job.result.config["rank"]["macs"]) for job in jobs}
    assert found == {(policy, macs) for policy in ("uniform", "energy") for macs in (0.3, 0.5, 0.75)}
    for job in jobs:
        halved(job, job.result.config["rank"]["macs"])
    (experiment,) = {job.result.experiment for job in jobs}
    assert f"lowrank-report outputs/{experiment}" in BASH
    for line in BASH:
        if line.startswith(f"lowrank-report outputs/{experiment}"):
            assert report(shlex.split(line)[1:]) == 0
    assert Path(f"outputs/{experiment}/report/results.csv").is_file()
    assert f"experiment={experiment}" in Path("report.html").read_text(encoding="utf-8")  # the commands of its runs
    rows = wandb_tables(Path(f"outputs/{experiment}/report"))[f"{experiment}/rows"]
    assert {name for row in rows for name in row["fingerprints"].split()} == {job.result.fingerprint for job in jobs}


def of_hosts(jobs: list[Ended]) -> None:
    assert [job.result.config["rank"]["macs"] for job in jobs] == [0.4, 0.6]
    assert not list(jobs[0].outputs.glob("**/*.lease"))  # given back
    assert len(list(jobs[0].outputs.glob("store/train-*/outcome.json"))) == 1


def of_a_search(jobs: list[Ended]) -> None:
    (file,) = jobs[0].outputs.glob("digits_search/search-*.json")
    trials = Search.read(file).trials
    assert {trial.fingerprint: trial.state for trial in trials} == {job.result.fingerprint: "complete" for job in jobs}
    assert len(jobs) == 2
    for job in jobs:
        budget = job.result.config["rank"]["macs"]
        assert 0.2 <= budget <= 0.8
        assert near(job.macs("truncate") / DENSE, budget)
    assert "lowrank-report outputs/digits_search" in BASH
    assert report(["outputs/digits_search"]) == 0
    assert "validation %" in Path("outputs/digits_search/report/results.md").read_text()


def exported(job: Ended) -> None:
    """The file says what was reported, and computes what the network does."""
    halved(job)
    (record,) = job.result.exports
    assert (record["format"], record["equal_predictions"]) == ("onnx", 1.0)
    assert record["difference"] < 1e-4
    path, last = job.result.folder / "model.onnx", job.result.phases[-1]
    assert (read_metadata(path)["accuracy"], read_metadata(path)["macs"]) == (last.accuracy, last.macs)
    x = torch.rand(5, 1, 32, 32)
    torch.testing.assert_close(open_exported(path)(x), job.network().eval()(x).detach(), rtol=1e-4, atol=1e-5)


# What a command comes to, by a part of it that no other has; sweeps get all jobs, sorted by budget.
OUTCOMES: Mapping[str, Callable[[Ended], None]] = {
    "decomposition=channel_svd rank=energy rank.macs=0.4": energy_under_a_budget,
    "rank.share=0.95": the_share_of_energy,
    "rank.ranks={conv2: 4,": ranks_by_hand,
    "rank.rules={fc3: null": rules,
    "method.phases.finetune.epochs=3": epochs_and_rate,
    "data.cutout=4": cut_images,
    "rank.ranks={conv2: [3, 8]}": tucker,
    "reconstruct=relu": fitted_to_responses,
    "rank.bytes=0.1": a_tenth_of_the_bytes,
    "rank.round=up": multiples_of_evbmf,
    "solver=tensorly": solved_by_tensorly,
    "rank.metric=sensitivity": joined,
    "rank=enc_inf": even_ranks,
    "truncate.energy=0.05": sparse_training,
    "truncate.rank=${rank}": truncated_to_a_budget,
    "regularizer=soft_orthogonality": orthogonal_filters,
    "training.precision=bf16": two_processes,
    "training.stochastic_depth": depth_and_noise,
    "method=taylor": filters_removed,
    "method=repr": filters_reborn,
    "method=prune pruning=agp": half_of_the_channels,
    "method=decompose_prune": ranks_pruned,
    "export=onnx": exported,
    "paths.outputs=outputs/tour": halved,
}
SWEEPS: Mapping[str, Callable[[list[Ended]], None]] = {
    "-m rank.macs=0.3,0.5,0.75": of_budgets,
    "-m rank=uniform,energy": of_policies,
    "experiment=digits_budgets": of_the_experiment,
    "seed=0,1,2 store.shared=true": of_hosts,
    "experiment=digits_search": of_a_search,
}
# Where an epoch of training is not enough to say how well a network is: at their full length.
AT_LENGTH = (
    "truncate.energy=0.05",
    "truncate.rank=${rank}",
    "regularizer=soft_orthogonality",
    "method=decompose_prune",
)


def outcome(line: str) -> Callable:
    """The one outcome of a command."""
    (found,) = [check for part, check in {**OUTCOMES, **SWEEPS}.items() if part in line.replace("'", "")]
    return found


def ended(outputs: Path) -> list[Ended]:
    """Every job below the folder; each has ended with its targets met."""
    found = [Ended(Result.read(path), outputs) for path in outputs.glob("*/*/result.json")]
    assert all(job.result.status == "ok" for job in found)
    assert not any(phase.missed for job in found for phase in job.result.phases)
    return sorted(found, key=lambda job: job.result.config.get("rank", {}).get("macs") or 0)


def test_every_command_of_the_readme_has_an_outcome():
    reports = [line for line in BASH if line.startswith("lowrank-report")]
    assert sorted(JOBS + ABSENT + CLUSTER + STORE + reports) == sorted(BASH)
    dry = [line for line in JOBS if "dry_run=true" in line]
    checks = [outcome(line) for line in JOBS if line not in dry]
    assert len(dry) == 1
    assert sorted(check.__name__ for check in checks) == sorted(
        check.__name__ for check in (*OUTCOMES.values(), *SWEEPS.values())
    )


def arguments(line: str) -> list[str]:
    return [argument for argument in shlex.split(line)[1:] if not argument.startswith(("paths.", "seed=0,"))]


@pytest.mark.slow
@pytest.mark.parametrize("line", JOBS)
def test_command(command, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    assert command(*arguments(line), *SMOKE, *([QUICK] if "experiment=" in line else [])) == 0
    jobs = ended(tmp_path / "outputs")
    if "dry_run=true" in line:
        assert jobs == []
    elif outcome(line) in SWEEPS.values():
        outcome(line)(jobs)
    else:
        outcome(line)(*jobs)


@pytest.mark.slow
@pytest.mark.parametrize("part", AT_LENGTH)
def test_command_at_its_full_length(command, tmp_path, part):
    """What comes out knows the digits, nearly as well as the network before it was made small."""
    (line,) = [line for line in JOBS if part in line.replace("'", "")]
    assert command(*arguments(line), "logger=none", "progress=false", "latency.seconds=0") == 0
    (job,) = ended(tmp_path / "outputs")
    outcome(line)(job)
    assert job.result.told() == []
    accuracies = {phase.name: phase.accuracy for phase in job.result.phases}
    assert accuracies["train"] > 0.95
    assert accuracies[job.phases[-1]] > accuracies["train"] - 0.03
    assert job.result.phases[-1].macs < 0.8 * DENSE


@pytest.mark.parametrize("line", CLUSTER)
def test_command_for_a_cluster_composes_and_is_a_sweep(line):
    typed = [argument for argument in shlex.split(line)[1:] if argument != "-m"]
    if "sweeper=optuna" in typed:
        space = read_space(typed)
        assert set(space.searched) == {"rank", "rank.macs"}
        first = space.fixed
    else:
        (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(typed), None)
        assert len(jobs) == 4 or "experiment=digits_budgets" in typed
        first = jobs[0]
    cfg = composed(*first)
    check_values(OmegaConf.to_container(flattened(cfg)), OmegaConf.to_container(cfg, resolve=False))
    assert cfg.launcher._target_ == "lowrank_exp.job.launchers.Slurm"


@pytest.mark.parametrize("line", ABSENT)
def test_command_that_needs_files_composes(line):
    cfg = composed(*(re.sub(r"<.*?>", "x", argument) for argument in shlex.split(line)[1:]))
    assert cfg.model.weights is None or cfg.model.weights.startswith(("x", "outputs/", "IMAGENET1K"))


def test_commands_on_a_small_network_of_ones_own(command, tmp_path, monkeypatch):
    """Those that take a file which an earlier job has left."""
    monkeypatch.chdir(tmp_path)
    assert command(*SMOKE, "rank.macs=0.6") == 0
    (small,) = ended(tmp_path / "outputs")
    trained = next((tmp_path / "outputs/store").glob("train-*/network.pt"))
    files = {
        "method=evaluate model.weights=outputs": (small.result.folder / "model.pt", ["evaluate"]),
        "method=oneshot model.weights": (trained, ["evaluate", "factorize"]),
        "method=refactorize": (small.result.folder / "model.pt", ["evaluate", "recompose", "factorize", "finetune"]),
    }
    for number, (part, (file, phases)) in enumerate(files.items()):
        (line,) = [line for line in ABSENT if part in line]
        given = [re.sub(r"model\.weights=.*", f"model.weights={file}", argument) for argument in arguments(line)]
        assert command(*given, *SMOKE, outputs=tmp_path / f"{number}") == 0
        (job,) = ended(tmp_path / f"{number}")
        assert job.phases == phases
        if part.startswith("method=evaluate"):
            assert job.result.phases[0].accuracy == small.result.phases[-1].accuracy
            assert job.result.phases[0].macs == small.macs("finetune")
        elif part == "method=refactorize":
            assert near(job.macs("factorize") / job.macs("recompose"), 0.3)
            assert "cp" in job.used
        else:
            assert near(job.macs("factorize") / DENSE, 0.6)


def test_commands_on_the_store(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(*SMOKE, "method=train") == 0
    told = {"list": "train-", "verify": "all is whole", "prune": "nothing to remove: the 1 jobs use the rest"}
    for verb, words in told.items():
        (line,) = [line for line in STORE if line.startswith(f"lowrank-exp store {verb}")]
        capsys.readouterr()
        assert store(shlex.split(line)[2:]) == 0
        assert words in capsys.readouterr().out
    assert len(STORE) == len(told)


def test_library_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = (block for block in PYTHON if "squeezenet" in block)
    names: dict = {}
    exec(example, names)
    plan = names["plan"]
    assert 0.495 <= plan.remaining("macs") <= 0.505
    assert plan["features.0"] is None
    import torch

    image = torch.randn(1, 3, 64, 64)
    model, small = names["model"].eval(), names["small"].eval()
    with torch.no_grad():
        assert torch.equal(model(image), small(image))


def test_example_of_a_budget_of_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = (block for block in PYTHON if "latency=0.8" in block)
    names: dict = {}
    exec(example, names)
    plan = names["plan"]
    assert plan.remaining("latency") <= 0.808
    assert plan.runtime["name"] == "onnxruntime"
    printed = [float(number) for number in capsys.readouterr().out.split()]
    assert len(printed) == 3
    assert printed[1] == plan.predicted_ms
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(open_exported("small.onnx")(x), names["model"].eval()(x).detach(), rtol=1e-4, atol=1e-5)


def test_what_pages_show_of_the_first_job_has_the_columns_that_it_prints(command, capsys):
    assert command("scale=smoke", "logger=none", "progress=false") == 0
    printed = capsys.readouterr().out.splitlines()
    heads = [line.split() for line in printed if line.startswith(("phase  ", "layer  "))]
    assert len(heads) == 2
    shown = [page for page in PAGES if "phase      test %" in page]
    assert len(shown) == 2  # README and the start
    for page in shown:
        assert [line.split() for line in page.splitlines() if line.startswith(("phase  ", "layer  "))] == heads
