"""Small networks, fused, and their edge form; the C++ library and program."""

import copy
import os
import subprocess
from pathlib import Path

import pytest
import torch
from cpp_runtime import FOUND, ROOT

from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.lower import lower
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.targets.executorch.edge import edge_form
from rebnn_mm.deploy.targets.executorch.lowering import as_taken


@pytest.fixture
def edge():
    """``edge(module, *inputs)``: (the packed network, its edge form, inputs as programs take them)."""

    def make(module, *inputs):
        batch = [torch.cat([x, x]) for x in inputs]
        traced = fuse(capture(lower(copy.deepcopy(module)), batch))
        network = GraphNetwork(encode(traced), traced.tensors, exact=False)
        taken = [as_taken(x) for x in inputs]
        return network, edge_form(network.traced(), taken), taken

    return make


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Folder with the C++ library and program."""
    if "REBNN_RUNTIME" in os.environ:
        yield Path(os.environ["REBNN_RUNTIME"])
        return
    folder = tmp_path_factory.mktemp("runtime")
    package = list(FOUND.submodule_search_locations)[0]
    command = ["sh", ROOT / "runtime/build.sh", folder]
    subprocess.run(command, check=True, env={**os.environ, "EXECUTORCH": package, "REBNN_KERNELS": "1"})
    os.environ["REBNN_RUNTIME"] = str(folder)
    yield folder
    del os.environ["REBNN_RUNTIME"]


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory):
    """``rebnn_run`` built with sanitizers, as a function of its arguments."""
    package = list(FOUND.submodule_search_locations)[0]
    folder = tmp_path_factory.mktemp("sanitized")
    flags = "-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all -w"
    environment = {**os.environ, "EXECUTORCH": package, "REBNN_KERNELS": "1", "CXXFLAGS": flags}
    done = subprocess.run(["sh", ROOT / "runtime/build.sh", folder], env=environment, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("needs a g++ with the libraries of its sanitizers")
    # XNNPACK keeps tables for the life of a process
    quiet = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return lambda *words: subprocess.run(
        [folder / "rebnn_run", *map(str, words)], env=quiet, capture_output=True, text=True
    )
