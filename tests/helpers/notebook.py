"""Runs docs/tutorial.ipynb; as a program it writes the notebook again with the outputs of this run.

python tests/helpers/notebook.py
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_MOMENT = re.compile(r"^\d\d/\d\d \d\d:\d\d:\d\d - mmengine - INFO - ", re.MULTILINE)


def executed(folder: Path, path: Path = TUTORIAL) -> nbformat.NotebookNode:
    """The notebook after a run in ``folder``, by this Python.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources=dict(metadata=dict(path=folder)))
    return client.execute()


def texts(notebook: nbformat.NotebookNode) -> str:
    """What the cells print and return, pictures left out."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same in a stable form: without times, colours, and warnings that name folders of this machine."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = dict(name="python")
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "text" in output:
                    output["text"] = _MOMENT.sub("", _COLOURS.sub("", output["text"]))
    return notebook


if __name__ == "__main__":
    nbformat.write(clean(executed(TUTORIAL.parent)), TUTORIAL)
