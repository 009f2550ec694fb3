"""Files that run without this package, made of the network that a job ends with, and told in its result.

A finished job makes those that it lacks, and nothing is trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lowrank_exp.export import check_exportable, export
from lowrank_exp.export.form import Format
from lowrank_exp.export.formats import FORMATS
from lowrank_exp.files.exported import exported_files
from lowrank_exp.files.results import RESULT, Result
from lowrank_exp.files.whole import digest_once, find_difference
from lowrank_exp.job.finished import MODEL

if TYPE_CHECKING:  # with Lightning, which takes seconds
    from lowrank_exp.data import ImageData

COMPARED = 1000  # images, at most


@dataclass(frozen=True)
class Exporter:
    """Exports the network of one job.

    Args:
        folder: of the job.
        formats: asked for.
        load: gives the network of a file.
        data: set up.
        example: one image that the network takes.
        batch_size: images that are compared together.
    """

    folder: Path
    formats: Sequence[Format]
    load: Callable[[Path], nn.Module]
    data: ImageData
    example: Tensor
    batch_size: int

    def export_missing(self, result: Result) -> Result:
        """Make the files that a finished job lacks, and write its result with them; the result as it is then.

        A file that cannot be made is told in the result, whose status is then `missed`; all else stays.
        """
        there = _keep_whole(self.folder, result)
        names = {one["format"] for one in there}
        made = [self._export(form, result) for form in self.formats if form.name not in names]
        if not made and there == result.exports:
            return result
        exports = there + made
        files = {name: digest for name, digest in result.files.items() if name not in exported_files(result.exports)}
        files |= {name: digest_once(self.folder / name) for name in exported_files(exports)}
        missed = any(phase.missed for phase in result.phases) or any("error" in one for one in exports)
        result = replace(result, exports=exports, files=files, status="missed" if missed else "ok")
        result.write(self.folder / RESULT)
        return result

    def _export(self, form: Format, result: Result) -> dict[str, Any]:
        """Write one file; what the result tells of it, or why it could not be made."""
        path = exported_path(self.folder, form)
        of, images = comparison_images(self.data, self.batch_size)
        accuracy = result.phases[-1].accuracy
        metadata = {"fingerprint": result.fingerprint, "accuracy": accuracy} | describe_data(self.data)
        try:
            done = export(self.load(self.folder / MODEL), path, self.example, metadata=metadata, images=images)
        except ValueError as error:
            return {"format": form.name, "error": str(error)}
        return {
            "format": form.name,
            "files": [path.name, *(path.with_suffix(suffix).name for suffix in form.beside)],
            "opset": done.opset,
            "bytes": done.bytes,
            "difference": done.difference,
            "equal_predictions": done.equal_predictions,
            "images": done.images,
            "of": of,
            "subnormals": done.subnormals,
        }


def formats_named(names: str | Sequence[str] | None) -> list[Format]:
    """The formats of `export=`.

    Raises:
        ValueError: one that there is not, or that needs a package which is not installed.
    """
    known, formats = {form.name: form for form in FORMATS}, []
    for name in dict.fromkeys([names] if isinstance(names, str) else names or []):
        if name not in known:
            raise ValueError(f"export={name} is not a format of files; there are: {', '.join(known)}")
        try:
            known[name].check_installed()
        except ValueError as error:
            raise ValueError(f"export={name}: {error}") from error
        formats.append(known[name])
    return formats


def exported_path(folder: Path, form: Format) -> Path:
    """Where a job's network goes in a format."""
    return folder / f"{Path(MODEL).stem}{form.suffix}"


def check_last(network: nn.Module, formats: Sequence[Format]) -> None:
    """Raise ValueError where the network that a method ends with, as its walk gives it, cannot be exported."""
    try:
        if formats:
            check_exportable(network)
    except ValueError as error:
        raise ValueError(f"export={formats[0].name}, of the network after the last phase: {error}") from error


def comparison_images(data: ImageData, batch_size: int) -> tuple[str, Iterator[Tensor]]:
    """What files and networks are compared on: validation images, or test images where there are none; and which."""
    if data.sizes["val"]:
        return "validation", (images for images, _ in data.val_sample(COMPARED, 0, batch_size))
    return "test", _first_test_images(data, batch_size)


def describe_data(data: ImageData) -> dict[str, Any]:
    """What the inputs and the outputs of a network mean: scale and order of the channels, names of the classes."""
    channels = data.input_shape[0]
    mean, std = ([*values] * (channels // len(values)) for values in (data.appearance.mean, data.appearance.std))
    return {
        "classes": list(data.classes),
        "mean": mean,
        "std": std,
        "channel_order": data.geometry.channel_order,
    }


def keep_exports(folder: Path, result: Result) -> Result:
    """`result` with the files that an earlier run of the job has exported; those of another network are removed."""
    try:
        earlier = Result.read(folder / RESULT)
    except (ValueError, OSError):
        return result
    if earlier.phases and earlier.phases[-1].key == result.phases[-1].key:
        return replace(result, exports=_keep_whole(folder, earlier))
    for name in exported_files(earlier.exports):
        (folder / name).unlink(missing_ok=True)
    return result


def _first_test_images(data: ImageData, batch_size: int) -> Iterator[Tensor]:
    """One view of each of the first test images."""
    left = COMPARED
    for images, _ in data.test_loader(batch_size):
        yield (images[:, 0] if images.dim() == 5 else images)[:left]
        left -= len(images)
        if left <= 0:
            return


def _keep_whole(folder: Path, result: Result) -> list[dict[str, Any]]:
    """What was exported, of which the files are as they were written."""

    def is_whole(one: dict[str, Any]) -> bool:
        digests = {name: result.files.get(name, "") for name in exported_files([one])}
        return bool(digests) and find_difference(folder, digests) is None

    return [one for one in result.exports if is_whole(one)]
