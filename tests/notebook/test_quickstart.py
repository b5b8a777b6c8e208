"""The example notebook runs from its first cell to its last, and is committed without what a run leaves in it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from helpers import ROOT

nbformat = pytest.importorskip("nbformat", reason="needs nbclient: pip install 'cl-bench[test]'")
pytest.importorskip("ipykernel", reason="needs ipykernel: pip install 'cl-bench[test]'")
pytest.importorskip("pandas", reason="needs pandas: pip install 'cl-bench[test]'")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install 'cl-bench[test]'")

QUICKSTART = ROOT / "examples" / "quickstart.ipynb"


def test_it_is_short_and_holds_nothing_of_a_run() -> None:
    notebook = nbformat.read(QUICKSTART, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 10
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    text = QUICKSTART.read_text()
    assert not re.search(r"""(?<![\w.:/])/(?!/)\w+/|[A-Z]:\\\\|~/""", text), "an absolute path"
    for promised in ("cl_bench.run(", "to_frame()", "cl_bench.judge(", "cl_bench.load_encoder(", "%%writefile"):
        assert sum(promised in cell.source for cell in code) == 1


@pytest.mark.slow
def test_it_runs(tmp_path: Path, as_in_a_shell: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(QUICKSTART, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # a cell that fails raises
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "<6 records: single_object-overlapping-my_match (4), random_init (2)>" in said
    assert re.search(r"single_object-overlapping-my_match: (SUPPORTED|REFUTED|INCONCLUSIVE): ", said)
    assert "torch.Size([1, 128, 4, 4])" in said and "[  6/6]" in said
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs), said
    assert {path.name for path in tmp_path.iterdir()} >= {"my_match.py", "quickstart"}
