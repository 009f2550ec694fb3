"""Lightning without its talk: device lists, tips, "`Trainer.fit` stopped"; and Ctrl-C as Python has it."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning")

# What Lightning warns of and we mean: the beginnings of the messages.
MEANT = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's use of torch
    r".*GPU available but not used",
    r".*The '\w+_dataloader' does not have many workers",
    r".*The `srun` command is available on your system but is not used",  # a fit starts its own processes
    r".*You defined a `validation_step` but have no `val_dataloader`",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Inside, Lightning logs warnings and errors only, and says nothing of what `MEANT` lists.

    Lightning answers Ctrl-C by leaving the process with status 1 and ignoring further ones; here it is the
    KeyboardInterrupt that it was, and the signal's handler is put back.
    """
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if in_main_thread else None
    try:
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        with warnings.catch_warnings():
            for message in MEANT:
                warnings.filterwarnings("ignore", message=message)
            yield
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):
            raise leaving.__context__ from None
        raise
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
