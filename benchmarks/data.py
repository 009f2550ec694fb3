"""How fast images reach the network, beside torchvision's usual pipeline.

    python benchmarks/data.py --json data.json
    python benchmarks/data.py --only loader
    python benchmarks/data.py --images cifar10 --only decode streamed

Both sides in one process, warm, in turn, medians over rounds; what can be done only once (a first decoding, a first
pass) is timed once. All batches have 128 images, padded crop, flip and normalisation. `--images` is a folder with
train/<class>/<image> and test/<class>/<image>, such as an unpacked CIFAR-10; without it 60,000 small JPEG files are
made first. Peers: torchvision's datasets and transforms in a DataLoader with two persistent workers; for the decoding
torchvision's ImageFolder read one by one; for a start from the cache our own first start. The error is the largest
difference of a pixel to torchvision's, both without augmentation, relative to the largest pixel.

What training costs over a bare loop: `benchmarks/training.py`.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

import numpy as np
import torch
from PIL import Image
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from lowrank_exp.data import ImageData, ImageFolder, LabelledImages

BATCH, WORKERS, PADDING = 128, 2, 4
CLASSES = 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
COMMON = {"mean": MEAN, "std": STD, "crop_padding": PADDING, "flip": True}
PLAIN = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
AUGMENTED = transforms.Compose([transforms.RandomCrop(32, PADDING), transforms.RandomHorizontalFlip(), PLAIN])


def once(call: Callable) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def median(call: Callable, seconds: float) -> float:
    """Median seconds of a call, made again and again for so many seconds."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).median


def medians(ours: Callable, peer: Callable, seconds: float, rounds: int = 3) -> tuple[float, float]:
    """Median seconds of both sides over rounds in which each has its turn, after one call of both."""
    ours(), peer()
    pairs = [(median(ours, seconds), median(peer, seconds)) for _ in range(rounds)]
    return tuple(statistics.median(of) for of in zip(*pairs, strict=True))


def record(
    case: str, seconds: tuple[float, float], images: int, peer_name: str, error: float | None = None, note: str = ""
) -> dict:
    """One line of the table; errors below 1e-6 count as 0."""
    ours, peer = seconds
    per_second = f"{images / ours:9.0f} {images / peer:9.0f} images/s"
    print(f"{case:44} {ours:8.3f} s {peer:8.3f} s {per_second} {peer / ours:7.2f} x  {note}", flush=True)
    figures = {"ours": ours, "peer": peer, "peer_name": peer_name, "ratio": peer / ours}
    figures |= {
        "error_ours": None if error is None else 0.0 if error < 1e-6 else error,
        "error_peer": None if error is None else 0.0,
        "threads": torch.get_num_threads(),
    }
    return {"case": case} | figures


def drained(loader: DataLoader) -> Callable[[], None]:
    """A pass over a loader, to nowhere."""

    def run() -> None:
        for _ in loader:
            pass

    return run


def torchvision_loader(dataset: Dataset) -> DataLoader:
    """The usual one: every image on its own, two processes that stay."""
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)


def largest_difference(data: ImageData, theirs: Dataset, count: int = 1000) -> float:
    """Of the first training images without augmentation, relative to the largest pixel."""
    found = {}
    loader = data.train_loader(BATCH, seed=0, augment=False)
    for (_, positions_B), (images_BCHW, _) in zip(loader.sampler, loader, strict=True):
        found |= dict(zip(positions_B.tolist(), images_BCHW, strict=True))
        if len(found) >= count:
            break
    pairs = [(image_CHW, theirs[position][0]) for position, image_CHW in found.items()]
    largest = max(their_CHW.abs().max() for _, their_CHW in pairs)
    return float(max((our_CHW - their_CHW).abs().max() for our_CHW, their_CHW in pairs) / largest)


# In memory


@final
class Pixels(ImageData):
    """Random images like CIFAR-10's, all but ten for training."""

    def __init__(self, count: int) -> None:
        super().__init__(validation=0.0, cache_dir=None, **COMMON)
        self.count = count

    def _load(self) -> LabelledImages:
        draw = torch.Generator().manual_seed(0)
        images_NCHW = torch.randint(0, 256, (self.count, 3, 32, 32), dtype=torch.uint8, generator=draw)
        labels_N = torch.arange(self.count) % CLASSES
        names = tuple(map(str, range(CLASSES)))
        return LabelledImages(images_NCHW, labels_N, images_NCHW[:CLASSES], labels_N[:CLASSES], names)


class OneByOne(Dataset):
    """The same images as torchvision's CIFAR10 gives them: an array becomes a Pillow image, which is transformed."""

    def __init__(self, images: LabelledImages, transform: Callable) -> None:
        self.pixels_NHWC = images.train_images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.train_labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels_NHWC[row])), self.labels[row]


def loader_cases(count: int, seconds: float) -> Iterator[dict]:
    """A pass over images in memory."""
    data = Pixels(count)
    data.setup()
    images = data._load()
    ours, peer = data.train_loader(BATCH, seed=0), torchvision_loader(OneByOne(images, AUGMENTED))
    taken = medians(drained(ours), drained(peer), seconds)
    name = f"torchvision, {WORKERS} workers"
    error = largest_difference(data, OneByOne(images, PLAIN))
    yield record("loader cifar10, crop and flip", taken, count, name, error, "bar 10 x")


# From files


def make_images(root: Path, count: int) -> None:
    """Small JPEG files in class folders, a sixth of them for testing: smooth colours and a little noise."""
    draw = np.random.default_rng(0)
    for part, share in (("train", count - count // 6), ("test", count // 6)):
        for label in range(CLASSES):
            (root / part / f"class{label}").mkdir(parents=True)
        for number in range(share):
            coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.int16)
            noisy = np.clip(smooth + draw.integers(-16, 17, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / part / f"class{number % CLASSES}" / f"{number}.jpg", quality=90)


def decode_cases(root: Path, seconds: float) -> Iterator[dict]:
    """The first start, which decodes every file, and the next ones, which read the cache."""
    with tempfile.TemporaryDirectory() as cache:

        def start() -> ImageFolder:
            data = ImageFolder(str(root), cache_dir=cache, validation=0.0, in_memory="always", **COMMON)
            data.setup()
            return data

        def one_by_one() -> None:
            for part in ("train", "test"):
                for image, _ in datasets.ImageFolder(root / part):
                    np.asarray(image)

        first, peer = once(start), once(one_by_one)
        data = start()
        images = data.sizes["train"] + data.sizes["test"]
        error = largest_difference(data, datasets.ImageFolder(root / "train", PLAIN))
        yield record("start, decoding", (first, peer), images, "torchvision ImageFolder", error, "bar 60 s")
        yield record("start, cached", (median(start, seconds), first), images, "our first start", note="bar 1 s")


def streamed_cases(root: Path, seconds: float) -> Iterator[dict]:
    """Images decoded batch by batch: the first pass, with the start of the workers, and passes from the cache."""
    with tempfile.TemporaryDirectory() as cache:
        options = {"validation": 0.0, "in_memory": "never", "workers": WORKERS, "cache_dir": cache}
        data = ImageFolder(str(root), **options, **COMMON)
        data.setup()
        images, name = data.sizes["train"], f"torchvision ImageFolder, {WORKERS} workers"
        error = largest_difference(data, datasets.ImageFolder(root / "train", PLAIN))
        for path in Path(cache).iterdir():
            path.unlink()
        ours = data.train_loader(BATCH, seed=0)
        peer = torchvision_loader(datasets.ImageFolder(root / "train", AUGMENTED))
        yield record("streamed, first pass", (once(drained(ours)), once(drained(peer))), images, name, error)
        taken = medians(drained(ours), drained(peer), seconds)
        yield record("streamed, from the cache", taken, images, name, error)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--only", nargs="+", default=["loader", "decode", "streamed"])
    parser.add_argument("--images", type=Path, help="folder with train/<class>/<image> and test/<class>/<image>")
    parser.add_argument("--count", type=int, default=60_000, help="of images, where they are made here")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each side is timed in a round")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.images
        if folder is None and {"decode", "streamed"} & set(arguments.only):
            folder = Path(temporary)
            make_images(folder, arguments.count)
        parts = {
            "loader": lambda: loader_cases(arguments.count - arguments.count // 6, arguments.seconds),
            "decode": lambda: decode_cases(folder, arguments.seconds),
            "streamed": lambda: streamed_cases(folder, arguments.seconds),
        }
        found = [r for name in arguments.only for r in parts[name]()]
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
