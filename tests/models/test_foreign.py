"""Files that torch.load does not read safely: each is named, and the line that the error gives converts it."""

import argparse
import io
import pickle
import re
import struct
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lowrank_exp.models import lenet5, read_state
from lowrank_exp.models.foreign import INDEX_END


def state():
    torch.manual_seed(1)
    return {name: tensor for name, tensor in nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).state_dict().items()}


def network():
    built = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    built.load_state_dict(state())
    return built


def arrays():
    return {name: tensor.numpy() for name, tensor in state().items()}


def scripted(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; its files are still about
        torch.jit.save(torch.jit.trace(network(), torch.zeros(1, 3)), path)


def tar_of_old(path):
    """A tensor in the tar archive of the first PyTorch versions, as torch.serialization reads it."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return "7" if isinstance(item, torch.Tensor) else None

    tensor = state()["0.bias"]
    storages = b"".join(pickle.dumps(part, 2) for part in (1, ("5", "cpu", torch.FloatStorage)))
    storages += struct.pack("<q", 2) + tensor.numpy().tobytes() + pickle.dumps([], 2)
    tensors = pickle.dumps(1, 2) + pickle.dumps((7, "5", torch.Tensor), 2)
    tensors += struct.pack("<iiqqq", 1, 0, 2, 1, 0)
    content = io.BytesIO()
    Pickler(content, 2).dump({"0.bias": tensor})
    with tarfile.open(path, "w") as archive:
        for name, part in {"storages": storages, "tensors": tensors, "pickle": content.getvalue()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(part)
            archive.addfile(member, io.BytesIO(part))


def save_as(content, **options):
    return lambda path: torch.save(content() if callable(content) else content, path, **options)


FULL = "a file that needs full unpickling, which can run any code and is never done here, for "
CONVERTED = {
    "a whole network": (save_as(network), FULL + r"torch\.nn\.modules\.container\.Sequential"),
    "a whole network, before 1.6": (save_as(network, _use_new_zipfile_serialization=False), FULL + r"torch\.nn\.mod"),
    "options beside the state": (
        save_as(lambda: {"state_dict": state(), "args": argparse.Namespace(lr=1)}),
        FULL + r"argparse\.Namespace;",
    ),
    "options beside the state, before 1.6": (
        save_as(
            lambda: {"args": argparse.Namespace(lr=1), "state_dict": state()}, _use_new_zipfile_serialization=False
        ),
        FULL + r"argparse\.Namespace;",
    ),
    "a newer pickle": (
        save_as(lambda: {"state_dict": state(), "args": argparse.Namespace(lr=1)}, pickle_protocol=4),
        FULL + r"argparse\.Namespace;",
    ),
    "a network beside its epoch": (save_as(lambda: {"model": network(), "epoch": 3}), FULL + r"torch\.nn\.modules"),
    "options beside a state under another key": (
        save_as(lambda: {"args": argparse.Namespace(lr=1), "model_state_dict": state(), "best": torch.ones(())}),
        FULL + r"argparse\.Namespace;",
    ),
    "options beside a nested state": (
        save_as(lambda: {"run": {"args": argparse.Namespace(lr=1), "weights": state()}}, pickle_protocol=4),
        FULL + r"argparse\.Namespace;",
    ),
    "a network under another key": (save_as(lambda: {"epoch": 3, "net": network()}), FULL + r"torch\.nn\.modules"),
    "an average alone": (
        save_as(lambda: {"model": None, "ema": network()}, _use_new_zipfile_serialization=False),
        FULL + r"torch\.nn\.modules",
    ),
    "a network before its average": (
        save_as(lambda: {"ema": nn.Sequential(nn.Linear(3, 2)), "model": network()}),
        FULL + r"torch\.nn\.modules",
    ),
    "a state under model": (
        save_as(lambda: {"model": state(), "best": np.float64(0.5)}),
        FULL + r"numpy\._core\.multiarray\.scalar, numpy\.dtype",
    ),
    "tensors beside options": (
        save_as(lambda: state() | {"args": argparse.Namespace(lr=1)}),
        FULL + r"argparse\.Namespace;",
    ),
    "arrays": (save_as(arrays), FULL + r"numpy\._core\.multiarray\._reconstruct, numpy\.ndarray"),
    "a Lightning checkpoint with its options": (
        save_as(
            lambda: {
                "epoch": 3,
                "pytorch-lightning_version": "2.6.6",
                "state_dict": state(),
                "hyper_parameters": argparse.Namespace(lr=1),
            }
        ),
        FULL + r"argparse\.Namespace;",
    ),
    "TorchScript": (scripted, "a TorchScript archive;"),
    "npz": (lambda path: np.savez(open(path, "wb"), **arrays()), "an archive of NumPy arrays;"),  # noqa: SIM115
    "a pickle of arrays": (lambda path: path.write_bytes(pickle.dumps(arrays())), FULL + r"numpy\._core\.multiarray"),
    "tar": (tar_of_old, "a tar archive, as the first versions of PyTorch wrote;"),
}


@pytest.mark.parametrize(("write", "what"), CONVERTED.values(), ids=CONVERTED.keys())
def test_the_line_in_the_error_converts_the_file(write, what, tmp_path):
    path = tmp_path / "some weights.bin"
    write(path)
    with pytest.raises(ValueError, match=rf"some weights\.bin is {what}") as error:
        read_state(path)
    line = re.search(r"; where you trust it, convert it once: (import .*)$", str(error.value)).group(1)
    assert repr(str(path)) in line
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(line, "line", "exec"), {})
    found = read_state(tmp_path / "some weights_state.pt")
    wanted = state() if len(found) > 1 else {"0.bias": state()["0.bias"]}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def keras(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", "")


def exported(path):
    """As torch.export.save names its members; to make a real one takes seconds."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("w/data/weights/weight_0", "w/models/model.json", "w/archive_format", "w/archive_version"):
            archive.writestr(name, "pt2")


def plain_tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("weights"))


NAMED = {
    "HDF5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), r"an HDF5 file, .*import h5py, torch; "),
    "TensorFlow": (
        lambda path: path.write_bytes(bytes(100) + INDEX_END),
        r"a checkpoint of TensorFlow; convert it once: import tensorflow as tf, torch; torch\.save\(\{name: torch\.ten",
    ),
    "Keras": (keras, r"a network of Keras; unzip it and convert model\.weights\.h5"),
    "an exported program": (
        exported,
        r"an exported program; .*: import torch; torch\.save\(torch\.export\.load\('.*w\.bin'\)\.state_dict, '",
    ),
    "npy": (lambda path: np.save(open(path, "wb"), np.ones(3)), "one array of NumPy, without a name; save a dict"),  # noqa: SIM115
    "safetensors": (
        lambda path: save_file(state(), path),
        r"a safetensors file under another suffix; rename it to end",
    ),
    "Git LFS": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        "a pointer of Git LFS, not the file itself; fetch the file: git lfs pull",
    ),
    "a web page": (lambda path: path.write_text("\n<!DOCTYPE html><html>"), "a web page; download the file itself"),
    "another tar": (plain_tar, "a tar archive; unpack it: tar -xf"),
}


@pytest.mark.parametrize(("write", "what"), NAMED.values(), ids=NAMED.keys())
def test_other_files_are_named(write, what, tmp_path):
    write(tmp_path / "w.bin")
    with pytest.raises(ValueError, match=rf"w\.bin is {what}"):
        lenet5(weights=tmp_path / "w.bin")


def test_the_data_file_of_tensorflow_is_told_by_its_name(tmp_path):
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(bytes(64))
    with pytest.raises(ValueError, match=r"a checkpoint of TensorFlow; .*list_variables\('.*/model\.ckpt'\)"):
        read_state(tmp_path / "model.ckpt.data-00000-of-00001")


def test_nothing_of_a_pickle_is_run(tmp_path):
    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "was run"), "w"))

    for zipped in (True, False):
        torch.save({"state_dict": Runs()}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"needs full unpickling.* for _?io\.open; where you trust it"):
            read_state(tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(ValueError, match="needs full unpickling"):
        read_state(tmp_path / "w.pt")
    assert not (tmp_path / "was run").exists()
