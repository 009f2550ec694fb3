"""Files that hold weights in another form: what they are, and the line of Python that converts them once.

Nothing in a file is executed: files are told by their first bytes, of pickles only the skeleton is read.
"""

import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrank_exp.models.parts import DEPTH, CheckpointPart

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file that PyTorch before 1.6 wrote
ARRAYS = "{name: torch.from_numpy(array) for name, array in FILE.items()}"
TENSORS = "{name: value for name, value in FILE.items() if isinstance(value, torch.Tensor)}"
VARIABLES = "{name: torch.tensor(tf.train.load_variable(FILE, name)) for name, _ in tf.train.list_variables(FILE)}"
DATASETS = (
    "found = {}; h5py.File(FILE).visititems(lambda name, item: found.update({name: torch.tensor(item[()])}) "
    "if isinstance(item, h5py.Dataset) else None)"
)
RENAME = "the tensors then need the network's own names, and convolutions their axes in the order out, in, high, wide"
START = 512  # bytes that tell a file's kind
INDEX_END = bytes.fromhex("57fb808b247547db")  # how a LevelDB table ends, TensorFlow's index of a checkpoint


def explain_conversion(path: Path) -> tuple[str, str] | None:
    """What a file is that holds no state dict of PyTorch's, and what to do with it; None if that cannot be told."""
    file, new = repr(str(path)), repr(str(path.with_name(f"{path.stem}_state.pt")))

    def saved(content: str, imports: str = "torch") -> str:
        return f"where you trust it, convert it once: import {imports}; torch.save({content}, {new})"

    start, end = _ends(path)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        line = f"import h5py, torch; {DATASETS.replace('FILE', file)}; torch.save(found, {new})"
        return "an HDF5 file, as Keras writes", f"convert it once: {line}; {RENAME}"
    if end == INDEX_END or ".data-0" in path.suffix:
        variables = VARIABLES.replace("FILE", repr(str(path.with_suffix(""))))
        line = f"import tensorflow as tf, torch; torch.save({variables}, {new})"
        return "a checkpoint of TensorFlow", f"convert it once: {line}; {RENAME}"
    if start.startswith(b"\x93NUMPY"):
        return "one array of NumPy, without a name", "save a dict of named tensors by torch.save"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return "a safetensors file under another suffix", "rename it to end in .safetensors"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself", "fetch the file: git lfs pull"
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page", "download the file itself, not the page about it"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("constants.pkl") for name in names):
            return "a TorchScript archive", saved(f"torch.jit.load({file}).state_dict()")
        if any(name.endswith("archive_format") for name in names):
            return "an exported program", saved(f"torch.export.load({file}).state_dict")
        if all(name.endswith(".npy") for name in names):
            return "an archive of NumPy arrays", saved(ARRAYS.replace("FILE", f"numpy.load({file})"), "numpy, torch")
        if "model.weights.h5" in names:
            return "a network of Keras", f"unzip it and convert model.weights.h5 from there; {RENAME}"
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            old = {"pickle", "storages", "tensors"} <= set(archive.getnames())
        if old:
            return "a tar archive, as the first versions of PyTorch wrote", saved(
                f"torch.load({file}, weights_only=False)"
            )
        return "a tar archive", f"unpack it: tar -xf {file}"
    return _explain_pickle(path, file, saved)


def _explain_pickle(path: Path, file: str, saved: Callable[..., str]) -> tuple[str, str] | None:
    """What a pickle holds that is not plain data, and the line that keeps its tensors alone."""
    by_torch, content, called = _read_skeleton(path)
    needed = [name for name in called if not _is_plain(name)]
    if not needed:
        return None
    load = f"torch.load({file}, weights_only=False)" if by_torch else f"pickle.load(open({file}, 'rb'))"
    imports = "torch" if by_torch else "pickle, torch"
    what = "a file that needs full unpickling, which can run any code and is never done here, for " + ", ".join(
        needed[:3] + (["..."] if len(needed) > 3 else [])
    )
    if not isinstance(content, Mapping):
        return what, saved(f"{load}.state_dict()", imports)
    holders = [(CheckpointPart(keys, "", {}), whole) for keys, whole in _find_holders(content) if keys]
    if holders:
        part, whole = min(holders, key=lambda holder: (not holder[0].known, holder[0].order))
        expression = load + "".join(f"[{key!r}]" for key in part.keys)
        return what, saved(f"{expression}.state_dict()" if whole else expression, imports)
    if all(name.startswith(("numpy.", "_codecs.")) for name in needed):
        return what, saved(ARRAYS.replace("FILE", load), imports)
    return what, saved(TENSORS.replace("FILE", load), imports)


class _Inert:
    """Stands for whatever a pickle makes of a class or function; nothing that it is given has an effect."""

    state: Any = None

    def __init__(self, *arguments: Any, **named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    extend = add = append


class _Skeleton(pickle.Unpickler):
    """Reads a pickle without running anything: classes and functions become `_Inert`, tensors empty ones."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="latin1")
        self.called: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        called = f"{module}.{name}"
        self.called.append(called)
        if called == "collections.OrderedDict":
            return OrderedDict
        if called.startswith("torch._utils._rebuild_"):
            return lambda *arguments: torch.empty(0, device="meta")
        return type(name, (_Inert,), {})

    def persistent_load(self, stored: tuple[Any, ...]) -> Any:
        return stored[1]  # what is stored, a kind of numbers or, before 1.6, the class of a module


def _read_skeleton(path: Path) -> tuple[bool, Any, list[str]]:
    """Whether torch.save wrote the file, its content without numbers, and the classes and functions it asks for."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                return True, *_read_pickle(io.BytesIO(archive.read(member)))
        with open(path, "rb") as file:
            first = _read_pickle(file)
            if first[0] != MAGIC:
                return False, *first
            _read_pickle(file)  # the protocol
            _read_pickle(file)  # the machine that wrote the file
            return True, *_read_pickle(file)
    except Exception:  # pickle meets other files with UnpicklingError, EOFError, ValueError, UnicodeDecodeError ...
        return False, None, []


def _read_pickle(file: Any) -> tuple[Any, list[str]]:
    """The content of one pickle, without numbers, and the classes and functions that it asks for."""
    skeleton = _Skeleton(file)
    return skeleton.load(), list(dict.fromkeys(skeleton.called))


def _find_holders(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Keys that lead to mappings with tensors and to whole networks, and which of both it is."""
    if isinstance(content, _Inert):
        if isinstance(content.state, Mapping) and "_parameters" in content.state:
            yield keys, True
    elif isinstance(content, Mapping) and len(keys) <= DEPTH:
        if any(isinstance(value, Tensor) for value in content.values()):
            yield keys, False
        for key, value in content.items():
            if isinstance(key, str):
                yield from _find_holders(value, (*keys, key))


def _is_plain(name: str) -> bool:
    """Whether torch.load takes it without running code."""
    return name.startswith(("torch._utils._rebuild_", "collections.OrderedDict")) or (
        name.startswith("torch.") and name.endswith(("Storage", ".Size", "dtype", ".device"))
    )


def _ends(path: Path) -> tuple[bytes, bytes]:
    """The first bytes of a file, and the last eight."""
    with open(path, "rb") as file:
        start = file.read(START)
        file.seek(max(0, path.stat().st_size - len(INDEX_END)))
        return start, file.read()
