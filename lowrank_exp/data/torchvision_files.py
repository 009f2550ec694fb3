"""What the data sets of torchvision have in common: a folder, files that may be missing or damaged, a cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lowrank_exp.data.cache import manifest_key, read_cache, write_cache
from lowrank_exp.data.images import LabelledImages


def read_once(read: Callable[[], LabelledImages], cache_dir: str | None, decisive: str, folder: Path) -> LabelledImages:
    """The cached images of the files in `folder`, or what `read` gives, which is then cached.

    Args:
        read: decodes the data set.
        cache_dir: None = no cache.
        decisive: names the data set and all else, besides its files, that decides the images.
        folder: a file that is added, removed or changed in it makes the cache invalid.
    """
    images = read_cache(cache_dir, _key(decisive, folder))
    if images is None:
        images = read()
        write_cache(cache_dir, _key(decisive, folder), images)  # a download has changed the folder, and the key
    return images


def _key(decisive: str, folder: Path) -> str:
    files = sorted((path.relative_to(folder).as_posix(), path.stat()) for path in folder.rglob("*") if path.is_file())
    return manifest_key(decisive, ((name, stat.st_size, stat.st_mtime_ns) for name, stat in files))


@contextmanager
def name_damage(name: str, folder: Path, download: bool) -> Iterator[None]:
    """Turn what a damaged file, or a failed download, makes torchvision raise into a ValueError with the folder.

    torchvision raises almost anything then (RuntimeError, KeyError, UnpicklingError ...) and names no file.
    """
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, (RuntimeError, ValueError)) else f"{type(error).__name__}: {error}"
        message = (
            f"{name} could not be fetched to, or read from, {folder} ({reason}): remove what is damaged there, "
            "see that there is a network, and start again"
            if download
            else f"{name} in {folder} is incomplete or damaged ({reason}): remove what is damaged there and set "
            "data.download=true to fetch it again"
        )
        raise ValueError(message) from error
