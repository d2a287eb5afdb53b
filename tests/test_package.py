"""What importing pulls in, and what a wheel carries."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.xdist_group("wheel")  # one worker, which builds it once
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_import_stays_light():
    heavy = ("mmcv", "mmdet", "mmpretrain", "transformers", "cv2", "matplotlib")
    code = f"""
import sys, rebnn_mm, rebnn_mm.bert
print([name for name in sys.modules if name in {heavy} or name.startswith("rebnn_mm.integrations")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # mmengine itself imports OpenCV, and transformers, where it is installed, for an optimizer
    assert set(eval(done.stdout)) <= {"cv2", "matplotlib", "transformers"}, done.stdout


def build_wheel(source, out, **environment):
    pytest.importorskip("setuptools")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out))
    environment = {**os.environ, **environment}
    subprocess.run([*pip, str(source)], check=True, capture_output=True, text=True, timeout=600, env=environment)
    (file,) = out.glob("rebnn_mm-*.whl")
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_wheel_holds_every_config_and_tool(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "rebnn_mm/.mim/model-index.yml" in names
    for folder in ("configs", "tools"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"rebnn_mm/.mim/{path.relative_to(ROOT)}" in names
    assert {f"rebnn_mm/{p.relative_to(ROOT / 'rebnn_mm')}" for p in (ROOT / "rebnn_mm").rglob("*.py")} <= names
    assert {f"rebnn_mm/workflows/page/page.{suffix}" for suffix in ("html", "css", "js")} <= names
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.slow
def test_without_a_compiler_a_wheel_is_built_all_the_same(tmp_path):
    """What its user is then told stands in test_without_the_library_one_warning_and_the_same_results."""
    source = tmp_path / "source"
    for name in ("rebnn_mm", "configs", "tools"):  # not what was built in the checkout
        built = shutil.ignore_patterns("__pycache__", "*.so", ".mim")
        shutil.copytree(ROOT / name, source / name, ignore=built)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "model-index.yml"):
        shutil.copy(ROOT / name, source)
    names = zipfile.ZipFile(build_wheel(source, tmp_path, CC="/bin/false", CXX="/bin/false")).namelist()
    assert "rebnn_mm/deploy/kernels/library.py" in names and not [name for name in names if name.endswith(".so")]


@pytest.mark.slow
def test_installed_wheel_runs_its_tools_and_configs(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    mim = tmp_path / "rebnn_mm" / ".mim"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(mim / "tools" / "get_flops.py"), str(mim / "configs" / "resnet18_rebnn_cifar10.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert "1-bit layers (W1A1): 16 of" in done.stdout, done.stderr[-2000:]
    command = [sys.executable, "-m", "rebnn_mm", "configs"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.stdout.strip() == str(mim / "configs"), done.stderr[-2000:]


def test_the_model_index_names_configs_that_exist_and_results_that_the_docs_have():
    (name,) = yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]
    index = yaml.safe_load((ROOT / name).read_text())
    collections = {collection["Name"]: ROOT / collection["README"] for collection in index["Collections"]}
    assert all(page.is_file() for page in collections.values())
    measured = (ROOT / "docs" / "results.md").read_text()
    for model in index["Models"]:
        assert (ROOT / model["Config"]).is_file() and Path(model["Config"]).stem == model["Name"]
        assert model["In Collection"] in collections
        for result in model["Results"]:
            for value in result["Metrics"].values():
                assert f"{value:.1f}" in measured or f"{value / 100:.3f}" in measured, model["Name"]
