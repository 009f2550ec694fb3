"""Commands whose reader goes, as behind `| head`, or whose terminal lacks characters."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SMOKE = ("scale=smoke", "logger=none", "latency.seconds=0", "threads=1")


def run_unread(module: str, *arguments: str, cwd: Path, unbuffered: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the command of a module whose standard output has lost its reader before it writes."""
    read, write = os.pipe()
    os.close(read)
    start = f"import sys; from {module} import main; sys.exit(main())"
    program = [sys.executable, *(["-u"] if unbuffered else []), "-c", start, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": write, "stderr": subprocess.PIPE, "text": True}
    try:
        return subprocess.run(program, cwd=cwd, env=environment, timeout=300, **pipes)
    finally:
        os.close(write)


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_help_that_nobody_reads_ends_quietly(tmp_path, unbuffered):
    ended = run_unread("lowrank_exp.cli", "help", "rank", cwd=tmp_path, unbuffered=unbuffered)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
def test_a_sweep_and_a_report_that_nobody_reads_are_done_all_the_same(tmp_path):
    sweep = run_unread("lowrank_exp.cli", "-m", "seed=1,2", *SMOKE, cwd=tmp_path)
    results = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/runs/*/result.json")]
    assert [(one["status"], one["seed"]) for one in sorted(results, key=lambda one: one["seed"])] == [
        ("ok", 1),
        ("ok", 2),
    ]
    assert sweep.returncode == 0
    assert "Traceback" not in sweep.stderr
    assert "Logging error" not in sweep.stderr
    reported = run_unread("lowrank_exp.report.cli", "outputs", cwd=tmp_path)
    assert (reported.returncode, reported.stderr) == (0, "")
    assert (tmp_path / "outputs/report/results.csv").read_text().count("\n") == 2
    listed = run_unread("lowrank_exp.cli", "store", "list", cwd=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, "")


def test_a_first_line_is_read_before_the_reader_goes(tmp_path):
    program = [sys.executable, "-u", "-m", "lowrank_exp.cli", "--help"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout.readline().startswith("lowrank-exp: train a network")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_characters_that_the_terminal_lacks_are_escaped(tmp_path, errors):
    program = "from lowrank_exp.text.printing import print_safely; print_safely(); print_safely(); print('a \\u2713 b')"
    environment = os.environ | {"PYTHONIOENCODING": f"ascii:{errors}"}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("a \\u2713 b\n", "", 0)
