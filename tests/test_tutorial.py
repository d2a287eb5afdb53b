"""The tutorial notebook: it runs, and what is stored of its last run is fit to be read."""

import json
import re
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


def test_stored_outputs_are_of_one_run_and_name_no_machine():
    text = TUTORIAL.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not re.search(r"/(work|home|root|tmp|usr|Users)\b", re.sub(r'"image/png": "[^"]*"', "", text))
    pictures = [output for cell in cells for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(pictures) == 3 and len(text) < 600_000
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    pytest.importorskip("nbclient", reason="make install brings it, with myst-nb")
    pytest.importorskip("matplotlib")
    from notebook import executed, texts

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    said = texts(executed(tmp_path))
    assert float(re.search(r"test accuracy ([\d.]+)", said)[1]) > 0.6
    assert "packed and trained model gave the same bits" in said
    assert "same classes as the trained network: True" in said
    assert list(tmp_path.glob("*/shapes.rebnn"))
