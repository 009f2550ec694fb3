"""One cluster for all tests here."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


class Running:
    """A running cluster, as tests use it."""

    def __init__(self, folder: Path, process: subprocess.Popen) -> None:
        self.process = process
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def power(self, verb: str, node: str) -> None:
        """`kill` or `start` a node."""
        print(verb, node, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"

    def call(self, *command: str, missing: bool = False) -> str:
        """What one of SLURM's commands prints; `missing`: what it is about may have ended meanwhile."""
        environment = {**os.environ, **self.environment}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert missing or run.returncode == 0, f"{command}: {run.stderr}"
        return run.stdout


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two nodes of two processors each; it ends with the tests, or with their process."""
    folder = tmp_path_factory.mktemp("cluster")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, HERE / "cluster.py", folder], **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        yield Running(folder, process)
        process.stdin.close()
        process.wait(60)
