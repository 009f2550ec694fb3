"""Files that hold weights in another form: what they are, and the line of Python that converts them once.

Nothing in a file is executed: files are told by their first bytes, pickles are read as lists of instructions.
"""

import io
import pickletools
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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

Instructions = list[tuple[str, Any]]


def conversion(path: Path) -> tuple[str, str] | None:
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
    return _pickled(path, file, saved)


def _pickled(path: Path, file: str, saved: Callable[..., str]) -> tuple[str, str] | None:
    """What a pickle holds that is no plain data, and the line that keeps its tensors alone."""
    by_torch, instructions = _instructions(path)
    needed = list(dict.fromkeys(name for name in _globals(instructions) if not _plain(name)))
    if not needed:
        return None
    load = f"torch.load({file}, weights_only=False)" if by_torch else f"pickle.load(open({file}, 'rb'))"
    imports = "torch" if by_torch else "pickle, torch"
    what = "a file that needs full unpickling, which can run any code and is never done here, for " + ", ".join(
        needed[:3] + (["..."] if len(needed) > 3 else [])
    )
    keys = {argument for name, argument in instructions if "UNICODE" in name}
    first = next((name for name, _ in instructions if name in ("GLOBAL", "STACK_GLOBAL", "EMPTY_DICT")), None)
    is_mapping = first == "EMPTY_DICT" or next(_globals(instructions), None) == "collections.OrderedDict"
    if not is_mapping:
        return what, saved(f"{load}.state_dict()", imports)
    for key in ("state_dict", "model"):
        if key in keys:
            whole = key == "model" and "_parameters" in keys
            return what, saved(f"{load}[{key!r}]" + (".state_dict()" if whole else ""), imports)
    if all(name.startswith(("numpy.", "_codecs.")) for name in needed):
        return what, saved(ARRAYS.replace("FILE", load), imports)
    return what, saved(TENSORS.replace("FILE", load), imports)


def _instructions(path: Path) -> tuple[bool, Instructions]:
    """Whether torch.save wrote the file, and the instructions of the pickle with its content."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith("data.pkl")]
            return True, _one_pickle(io.BytesIO(archive.read(members[0]))) if members else []
    with open(path, "rb") as file:
        first = _one_pickle(file)
        if ("LONG1", MAGIC) not in first:
            return False, first
        _one_pickle(file), _one_pickle(file)  # the protocol, and the machine that wrote the file
        return True, _one_pickle(file)


def _one_pickle(file: Any) -> Instructions:
    """Names and arguments of the instructions up to the end of one pickle; none where there is no whole one."""
    try:
        return [(code.name, argument) for code, argument, _ in pickletools.genops(file)]
    except Exception:  # pickletools meets other files with ValueError, IndexError, UnicodeDecodeError ...
        return []


def _globals(instructions: Instructions) -> Iterator[str]:
    """The classes and functions that a pickle asks for, as module.name."""
    strings: list[str] = []  # pushed so far: of a newer pickle the last two are module and name
    memo: list[str] = []
    before = ""
    for name, argument in instructions:
        if name == "GLOBAL":
            yield argument.replace(" ", ".")
        elif name == "STACK_GLOBAL" and len(strings) > 1:
            yield ".".join(strings[-2:])
        elif "UNICODE" in name:
            strings.append(argument)
        elif name == "MEMOIZE":
            memo.append(strings[-1] if "UNICODE" in before else "")
        elif name.endswith("BINGET") and argument < len(memo):
            strings.append(memo[argument])
        before = name


def _plain(name: str) -> bool:
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
