"""Names of devices, turned into devices that are there."""

import torch

ALLOWED = "'auto', 'cpu', 'cuda', 'cuda:<index>' or 'mps'"


def resolve(name: str | torch.device = "auto") -> torch.device:
    """The device a name stands for; it always carries an index where there may be several.

    'auto' takes the first GPU, then Apple's GPU, then the processor.

    Raises:
        ValueError: the name is none of those allowed, or this machine has no such device.

    >>> resolve("cpu")
    device(type='cpu')
    """
    text = str(name)
    kind, _, index = text.partition(":")
    if text == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind not in {"cpu", "cuda", "mps"} or (":" in text and not index.isdecimal()):
        raise ValueError(f"device is {text!r}; allowed are {ALLOWED}")
    if kind == "cpu":
        return torch.device("cpu")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("device is 'mps', but torch finds no Apple GPU here: use 'auto' or 'cpu'")
        return torch.device("mps", 0)
    if not torch.cuda.is_available():
        raise ValueError(f"device is {text!r}, but torch finds no CUDA GPU here: use 'auto' or 'cpu'")
    count = torch.cuda.device_count()
    number = int(index) if index else torch.cuda.current_device()
    if number >= count:
        raise ValueError(f"device is {text!r}, but this machine has {count} CUDA GPU(s): 0 to {count - 1}")
    return torch.device("cuda", number)
