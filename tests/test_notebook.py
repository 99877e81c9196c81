"""The notebook, from its first cell to its last in a kernel of its own."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "hub" / "notebook.ipynb"


def test_every_cell_runs_and_says_what_the_page_shows(tmp_path):
    shown = nbformat.read(NOTEBOOK, as_version=4)
    run = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(run, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    for before, after in zip(shown.cells, run.cells, strict=True):
        assert kinds(before) == kinds(after), before.source
    assert printed(run.cells[2]) == printed(shown.cells[2])  # else the outputs are of other weights: store them anew
    assert printed(run.cells[9]).split()[2] == "pagoda"
    assert not list(tmp_path.iterdir())


def kinds(cell):
    outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    return [sorted(output.get("data", {output.output_type: None})) for output in outputs]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
