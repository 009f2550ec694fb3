"""What a network's state holds beside tensors of numbers is kept in its file, or refused by name."""

import warnings

import pytest
import torch
from torch import nn

from lowrank_exp import factorize_, load, save
from lowrank_exp.edits import Bias, Factorize, KeepChannels, edits_of
from lowrank_exp.models import build, lenet5


class Versioned(nn.Module):
    """Reads its state as torchvision's mnasnet does: by the version that wrote it."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return self.conv(x)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if local_metadata.get("version") not in (1, 2):
            raise ValueError(f"version should be set to 1 or 2 instead of {local_metadata.get('version')}")
        if local_metadata["version"] == 1:
            state_dict[f"{prefix}conv.bias"] = -state_dict[f"{prefix}conv.bias"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


class Counter(nn.Module):
    def __init__(self, state=None):
        super().__init__()
        self.state = state

    def forward(self, x):
        return x

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


def counting(state=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), Counter(state))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "small.pt"


@pytest.mark.parametrize(
    "around", [lambda n: n, nn.DataParallel, nn.Sequential], ids=["bare", "parallel", "sequential"]
)
def test_versions_of_modules_are_kept(path, around):
    model = Versioned()
    save(around(model), path)
    assert torch.load(path, weights_only=True)["metadata"]["" if around is not nn.Sequential else "0"] == {"version": 2}
    assert torch.equal(load(path, model=around(Versioned())).state_dict().popitem()[1], model.conv.bias)

    content = torch.load(path, weights_only=True)
    content["metadata"] = {name: {"version": 1} for name in content["metadata"]}
    torch.save(content, path)
    assert torch.equal(load(path, model=around(Versioned())).state_dict().popitem()[1], -model.conv.bias)


def test_files_of_version_1_are_read(path):
    """As they were written before module versions were kept: those of the network that is loaded are taken."""
    model = factorize_(nn.Sequential(Versioned(), nn.Flatten()), {"0.conv": 2}, "channel_svd")
    edits = [{"edit": "Factorize", "layer": "0.conv", "decomposition": "channel_svd", "rank": 2, "options": {}}]
    content = {"format": "lowrank_exp", "version": 1, "network": None, "edits": edits}
    torch.save(content | {"state_dict": dict(model.state_dict())}, path)
    again = load(path, model=nn.Sequential(Versioned(), nn.Flatten()))
    assert torch.equal(again[0].conv[1].bias, model[0].conv[1].bias)
    assert edits_of(again) == [Factorize("0.conv", "channel_svd", 2)]

    ours = lenet5(num_classes=7)
    kept = {"edit": "KeepChannels", "layer": "fc3", "out": (1, 2), "inputs": None}
    state = ours.state_dict() | {name: ours.state_dict()[name][[1, 2]] for name in ("fc3.weight", "fc3.bias")}
    edits = [{"edit": "Bias", "layer": "fc3"}, kept]
    torch.save(content | {"network": ours.zoo, "edits": edits, "state_dict": dict(state)}, path)
    again = load(path)
    assert torch.equal(again.fc3.weight, ours.fc3.weight[[1, 2]])
    assert edits_of(again) == [Bias("fc3"), KeepChannels("fc3", (1, 2))]
    torch.save(torch.load(path, weights_only=True) | {"metadata": {}}, path)
    with pytest.raises(ValueError, match="it has the field 'metadata', which version 1 does not have"):
        load(path)


@pytest.mark.parametrize(
    "state", [{"calls": 3, "names": ["a", None], "at": (1.5, True)}, 7, "text", {"sum": torch.arange(3.0)}], ids=str
)
def test_extra_state_of_plain_values_is_kept(path, state):
    model = factorize_(counting(state), {"0": 2})
    save(model, path)
    again = load(path, model=counting("nothing"))
    assert str(again[1].state) == str(state)
    assert torch.equal(again[0][1].weight, model[0][1].weight)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"at": {1, 2}}, r"1\._extra_state holds a set \({1, 2}\): only None, numbers, strings, tensors"),
        ([nn.Linear(2, 2)], r"1\._extra_state holds a Linear"),
        (torch.float32, r"1\._extra_state holds a dtype"),
        ({"a": torch.zeros(2, device="meta")}, r"1\._extra_state is on the meta device"),
    ],
    ids=["set", "module", "type", "meta"],
)
def test_other_extra_state_is_refused(path, state, message):
    with pytest.raises(ValueError, match=message):
        save(counting(state), path)
    assert not path.exists()


def test_extra_state_that_a_network_does_not_take(path):
    class Strict(Counter):
        def set_extra_state(self, state):
            raise KeyError("calls")

    save(counting({"a": 1}), path)
    with pytest.raises(ValueError, match=r"small.pt does not fit this network: KeyError: 'calls'"):
        load(path, model=nn.Sequential(nn.Conv2d(1, 4, 3), Strict()))
    with pytest.raises(ValueError, match=r"small.pt does not fit this network; .* 1 unexpected: 1._extra_state"):
        load(path, model=nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()))


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = factorize_(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)), {"0": 4})
        return torch.ao.quantization.quantize_dynamic(dense, {nn.Linear}, dtype=torch.qint8)


def on_meta():
    with torch.device("meta"):
        return nn.Sequential(nn.Conv2d(3, 8, 3))


def with_(buffer):
    model = nn.Sequential(nn.ReLU())
    model.register_buffer("numbers", buffer)
    return model


def diverged(what):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    model.state_dict()[what].fill_(torch.nan)
    return model


def normed_after():
    model = factorize_(nn.Sequential(nn.Linear(6, 4)), {"0": 2})
    nn.utils.parametrizations.weight_norm(model[0][1])
    return model


def exchanged():
    model = factorize_(nn.Sequential(nn.Linear(6, 4)), {"0": 2})
    model[0][1] = nn.Linear(2, 5)
    return model


def another_head():
    model = lenet5()
    model.fc3 = nn.Linear(84, 3)
    return model


REFUSED = {
    "dynamic quantization": (quantized, r"0\.0\._packed_params\.dtype is a dtype and not a tensor, as torch's quantiz"),
    "meta": (on_meta, "0.weight is on the meta device: it has a shape and no numbers"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "0.weight has no shape yet: run the network once"),
    "sparse": (lambda: with_(torch.eye(3).to_sparse()), r"numbers is a tensor of another kind \(torch.sparse_coo\)"),
    "quantized": (
        lambda: with_(torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)),
        r"numbers is a tensor of another kind \(torch.qint8\)",
    ),
    "TorchScript": (
        lambda: torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)),
        "TorchScript has no layers that a file",
    ),
    "weights NaN": (
        lambda: diverged("0.weight"),
        "numbers that are NaN or infinite in 0.weight: its file would not be",
    ),
    "statistics NaN": (lambda: diverged("1.running_var"), "NaN or infinite in 1.running_var"),
    "a norm on a factor": (normed_after, "changed by other means .*: 1 missing: 0.1.weight; 2 unexpected: 0.1.param"),
    "another factor": (
        exchanged,
        r"changed by other means .* 0.1.weight \(5, 2\) in the file, \(4, 2\) in the network",
    ),
    "another head of ours": (another_head, "is not lenet5 any more: .*fc3.weight .*by deleting its attribute `zoo`"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_file_cannot_hold_is_refused_before_it_is_written(path, make, message):
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        save(make(), path)
    assert list(path.parent.iterdir()) == []


def test_a_network_of_ours_with_another_head_becomes_ones_own(path):
    model = another_head().eval()
    del model.zoo
    save(model, path)
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load(path, model=another_head())(x), model(x))


def test_a_network_on_the_meta_device_takes_no_weights(path):
    save(nn.Sequential(nn.Conv2d(3, 8, 3)), path)
    with pytest.raises(ValueError, match=r"cannot be loaded into a network on the meta device \(0.weight\)"):
        load(path, model=on_meta())


def test_masks_of_infinities_and_views_are_no_mistake(path):
    mask = torch.triu(torch.full((3, 3), -torch.inf), 1)
    save(with_(mask), path)
    assert torch.equal(load(path, model=with_(mask.clone())).numbers, mask)
    save(with_(torch.ones(1).expand(5000)), path)
    assert torch.equal(load(path, model=with_(torch.zeros(5000))).numbers, torch.ones(5000))


def test_saving_draws_no_random_numbers(path):
    model = build("cifar_resnet", {"depth": 8})
    torch.manual_seed(3)
    save(model, path)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))
