"""Fixtures for all tests."""

import gc
import importlib.util
import signal
from pathlib import Path

import pytest
from mmengine.visualization import Visualizer

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Let Ctrl-C interrupt, as from a terminal: what a shell starts in the background inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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
            # mmengine keeps visualizers by name as long as a process lives, and mmdet takes the one named last:
            # a tool is a process of its own
            Visualizer._instance_dict.clear()
            return module.main([str(arg) for arg in argv])

        return run

    return load
