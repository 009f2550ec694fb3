import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import absl.logging
import pytest
import torch

from lowrank_exp.cli import main

# OpenVINO and TensorBoard bring absl, whose handler closes its stream when Hydra sets up logging, unless that is the
# standard error of this moment; the one that a test captures is not, in a later test.
absl.logging.get_absl_handler().python_handler.setStream(sys.__stderr__)

pytest.register_assert_rewrite("support")  # its assertions say what they compared

# Programs that tests of a marker drive. A machine that lacks one leaves these tests out, and says so in a line.
PROGRAMS = {"browser": ("chromium", "chromedriver"), "cluster": ("slurmctld", "slurmd", "srun")}
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"  # where Debian has the last ones, and users may not look


def lacking(marker: str) -> list[str]:
    """The programs of a marker that are not here."""
    return [program for program in PROGRAMS[marker] if shutil.which(program, path=PATH) is None]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests on data from outside, unless the environment variable that they name is set, and tests that drive
    a program that is not here."""

    def at_hand(item: pytest.Item) -> bool:
        if any(item.get_closest_marker(marker) and lacking(marker) for marker in PROGRAMS):
            return False
        marker = item.get_closest_marker("outside_data")
        return marker is None or marker.args[0] in os.environ

    left_out = [item for item in items if not at_hand(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if at_hand(item)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests are left out for want of a program."""
    for marker in PROGRAMS:
        if names := lacking(marker):
            terminalreporter.write_line(f"left out: tests marked {marker}, which need {' and '.join(names)}")


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
