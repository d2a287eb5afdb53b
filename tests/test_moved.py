"""Names of modules that have moved, as users' configs, scripts and files have them."""

import importlib
import subprocess
import sys

import pytest

from rebnn_mm import moved
from rebnn_mm.moved import LEFT, MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_gives_the_new_module_and_warns(old):
    pytest.importorskip("mmdet")
    pytest.importorskip("mmpretrain")
    new = importlib.import_module(MOVED[old])
    spec = new.__spec__
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}; the old name goes"):
        module = importlib.import_module(old)
    assert module is new and new.__spec__ is spec and new.__name__ == MOVED[old]


def test_a_module_of_a_moved_package_is_loaded_once():
    pytest.importorskip("onnx")
    from rebnn_mm.deploy.targets.onnx import builder

    sys.modules.pop("rebnn_mm.deploy.onnx.builder", None)
    with pytest.warns(DeprecationWarning) as said:  # first of the package, where nothing has imported it yet
        module = importlib.import_module("rebnn_mm.deploy.onnx.builder")
    assert module is builder
    assert "onnx.builder is now rebnn_mm.deploy.targets.onnx.builder" in str(said[-1].message)


def test_a_name_in_a_module_that_is_another_now():
    from rebnn_mm.deploy.operation import bits

    with pytest.warns(DeprecationWarning, match="bits.pack_signs is now rebnn_mm.deploy.operation.bits.to_bits"):
        assert bits.pack_signs is bits.to_bits
    assert not hasattr(bits, "nothing")
    with pytest.warns(DeprecationWarning) as said:
        from rebnn_mm.deploy.layer import Epilogue
    assert Epilogue.__module__ == "rebnn_mm.deploy.operation.steps"
    assert "spec.Epilogue is now rebnn_mm.deploy.operation.steps.Epilogue" in str(said[-1].message)


def test_names_in_packages_of_a_module_that_moved_into_them():
    pytest.importorskip("mmdet")
    from rebnn_mm.integrations import images

    with pytest.warns(DeprecationWarning, match="images.ImageReader is now rebnn_mm.integrations.images.pipeline.Imag"):
        from rebnn_mm.integrations.images import ImageReader
    assert ImageReader.__module__ == "rebnn_mm.integrations.images.pipeline"
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        from rebnn_mm.integrations.images import Nothing  # noqa: F401
    assert not hasattr(images, "_build")
    with pytest.warns(DeprecationWarning, match="build.SCOPES is now rebnn_mm.integrations.config.SCOPES"):
        from rebnn_mm.integrations.build import SCOPES
    assert "mmdet" in SCOPES


@pytest.mark.parametrize("name", LEFT)
def test_what_left_the_package_names_its_command(name):
    with pytest.raises(ModuleNotFoundError, match=f"{name} is no part of .* {LEFT[name]}"):
        importlib.import_module(name)
    assert LEFT[name].startswith("python benchmarks/")


def test_the_finder_is_there_once_and_finds_nothing_else():
    moved.find_old_names()
    assert sum(isinstance(finder, moved.OldNames) for finder in sys.meta_path) == 1
    with pytest.raises(ModuleNotFoundError, match="No module named 'rebnn_mm.integrations.nothing'"):
        importlib.import_module("rebnn_mm.integrations.nothing")


def test_a_config_with_old_names_is_read_and_the_log_says_so(tmp_path, monkeypatch):
    pytest.importorskip("mmpretrain")
    from rebnn_mm.integrations.build import read_config

    names = ["rebnn_mm", "rebnn_mm.integrations.data", "rebnn_mm.integrations.classification"]
    names.append("rebnn_mm.integrations.distill_classification")
    for name in names:
        if name in MOVED:
            sys.modules.pop(name, None)
    file = tmp_path / "old.py"
    file.write_text(
        f"custom_imports = dict(imports={names}, allow_failed_imports=False)\n"
        "default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier')\n"
    )
    logged = []
    monkeypatch.setattr("rebnn_mm.integrations.config.print_log", lambda text, *how: logged.append(text))
    with pytest.warns(DeprecationWarning) as said:
        read_config(file)
    old = [name for name in names if name in MOVED]
    assert [str(warning.message).split()[0] for warning in said] == old
    for name, text in zip(old, logged, strict=True):
        assert f"write {MOVED[name]} for {name} in custom_imports" in text


@pytest.mark.slow
def test_an_old_name_run_as_a_module_says_where_it_went():
    done = subprocess.run([sys.executable, "-m", "rebnn_mm.deploy.benchmark"], capture_output=True, text=True)
    assert done.returncode == 1 and "python benchmarks/layers.py" in done.stderr
