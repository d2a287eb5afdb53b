"""Installs rebnn_mm; configs and tools travel in the wheel as ``rebnn_mm/.mim``, as OpenMMLab extensions do."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithMim(build_py):
    """Copy configs and tools beside the built package; nothing is written into the source tree."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for folder in ("configs", "tools"):
            target = Path(self.build_lib) / "rebnn_mm" / ".mim" / folder
            shutil.copytree(ROOT / folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


setup(
    name="rebnn_mm",
    version=re.search(r'__version__ = "(.+?)"', (ROOT / "rebnn_mm/__init__.py").read_text()).group(1),
    description="Resilient binary neural networks for MMDetection and MMPretrain",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["rebnn_mm", "rebnn_mm.*"]),
    python_requires=">=3.10",
    install_requires=["torch>=2.4", "numpy>=1.26", "onedl-mmengine>=0.10.12,<0.11"],
    extras_require={
        "mm": ["onedl-mmcv>=2.3.6,<2.4", "onedl-mmdetection>=3.5.1,<3.6", "onedl-mmpretrain>=1.3.6,<1.4"],
    },
    cmdclass={"build_py": BuildWithMim},
)
