import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lowrank_exp.cli import main


@pytest.fixture(autouse=True, scope="session")
def _one_thread_for_the_session():
    """Small networks: more threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`lowrank-exp` with arguments, in this process and below a temporary folder; gives the exit status."""

    def call(*arguments: str, outputs: Path = tmp_path / "outputs") -> int:
        monkeypatch.setattr(sys, "argv", ["lowrank-exp", *arguments, f"paths.outputs={outputs}", "threads=1"])
        try:
            main()
        except SystemExit as exit_:
            if isinstance(exit_.code, str):
                print(exit_.code, file=sys.stderr)
                return 1
            return exit_.code or 0
        return 0

    return call
