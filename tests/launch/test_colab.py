"""The notebook: runs from top to bottom on CPUs, and is kept without outputs."""

import json
import os
import pathlib

import pytest

from tests.xla_flags import QUICK

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOK = ROOT / "launch" / "colab.ipynb"


def test_it_is_valid_and_holds_no_outputs():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            compile(cell.source, NOTEBOOK.name, "exec")


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("libtpu")
    for name, value in {
        "SSL_JAX_QUICK": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": QUICK,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=1500, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises CellExecutionError with the cell and its output

    printed = json.dumps([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])
    assert "constraints.txt" not in os.listdir(tmp_path)  # nothing was installed
    assert "10 classes" in printed and "fits" in printed
    pages = [
        output["data"]["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    assert len(pages) == 2 and all("<iframe srcdoc=" in page for page in pages)
    assert "(8, 8)" in printed  # features of eight images
