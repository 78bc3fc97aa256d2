"""The notebooks in examples/, run from top to bottom in a kernel of their own, on small pictures."""

from pathlib import Path

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))

SMALL = {
    "first_faces": 'options = {"arch": "dcgan16", "width": 8, "batch_size": 16, "device": "cpu"}\nIMAGES = 480',
    "own_pictures": 'options = {"resolution": 32, "width": 8, "epochs": 2, "batch_size": 16, "device": "cpu"}',
    "why_it_is_fast": 'ARCH, WIDTH, BATCH, SECONDS = "dcgan16", 8, 8, 4',
}
"""Of each notebook the cell with the parameters, but for the data."""


def test_all_notebooks_are_tested_and_clean() -> None:
    nbformat = pytest.importorskip("nbformat")
    assert {path.stem for path in NOTEBOOKS} == SMALL.keys()
    for path in NOTEBOOKS:
        book = nbformat.read(path, 4)
        nbformat.validate(book)
        assert [cell.metadata.get("tags") for cell in book.cells].count(["parameters"]) == 1
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in book.cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(path, 4)
    (parameters,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source += f"\nDATA, OUT = {str(photographs)!r}, 'run'\n{SMALL[path.stem]}"
    nbclient.NotebookClient(book, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert outputs and len(nbformat.writes(book)) < 1_000_000
    # Neither errors, which would have ended it, nor warnings.
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
