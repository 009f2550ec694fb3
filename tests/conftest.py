import os
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests on data from outside, unless the environment variable that they name is set."""

    def at_hand(item: pytest.Item) -> bool:
        marker = item.get_closest_marker("outside_data")
        return marker is None or marker.args[0] in os.environ

    left_out = [item for item in items if not at_hand(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if at_hand(item)]


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
