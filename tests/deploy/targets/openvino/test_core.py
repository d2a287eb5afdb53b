"""The process's one core of OpenVINO."""

import subprocess
import sys

import pytest

pytest.importorskip("openvino")

# in a process of its own: without the mend it ends with a segmentation fault
SCRIPT = """
import faulthandler, gc, signal
import numpy as np
import openvino.opset13 as op
from openvino import Model
from rebnn_mm.deploy.targets.openvino.core import compile_model

def compiled():
    x = op.parameter([1, 64, 14, 14], np.float32)
    weight = op.constant(np.zeros((64, 64, 3, 3), np.float32))
    convolved = op.convolution(x, weight, [1, 1], [1, 1], [1, 1], [1, 1])
    request = compile_model(Model([convolved], [x]), threads=1).create_infer_request()
    request.infer([np.zeros((1, 64, 14, 14), np.float32)])
    return request

faulthandler.enable()  # its signal stack is the one that OpenVINO takes the place of
signal.signal(signal.SIGINT, signal.default_int_handler)
first, second = compiled(), compiled()
del first
gc.collect()
del second
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
def test_ctrl_c_after_two_networks_is_an_interrupt():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "interrupted\n"), run.stderr
