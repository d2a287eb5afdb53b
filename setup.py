"""Installs rebnn_mm; configs and tools travel in the wheel as ``rebnn_mm/.mim``, as OpenMMLab extensions do.

The native kernels are built with any C++17 compiler, as a plain shared library that is loaded with ctypes.
They are optional: without a compiler the package installs all the same, and runs packed layers in torch.
"""

import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
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
        shutil.copy(ROOT / "model-index.yml", target.parent)


class BuildKernels(build_ext):
    """Build the kernels, each file for its own instruction set, into one shared library without a Python ABI."""

    # -march=native would make the library crash elsewhere: the instruction set is chosen when it runs.
    # Contraction would turn a * b + c into a fused one, and results would differ from the training layers'.
    UNIX = ["-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"]
    UNIX += ["-Wno-maybe-uninitialized"] if not sys.platform.startswith("darwin") else []  # gcc's own intrinsics
    MSVC = ["/std:c++17", "/O2", "/fp:precise", "/EHsc"]
    ISA = {"isa_avx512.cpp": ["-mavx512f", "-mavx512bw", "-mavx512vpopcntdq"], "isa_avx2.cpp": ["-mavx2", "-mfma"]}

    def get_ext_filename(self, fullname: str) -> str:
        """``lib*.so`` (``.dylib``, ``.dll``) without the interpreter's tag: the library does not know Python."""
        suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
        return str(Path(*fullname.split("."))) + suffix

    def build_extension(self, ext: Extension) -> None:
        """Compile the files side by side and link them; ``optional`` turns a failure into a warning."""
        with ThreadPoolExecutor() as pool:
            objects = [name for names in pool.map(self._compile, ext.sources) for name in names]
        target = self.get_ext_fullpath(ext.name)
        flags = [] if self.compiler.compiler_type == "msvc" else ["-pthread"]
        self.compiler.link_shared_object(objects, target, target_lang="c++", extra_postargs=flags)

    def _compile(self, source: str) -> list[str]:
        x86 = re.search(r"x86_64|amd64", self.plat_name)
        isa = self.ISA.get(Path(source).name, []) if x86 else []
        flags = self.MSVC if self.compiler.compiler_type == "msvc" else self.UNIX + isa
        return self.compiler.compile([source], output_dir=self.build_temp, extra_postargs=flags)


KERNELS = "rebnn_mm/deploy/kernels"
MMENGINE = "onedl-mmengine>=0.10.12,<0.11"

setup(
    name="rebnn_mm",
    version=re.search(r'__version__ = "(.+?)"', (ROOT / "rebnn_mm/__init__.py").read_text()).group(1),
    description="Resilient binary neural networks for MMDetection and MMPretrain",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["rebnn_mm", "rebnn_mm.*"]),
    entry_points={"console_scripts": ["rebnn = rebnn_mm.__main__:main"]},
    python_requires=">=3.10",
    # running a packed classifier needs no more; training and detectors need the extra
    install_requires=["torch>=2.4", "numpy>=1.26"],
    extras_require={
        "mm": [
            MMENGINE,
            "onedl-mmcv>=2.3.6,<2.4",
            "onedl-mmdetection>=3.5.1,<3.6",
            "onedl-mmpretrain>=1.3.6,<1.4",
        ],
        # BERT on GLUE; transformers 5 dropped functions that mmpretrain 1.3 uses
        "bert": [MMENGINE, "transformers>=4.57,<5", "scipy>=1.11"],
        "onnx": ["onnx>=1.16", MMENGINE],
        # which is handed the graph as ONNX
        "openvino": ["openvino>=2026.4,<2027", "onnx>=1.16", MMENGINE],
        # programs without Python and torch; its files are promised for about the next minor release only
        "executorch": ["executorch>=1.5.1,<1.6"],
        # tools/analyze.py draws with it; nothing else does
        "plot": ["matplotlib>=3.8"],
    },
    ext_modules=[
        Extension(
            "rebnn_mm.deploy.kernels.librebnn_kernels",
            sources=sorted(str(path.relative_to(ROOT)) for path in (ROOT / KERNELS).glob("*.cpp")),
            depends=sorted(str(path.relative_to(ROOT)) for path in (ROOT / KERNELS).glob("*.h")),
            language="c++",
            optional=True,
        )
    ],
    # the sources travel along: they are the documentation of the bits, and can be cross-compiled
    package_data={
        "rebnn_mm.deploy.kernels": ["*.cpp", "*.h"],
        "rebnn_mm.workflows.page": ["page.*"],
    },
    cmdclass={"build_py": BuildWithMim, "build_ext": BuildKernels},
)
