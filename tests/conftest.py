"""Fixtures for all tests."""

import gc
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def tool():
    """``tool(name)(*argv)`` runs a tool in this process: importing mmdet anew takes seconds."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def run(*argv):
            # A finaliser that runs while a config is parsed makes CPython 3.11 fail there (python/cpython issue
            # 106905): what the last tool left is collected first.
            gc.collect()
            return module.main([str(arg) for arg in argv])

        return run

    return load
