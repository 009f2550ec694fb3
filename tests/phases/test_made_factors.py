"""Subnormal weights of factors: set to zero, and told once, in the result of the phase that made them."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from lowrank_exp import factorize_
from lowrank_exp.files.results import Result
from lowrank_exp.models import build
from lowrank_exp.network.subnormals import SubnormalWarning, count_subnormals
from lowrank_exp.phases.made_factors import noted_subnormals, with_subnormals
from lowrank_exp.phases.phase import Done
from lowrank_exp.svd_form import to_svd_, truncate_
from support.smoke import SMOKE


def network():
    """A linear layer of rank 1 with two subnormal entries in its bias, which goes to its last factor as it is."""
    net = nn.Sequential(nn.Linear(4, 3))
    net[0].weight.data = torch.outer(torch.arange(1.0, 4), torch.ones(4))
    net[0].bias.data = torch.tensor([1e-39, 1.0, -1e-39])
    return net


def test_factors_are_cleared_with_a_warning_that_counts():
    net = network()
    with pytest.warns(
        SubnormalWarning, match=r"^2 parameters of the factors were subnormal \(below 1\.2e-38 in float32"
    ):
        factorize_(net, {"0": 1}, "linear_svd")
    assert net[0][1].bias.tolist() == [0.0, 1.0, 0.0]
    assert count_subnormals(net) == 0
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x), network()(x), rtol=1e-6, atol=1e-6)


def test_truncated_forms_are_cleared_too():
    for rank, cleared in ((1, 1), (None, 3)):  # an entry of U; multiplied out, a column of the weight
        net = to_svd_(network(), rank=1)
        net[0].bias.data[:] = 1
        net[0].set_svd_(torch.tensor([[[1.0], [1e-39], [1.0], [1.0]]]), torch.ones(1, 1), torch.ones(1, 1, 3))
        with pytest.warns(SubnormalWarning, match=f"^{cleared} parameters"):
            truncate_(net, {"0": rank}, by="by_s")
        assert count_subnormals(net) == 0
        assert sum(int((parameter == 0).sum()) for parameter in net.parameters()) == cleared


def test_a_phase_notes_them_and_lets_other_warnings_pass():
    def make():
        with noted_subnormals() as noted:
            for text in (SubnormalWarning(3), "something else", SubnormalWarning(4)):
                warnings.warn(text, stacklevel=1)
        return noted

    with pytest.warns(UserWarning, match="^something else$") as heard:
        noted = make()
    assert [str(one.message) for one in heard] == ["something else"]
    done = with_subnormals(Done(values={"other": 1.0}, warnings=["before"]), noted)
    assert done.values == {"other": 1.0, "subnormals": 7}
    assert [text[:9] for text in done.warnings] == ["before", "3 paramet", "4 paramet"]
    assert with_subnormals(done, []) is done


def test_a_job_counts_them_and_says_what_they_do_to_times(command, tmp_path):
    net = build("lenet5", {"num_classes": 10})
    net.conv2.bias.data[:7] = 1e-39
    net.fc3.weight.data[0, :5] = 1e-39
    torch.save(net.state_dict(), tmp_path / "lenet.pt")
    options = ["method.order=[factorize]", "rank=fixed", "rank.ranks={conv2: 1}", "decomposition=channel_svd"]
    options += [f"model.weights={tmp_path / 'lenet.pt'}", "latency.seconds=0.01"]
    assert command(*SMOKE, *options) == 0
    (phase,) = only_result(tmp_path / "outputs").phases
    assert phase.values["subnormals"] == 7
    said = " ".join(phase.warnings)
    assert "7 parameters of the factors were subnormal" in said
    assert "5 parameters are subnormal: CPU convolutions with them are 5 to 50 x slower" in said


def only_result(outputs: Path) -> Result:
    (path,) = (outputs / "runs").glob("*/result.json")
    return Result.read(path)
