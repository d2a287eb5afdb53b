"""The command ``rebnn``."""

import subprocess
import sys
from pathlib import Path

import pytest

from rebnn_mm import __main__ as rebnn

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["rebnn", *words])
    rebnn.main()


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",)])
def test_help_names_every_tool(monkeypatch, capsys, words):
    run(monkeypatch, *words)
    out = capsys.readouterr().out
    for path in TOOLS.glob("*.py"):
        assert f"  {path.stem.replace('_', '-')} " in out
    assert "Train a detector, a classifier or a BERT from its config." in out


@pytest.mark.parametrize("name", ["convert-reactnet", "convert_reactnet"])
def test_a_tool_is_run_under_the_commands_name(monkeypatch, capsys, name):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, name, "--help")
    assert stop.value.code == 0 and "usage: rebnn convert-reactnet " in capsys.readouterr().out


def test_the_configs_are_named(monkeypatch, capsys):
    run(monkeypatch, "configs")
    assert (Path(capsys.readouterr().out.strip()) / "faster_rcnn_rebnn_r18_voc.py").is_file()


def test_an_unknown_command_is_refused(monkeypatch):
    with pytest.raises(SystemExit, match="no command 'trian'; there are analyze, benchmark,.* train,.* configs"):
        run(monkeypatch, "trian")


@pytest.mark.slow
def test_the_module_runs():
    done = subprocess.run([sys.executable, "-m", "rebnn_mm", "nothing"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "no command 'nothing'" in done.stderr


@pytest.mark.parametrize(("package", "how"), [("mmdet", r"'rebnn_mm\[mm\]'"), ("PIL", "pillow")])
def test_a_package_that_is_not_installed_is_named(monkeypatch, package, how):
    def lacks(path):
        raise ModuleNotFoundError(f"No module named '{package}.sub'", name=f"{package}.sub")

    monkeypatch.setattr(rebnn, "_load", lacks)
    with pytest.raises(SystemExit, match=f"rebnn demo needs {package}, which is not installed: pip install {how}"):
        run(monkeypatch, "demo", "m.rebnn")


def test_a_module_of_our_own_that_is_missing_is_a_fault(monkeypatch):
    def lacks(path):
        raise ModuleNotFoundError("No module named 'rebnn_mm.gone'", name="rebnn_mm.gone")

    monkeypatch.setattr(rebnn, "_load", lacks)
    with pytest.raises(ModuleNotFoundError):
        run(monkeypatch, "demo", "m.rebnn")
