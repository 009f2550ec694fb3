"""Checkpoints as other people write them: which part is taken, what is said of it, and what is refused."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lowrank_exp.models import lenet5, load_weights_


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def doubled(state):
    return {name: 2 * value for name, value in state.items()}


@pytest.fixture
def state():
    torch.manual_seed(1)
    return dict(lenet5().state_dict())


def in_the_middle(state):
    """Names of a network that holds a compiled part and one under DataParallel."""
    changed = {name: name.replace("conv2.", "conv2._orig_mod.").replace("fc1.", "fc1.module.") for name in state}
    return {changed[name]: value for name, value in state.items()}


FORMS = {
    "compiled": (lambda s: prefixed(s, "_orig_mod."), "took its tensors, without _orig_mod. in names"),
    "compiled, then DDP": (
        lambda s: prefixed(s, "module._orig_mod."),
        "took its tensors, without the prefix module., without _orig_mod. in names",
    ),
    "Lightning of a compiled one": (
        lambda s: {"state_dict": prefixed(s, "model._orig_mod.")},
        "took state_dict, without the prefix model., without _orig_mod. in names",
    ),
    "FSDP": (
        lambda s: prefixed(s, "_fsdp_wrapped_module."),
        "took its tensors, without _fsdp_wrapped_module. in names",
    ),
    "in the middle": (in_the_middle, "took its tensors, without _orig_mod. in names"),
    "averaged": (
        lambda s: {"n_averaged": torch.tensor(7)} | prefixed(s, "module."),
        "took its tensors, without the prefix module., left out n_averaged",
    ),
    "a criterion and a metric beside": (
        lambda s: {
            "state_dict": prefixed(s, "model.")
            | {"criterion.weight": torch.ones(10), "val_acc.metric_state": torch.ones(1)}
        },
        "took state_dict, without the prefix model., left out criterion.weight, val_acc.metric_state",
    ),
    "a criterion beside bare names": (
        lambda s: {"state_dict": s | {"criterion.weight": torch.ones(10)}},
        "took state_dict, left out criterion.weight",
    ),
    "an attribute of any name": (
        lambda s: {"state_dict": prefixed(s, "my_cnn.")},
        "took state_dict, without the prefix my_cnn.",
    ),
    "tutorial": (lambda s: {"epoch": 1, "model_state_dict": s}, "took model_state_dict"),
    "net": (lambda s: {"net": prefixed(s, "module."), "acc": 90.0}, "took net, without the prefix module."),
    "network": (lambda s: {"network": s, "step": torch.tensor(3)}, "took network"),
    "weights": (lambda s: {"weights": s}, "took weights"),
    "params": (lambda s: {"params": s}, "took params"),
    "an average alone": (lambda s: {"ema_state_dict": s}, "took ema_state_dict"),
    "nested": (lambda s: {"model": {"state_dict": s, "name": "lenet"}}, "took model.state_dict"),
    "a key of one's own": (lambda s: {"my_own_key": s}, "took my_own_key"),
    "loose values": (lambda s: s | {"epoch": 3}, "took its tensors, left out epoch"),
    "momenta of the same names": (
        lambda s: {"exp_avg": doubled(s), "model": s},
        "took model, which it prefers to exp_avg that would fit too",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_part_that_fits_is_taken_and_said(form, state, tmp_path):
    written, said = FORMS[form]
    path = tmp_path / "w.pt"
    torch.save(written(state), path)
    module = lenet5()
    got = load_weights_(module, path)
    assert same(dict(module.state_dict()), state)
    assert got == f"{path}: {said}" or (got.startswith(f"{path}: {said}") and "would fit too (to have that: " in got)


def test_a_whole_file_needs_no_words(state, tmp_path):
    torch.save(state, tmp_path / "w.pt")
    assert load_weights_(lenet5(), tmp_path / "w.pt") == ""


@pytest.mark.parametrize(
    "average", ["ema", "model_ema", "ema_state_dict", "state_dict_ema", "teacher", "averaged_model"]
)
@pytest.mark.parametrize("first", [True, False])
def test_what_was_trained_comes_before_its_average(average, first, state, tmp_path):
    both = [("model", state), (average, doubled(state))]
    torch.save(dict(both if first else both[::-1]), tmp_path / "w.pt")
    module = lenet5()
    said = load_weights_(module, tmp_path / "w.pt")
    assert same(dict(module.state_dict()), state)
    assert said.startswith(f"{tmp_path / 'w.pt'}: took model, which it prefers to {average} that would fit too")


def test_the_line_that_is_said_gives_the_other_part(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": prefixed(state, "net.") | prefixed(doubled(state), "ema_net.")}, "w.ckpt")
    said = load_weights_(lenet5(), "w.ckpt")
    assert said.startswith("w.ckpt: took state_dict, without the prefix net.")
    exec(said.partition("to have that: ")[2].removesuffix(")"))
    module = lenet5()
    assert load_weights_(module, "ema_net.pt") == ""
    assert same(dict(module.state_dict()), doubled(state))


def test_of_two_of_which_none_comes_first_none_is_taken(state, tmp_path):
    torch.save({"left": state, "right": doubled(state)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"has several parts that fit \(left, right\): save the one you mean: import"):
        load_weights_(lenet5(), tmp_path / "w.pt")


def test_of_a_student_and_a_teacher_the_one_with_the_shapes_is_taken(state, tmp_path):
    wide = {name: torch.ones([*value.shape, 1]) for name, value in state.items()}
    torch.save({"state_dict": prefixed(wide, "model.") | prefixed(state, "teacher.")}, tmp_path / "w.pt")
    module = lenet5()
    load_weights_(module, tmp_path / "w.pt")
    assert same(dict(module.state_dict()), state)


def test_torchs_own_averaged_model(tmp_path):
    torch.manual_seed(2)
    donor = lenet5()
    torch.save(AveragedModel(donor).state_dict(), tmp_path / "w.pt")
    module = lenet5()
    assert load_weights_(module, tmp_path / "w.pt").endswith("without the prefix module., left out n_averaged")
    assert same(module.state_dict(), donor.state_dict())


def test_more_layers_than_the_network_has_are_no_criterion(tmp_path):
    longer = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    for written in (longer.state_dict(), {"state_dict": prefixed(longer.state_dict(), "module.")}):
        torch.save(written, tmp_path / "w.pt")
        with pytest.raises(ValueError, match=r"2 unexpected: 2\.weight, 2\.bias"):
            load_weights_(longer[:2], tmp_path / "w.pt")


def test_a_compiled_network_reads_its_own_names(tmp_path):
    donor = nn.Sequential(torch.compile(nn.Linear(4, 3)))
    torch.save(donor.state_dict(), tmp_path / "w.pt")
    module = nn.Sequential(torch.compile(nn.Linear(4, 3)))
    assert load_weights_(module, tmp_path / "w.pt") == ""
    assert same(module.state_dict(), donor.state_dict())


@pytest.mark.parametrize("form", ["bare", "prefixed", "safetensors"])
def test_the_versions_of_modules_survive(form, tmp_path):
    donor = torchvision.models.mnasnet0_5(num_classes=3)
    written = donor.state_dict()
    assert written._metadata[""]["version"] == 2
    path = tmp_path / "w.pt"
    if form == "prefixed":
        wrapped = nn.Sequential(OrderedDict(module=donor)).state_dict()
        assert wrapped._metadata["module"]["version"] == 2
        torch.save({"state_dict": wrapped}, path)
    elif form == "safetensors":  # which knows of no versions: those of the network at hand count
        path = tmp_path / "w.safetensors"
        save_file(written, path)
    else:
        torch.save(written, path)
    module = torchvision.models.mnasnet0_5(num_classes=3)
    load_weights_(module, path)
    assert same(module.state_dict(), written)


NAN, INF = float("nan"), float("inf")


def with_entry(name, index, value):
    def change(state):
        state[name] = state[name].clone()
        state[name].view(-1)[index] = value

    return change


def of_type(name, dtype):
    def change(state):
        state[name] = state[name].to(dtype)

    return change


REFUSED = {
    "NaN": (with_entry("conv1.weight", slice(0, 25), NAN), r"conv1\.weight has 25 of 150 entries NaN or infinite"),
    "infinity": (with_entry("fc3.bias", 0, INF), r"fc3\.bias has 1 of 10 entries NaN or infinite"),
    "minus infinity": (with_entry("fc3.bias", 9, -INF), r"fc3\.bias has 1 of 10 entries NaN or infinite"),
    "int8": (of_type("fc1.weight", torch.int8), r"fc1\.weight is int8, float32 is needed"),
    "uint8": (of_type("fc1.bias", torch.uint8), r"fc1\.bias is uint8, float32 is needed"),
    "bool": (of_type("conv2.weight", torch.bool), r"conv2\.weight is bool, float32 is needed"),
    "complex": (of_type("conv2.weight", torch.complex64), r"conv2\.weight is complex64, float32 is needed"),
    "beyond the range": (
        lambda state: state.update({"fc2.bias": torch.full((84,), 1e300, dtype=torch.float64)}),
        r"fc2\.bias has 84 of 84 entries beyond the range of float32",
    ),
    "below the range": (
        lambda state: state.update({"fc2.bias": torch.full((84,), 1e-300, dtype=torch.float64)}),
        r"fc2\.bias has entries that are all 0 in float32",
    ),
    "sparse": (lambda state: state.update({"fc2.weight": state["fc2.weight"].to_sparse()}), r"fc2\.weight is sparse"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_numbers_that_are_none_are_refused_by_name(kind, suffix, state, tmp_path):
    change, said = REFUSED[kind]
    change(state)
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        torch.save({"state_dict": prefixed(state, "module.")}, path)
    elif kind == "sparse":
        path = tmp_path / "w.pt"
        torch.save(state, path)
    else:
        save_file(state, path)
    module = lenet5()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=rf"w\.\w+ holds numbers that the network cannot compute with \({said}\): \w+"):
        load_weights_(module, path)
    assert same(module.state_dict(), before)


def test_a_float16_network_refuses_what_it_cannot_hold(tmp_path):
    torch.save({"weight": torch.full((1, 2), 70000.0), "bias": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"weight has 2 of 2 entries beyond the range of float16\): save the numbers"):
        load_weights_(nn.Linear(2, 1).half(), tmp_path / "w.pt")


def test_floats_of_8_bits_may_be_nan(state, tmp_path):
    state["fc3.bias"] = torch.tensor([NAN] * 2 + [1.0] * 8).to(torch.float8_e4m3fn)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"fc3\.bias has 2 of 10 entries NaN or infinite"):
        load_weights_(lenet5(), tmp_path / "w.pt")


def test_what_is_no_tensor_is_called_what_it_is(state, tmp_path):
    state["fc3.bias"], state["fc2.bias"] = state["fc3.bias"].tolist(), torch.ones(())
    torch.save(state, tmp_path / "w.pt")
    said = r"fc2\.bias \(\) in the file, \(84,\) in the network, fc3\.bias a list in the file, \(10,\) in the network"
    with pytest.raises(ValueError, match=said):
        load_weights_(lenet5(), tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_another_size_are_taken(dtype, state, tmp_path):
    torch.save({name: value.to(dtype) for name, value in state.items()}, tmp_path / "w.pt")
    module = lenet5()
    load_weights_(module, tmp_path / "w.pt")
    assert all(torch.equal(value, state[name].to(dtype).float()) for name, value in module.state_dict().items())


def test_counts_of_batches_in_half_precision(tmp_path):
    norm = nn.BatchNorm1d(2)
    written = {name: value.half() for name, value in norm.state_dict().items()}
    for batches, expected in ((64.0, 64), (INF, 5)):  # half precision ends at 65504
        torch.save(written | {"num_batches_tracked": torch.tensor(batches).half()}, tmp_path / "w.pt")
        module = nn.BatchNorm1d(2)
        module.num_batches_tracked.fill_(5)
        load_weights_(module, tmp_path / "w.pt")
        assert module.num_batches_tracked.item() == expected


def masked(numbers):
    module = nn.Module()
    module.register_buffer("mask", torch.tensor(numbers))
    return module


def test_a_mask_may_be_infinite_where_the_networks_own_is(tmp_path):
    torch.save({"mask": torch.tensor([0.0, -INF])}, tmp_path / "w.pt")
    module = masked([0.0, -INF])
    load_weights_(module, tmp_path / "w.pt")
    assert module.mask.tolist() == [0.0, -INF]
    with pytest.raises(ValueError, match="mask has 1 of 2 entries NaN or infinite"):
        load_weights_(masked([0.0, 0.0]), tmp_path / "w.pt")
    with pytest.raises(ValueError, match="mask has 1 of 2 entries NaN or infinite"):
        load_weights_(masked([0.0, INF]), tmp_path / "w.pt")


def test_indices_stay_the_same_numbers(tmp_path):
    for given, allowed in ((torch.tensor([3.0, 1.0]), True), (torch.tensor([3.0, 1.5]), False)):
        torch.save({"mask": given}, tmp_path / "w.pt")
        module = masked([0, 0])
        if allowed:
            load_weights_(module, tmp_path / "w.pt")
            assert module.mask.tolist() == [3, 1]
        else:
            with pytest.raises(ValueError, match=r"mask is float32, 1 of 2 are not int64\): save whole numbers"):
                load_weights_(module, tmp_path / "w.pt")
