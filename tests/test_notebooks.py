"""Every notebook runs from top to bottom, and its two files say the same.

A notebook is a pair: `<name>.py` (percent format) is what one edits, `<name>.ipynb` is what one reads, with outputs.
`python tests/test_notebooks.py` executes all of them and stores the `.ipynb` files anew.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.py"))
SECONDS = 300  # for one cell; a whole notebook should take less than a minute
KILOBYTES = 1200  # of a stored notebook
FOLDERS = re.compile(r"(?<![\w.])(?:/(?:home|root|Users|tmp|var|usr|opt|mnt|work|builds?)/|[A-Z]:\\)")

every_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def executed(source: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook of a `.py` file with outputs; it runs in `folder`, with nothing but what is installed."""
    notebook = jupytext.read(source)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"  # the same at every run
    with tempfile.TemporaryDirectory() as own:  # a short path: that of a socket may have some hundred characters
        environment = {
            "IPYTHONDIR": f"{own}/ipython",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # figures are outputs, without a screen too
            "OMP_NUM_THREADS": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            kernel_name="python3",
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
            config=Config({"KernelManager": {"transport": "ipc", "connection_file": f"{own}/kernel.json"}}),
        )
        client.execute(env=os.environ | environment)
    notebook.metadata.pop("language_info", None)
    return notebook


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def kinds(notebook: nbformat.NotebookNode) -> list[str]:
    """What was printed and drawn, in order; warnings on standard error may differ between machines."""
    return [output.output_type for output in outputs(notebook) if output.get("name") != "stderr"]


def text_of(output: nbformat.NotebookNode) -> str:
    return output.text if output.output_type == "stream" else str(output.get("data", {}).get("text/plain", ""))


def test_every_notebook_is_a_pair():
    assert len(SOURCES) >= 1
    assert [source.stem for source in SOURCES] == sorted(stored.stem for stored in NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.slow
@every_notebook
def test_it_runs(source, tmp_path):
    notebook = executed(source, tmp_path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    stored = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert kinds(notebook) == kinds(stored)


@every_notebook
def test_both_files_have_the_same_cells(source):
    stored = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(stored)
    assert cells(stored) == cells(jupytext.read(source)), "run: python tests/test_notebooks.py"
    assert stored.metadata.kernelspec.name == "python3"


@every_notebook
def test_stored_outputs_are_small_whole_and_name_no_machine(source):
    path = source.with_suffix(".ipynb")
    assert 1 < path.stat().st_size / 1000 < KILOBYTES
    stored = nbformat.read(path, as_version=4)
    found = outputs(stored)
    assert any("image/png" in output.get("data", {}) for output in found)
    assert {output.output_type for output in found} <= {"stream", "display_data", "execute_result"}
    assert {output.name for output in found if output.output_type == "stream"} <= {"stdout"}
    assert [text_of(output) for output in found if FOLDERS.search(text_of(output))] == []
    assert set(stored.metadata) == {"kernelspec"}


def store() -> None:
    for source in SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(source, Path(folder))
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(source.with_suffix(".ipynb"), file=sys.stderr)


if __name__ == "__main__":
    store()
