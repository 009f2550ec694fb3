"""Files that no `save` wrote: each is refused by a ValueError that names it, before anything is built."""

import re
import zipfile

import pytest
import torch

from lowrank_exp import artifact, load, save
from lowrank_exp.artifact import is_artifact
from lowrank_exp.edits import edits_of
from lowrank_exp.models import lenet5
from lowrank_exp.rank import Plan
from support.cells import cells

STATE = lenet5().state_dict()
GONE = object()  # a field that is not there


def factorize(**changes):
    return {"edit": "Factorize", "layer": "conv2", "decomposition": "channel_svd", "rank": 2, "options": {}} | changes


def keep(**changes):
    return {"edit": "KeepChannels", "layer": "conv2", "out": (0, 1), "inputs": None} | changes


def network(name="lenet5", **arguments):
    return {"network": {"name": name, "arguments": arguments}}


def state(**changes):
    return {"state_dict": {**STATE, **{name.replace("_", ".", 1): value for name, value in changes.items()}}}


def nested(depth, width=9):
    inner = "x"
    for _ in range(depth):
        inner = [inner] * width
    return inner


BUILD = artifact.build
HOSTILE = {
    "layer a list": ({"edits": [factorize(layer=["a"])]}, r"the edit Factorize .* has layer \['a'\].* must be a name"),
    "no layer": ({"edits": [{"edit": "Bias"}]}, "the edit {} is not one of this version: it has no layer"),
    "decomposition a list": ({"edits": [factorize(decomposition=["a"])]}, "has decomposition .*must be a name"),
    "no decomposition": ({"edits": [factorize(decomposition="svd")]}, "unknown decomposition 'svd'"),
    "rank a word": ({"edits": [factorize(rank="2")]}, "has rank '2', but it must be a whole number, or a list"),
    "rank true": ({"edits": [factorize(rank=True)]}, "has rank True, but it must be a whole number"),
    "rank of a form": ({"edits": [factorize(edit="ToSVD", rank=[1, 2])]}, r"the edit ToSVD .* has rank \[1, 2\]"),
    "a form of many factors": (
        {"edits": [factorize(edit="ToSVD", decomposition="cp", rank=2, options={})]},
        "the edit of 'conv2' does not fit: cp is not a decomposition by one SVD",
    ),
    "rank too high": ({"edits": [factorize(rank=10**9)]}, "rank 1000000000 is above the full rank"),
    "options of another": (
        {"edits": [factorize(options={"foo": 1})]},
        "with the options {'foo': 1}",
    ),
    "options null": ({"edits": [factorize(options=None)]}, "has options None, but it must be a mapping of names"),
    "options deep": ({"edits": [factorize(options={"order": [[1]]})]}, "has options .*plain values"),
    "edit a number": ({"edits": [5]}, "an edit must be a mapping, got 5"),
    "edits a mapping": ({"edits": {}}, "the edits must be a list, got {}"),
    "kind a list": ({"edits": [factorize(edit=["Bias"])]}, r"unknown edit \['Bias'\]"),
    "unknown field": ({"edits": [factorize(more=1)]}, "is not one of this version: Factorize has no 'more'"),
    "bias of the whole": ({"edits": [{"edit": "Bias", "layer": ""}]}, "the edit of '' gives a bias to a LeNet5"),
    "bias of nothing": ({"edits": [{"edit": "Bias", "layer": "conv9"}]}, "the edit of 'conv9' fits no layer"),
    "channels of words": ({"edits": [keep(out=("a",))]}, r"has out \('a',\), but it must be a list of whole numbers"),
    "no channels": ({"edits": [keep(out=())]}, r"has out \(\), but it must be"),
    "channels that are gone": ({"edits": [keep(), keep(out=(2,))]}, "conv2 has 2 channels left; it cannot keep 2"),
    "channels out of range": ({"edits": [keep(out=(0, 99))]}, "conv2 has 16 output channels; it cannot keep 0, 99"),
    "edit of a container": ({"edits": [factorize(layer="")]}, "the edit of '' does not fit"),
    "20,000 edits of one layer": (
        {"edits": [{"edit": "Bias", "layer": "conv1"}] * 20_000},
        "20000 edits of layers for",
    ),
    "20,000 factorizations": ({"edits": [factorize()] * 20_000}, "20000 edits of layers for 10 tensors"),
    "all channels many times": (
        {"edits": [keep(out=tuple(range(16))) for _ in range(3_000)] + [keep(out=(0,))]},
        "of another shape: conv2.weight",
    ),
    "version a word": ({"version": "9"}, "has version '9', but it must be a whole number, 1 to 3"),
    "version negative": ({"version": -1}, "has version -1, but it must be"),
    "version true": ({"version": True}, "has version True, but it must be"),
    "version with a point": ({"version": 1.0}, "has version 1.0, but it must be"),
    "no version": ({"version": GONE}, "has version None, but it must be"),
    "no edits": ({"edits": GONE}, "it has no edits"),
    "no weights": ({"state_dict": GONE}, "it has no state_dict"),
    "another field": ({"more": 1}, "it has the field 'more', which version 2 does not have"),
    "weights a list": ({"state_dict": [1]}, r"its state_dict must be a mapping of names to tensors, got \[1\]"),
    "a weight a mapping": (state(conv1_weight={}), "'conv1.weight' must be a tensor, got {}"),
    "a weight a number": (state(conv1_weight=1.5), "'conv1.weight' must be a tensor, got 1.5"),
    "a name a number": ({"state_dict": {**STATE, 7: STATE["conv1.weight"]}}, "an entry called 7, which is not a name"),
    "one weight less": ({"state_dict": dict(list(STATE.items())[1:])}, "1 missing: conv1.weight"),
    "one weight more": (state(conv9_weight=torch.zeros(2)), "1 unexpected: conv9.weight"),
    "NaN": (
        state(conv1_weight=STATE["conv1.weight"] * torch.nan),
        "conv1.weight has 150 of 150 entries NaN or infinite",
    ),
    "infinite": (state(fc1_bias=torch.full((120,), torch.inf)), "fc1.bias has 120 of 120 entries NaN or infinite"),
    "complex": (state(conv1_bias=STATE["conv1.bias"] * 1j), "conv1.bias complex numbers in the file, numbers with a"),
    "truth values": (state(conv1_bias=STATE["conv1.bias"] > 0), "conv1.bias truth values in the file"),
    "whole numbers": (state(conv1_bias=torch.zeros(6).long()), "conv1.bias whole numbers in the file"),
    "sparse": (state(fc1_weight=STATE["fc1.weight"].to_sparse()), "'fc1.weight' must be a plain tensor"),
    "meta": (state(fc1_weight=STATE["fc1.weight"].to("meta")), "'fc1.weight' .*has fewer numbers in the file"),
    "repeated": (
        {**state(fc3_weight=torch.zeros(1).expand(10**7, 84)), **network(num_classes=10**7)},
        r"'fc3.weight' of the shape \(10000000, 84\) has fewer numbers in the file than that",
    ),
    "network a word": ({"network": "lenet5"}, "its network must be None, or a mapping .*got 'lenet5'"),
    "network a list": ({"network": ["lenet5", {}]}, "its network must be None, or a mapping"),
    "network without arguments": ({"network": {"name": "lenet5"}}, "its network must be None, or a mapping"),
    "arguments a list": (
        {"network": {"name": "lenet5", "arguments": [1]}},
        "its network must have a name, and a mapping",
    ),
    "no such network": (network("os.system"), "no network is called 'os.system'"),
    "no such argument": (network(depth=3), "lenet5 has no argument depth"),
    "an argument of another type": (
        network(num_classes=[1, 2]),
        r"num_classes=\[1, 2\], but it must be a whole number",
    ),
    "an argument of another kind": (network("vgg", depth={"a": 1}), r"vgg\(depth={'a': 1}\)"),
    "ten million classes": (network(num_classes=10**7), r"it has 3,400,243,424 bytes of numbers, and the file 246,824"),
    "ten million classes, pruned": (
        {**network(num_classes=10**7), "edits": [keep(layer="fc3", out=tuple(range(10)))]},
        "it has 3,400,243,424 bytes of numbers",
    ),
    "more classes than there are numbers": (network(num_classes=10**30), r"lenet5\(num_classes=10{30}\)"),
    "forty times as wide": (network("vgg", depth=16, width=40.0), "bytes of numbers, and the file"),
    "a million layers deep": (network("cifar_resnet", depth=6 * 10**6 + 2), "it has many more layers than the file"),
    "a network of others": ({"network": None}, r"is not a network of our zoo: pass the dense one, load\(path, model="),
    "lists without end": (network(num_classes=nested(12)), "it holds more values than it has bytes"),
    "lists within lists": (
        {"metadata": {"": {"a": nested(100, 1)}}},
        "it holds more values than it has bytes, or lists",
    ),
    "metadata a list": ({"metadata": [1]}, r"its metadata must be a mapping of names to mappings, got \[1\]"),
    "metadata of a number": ({"metadata": {5: {"version": 1}}}, "its metadata are of a module called 5, which is not"),
    "wrappers a word": ({"wrappers": "x"}, "its wrappers must be a mapping of names to tensors, got 'x'"),
    "a set": ({"metadata": {"": {"a": {1, 2}}}}, "metadata holds {1, 2}, which is neither a plain value nor a tensor"),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def write(path, changes):
    save(lenet5(), path)
    content = torch.load(path, weights_only=True) | changes
    torch.save({name: value for name, value in content.items() if value is not GONE}, path)


@cells(("changes", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_record_that_save_does_not_write(path, monkeypatch, changes, message):
    write(path, changes)
    built = []
    monkeypatch.setattr(artifact, "build", lambda *given: built.append(BUILD(*given)) or built[-1])
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load(path)
    said = str(caught.value)
    assert re.search(message, said, re.DOTALL)
    assert len(said) < 1000
    assert "weights_only" not in said
    assert is_artifact(path)
    assert all(parameter.is_meta for one in built[:-1] for parameter in one.parameters())
    assert built[-1:] == [] or next(built[-1].parameters()).is_meta == ("entries NaN" not in said)
    if "network" not in changes:
        dense = lenet5()
        with pytest.raises(ValueError, match=re.escape(str(path))):
            load(path, model=dense)
        assert str(dense) == str(lenet5())


def test_many_removals_of_channels_are_cut_at_once(path):
    """As a schedule leaves them that takes a few filters after every few steps."""
    layers = [("conv2", 16), ("fc1", 120)] * 1_000
    write(path, {"edits": [keep(layer=layer, out=tuple(range(channels))) for layer, channels in layers]})
    again = load(path)
    assert torch.equal(again.conv2.weight, torch.load(path, weights_only=True)["state_dict"]["conv2.weight"])
    assert [edit.layer for edit in edits_of(again)][:3] == ["conv2", "fc1", "conv2"]


def repacked(path, compression, more=0):
    """The archive with the same content, packed, and `more` zeros in an entry of its own."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if more:
            archive.writestr(f"{name.partition('/')[0]}/data/{more}", bytes(more))


def test_an_archive_that_unpacks_to_more_than_it_is(path, monkeypatch):
    save(lenet5(), path)
    repacked(path, zipfile.ZIP_STORED, more=1000)
    assert load(path).zoo["name"] == "lenet5"
    repacked(path, zipfile.ZIP_DEFLATED, more=10**8)
    assert path.stat().st_size < 10**6
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(ValueError, match=r"model.pt cannot be read as a network file: it would unpack to 100,\d"):
        load(path)
    assert not is_artifact(path)


def test_an_archive_without_an_index(path):
    torch.save({"format": "lowrank_exp", "version": 1}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"it is not an archive that torch\.save wrote, or it is cut off"):
        load(path)


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{one}: &{one} [{','.join([f'*{other}'] * 9)}]\n" for other, one in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{one}: &{one} {{<<: [{','.join([f'*{other}'] * 9)}]}}\n"
    for other, one in zip("abcdefgh", "bcdefghi", strict=True)
)
PLANS = {
    "rank": (LAUGHS + "layers: {conv1: {rank: *j, decomposition: cp}}", r"unfold to more than"),
    "options": (LAUGHS + "layers: {conv1: {rank: 1, decomposition: cp, options: {a: *j}}}", "unfold to more than"),
    "key": (LAUGHS + "layers: {conv1: *j}", "unfold to more than"),
    "merge": (MERGES + "layers: {conv1: {rank: 1, decomposition: cp, <<: *i}}", "unfold to more than"),
    "itself": ("layers: {conv1: {rank: &a [*a], decomposition: cp}}", "holds itself"),
    "deep": ("layers: " + "[" * 1000 + "]" * 1000, "lists within lists"),
    "long": (
        f"layers: {{conv1: {{rank: [{'x, ' * 5000}x], decomposition: cp}}}}",
        "conv1 has rank .*it takes an integer",
    ),
    "reason": ("layers: {conv1: {rank: 1, decomposition: cp, reason: [1]}}", r"reason must be a string, got \[1\]"),
    "cost": (
        "layers: {conv1: {rank: 1, decomposition: cp, macs_after: x}}",
        "macs_after must be a whole number, got 'x'",
    ),
    "option": ("layers: {conv1: {rank: 1, decomposition: cp, options: [1]}}", r"options .* are a mapping, got \[1\]"),
}


@pytest.mark.parametrize(("text", "message"), PLANS.values(), ids=PLANS)
def test_a_plan_that_nobody_wrote(tmp_path, text, message):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"(?s)plan\.yaml.*{message}") as caught:
        Plan.read(tmp_path / "plan.yaml")
    assert len(str(caught.value)) < 600


def test_a_plan_with_a_few_aliases_is_read(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        "x: &x {rank: 2, decomposition: cp}\nlayers: {conv1: *x, conv2: {<<: *x, rank: 3}, conv3: {rank: null}}"
    )
    assert Plan.read(tmp_path / "plan.yaml").ranks == {"conv1": 2, "conv2": 3, "conv3": None}
