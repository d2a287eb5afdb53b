"""A layer or network of another run-time, timed on request by peer.py, in its own environment.

    python -I peer_process.py KIND CHANNELS SIZE        KIND: ort_fp32, ort_int8, lce, lce_resnet18

It needs numpy and onnx + onnxruntime, or larq + larq-compute-engine (with tensorflow and tf-keras), and nothing of
rebnn_mm. The first line that it prints names versions; then each line it reads is a number of calls, answered with the
CPU milliseconds of one call. One thread.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np


def onnx_layer(channels: int, size: int, int8: bool) -> tuple[str, Callable[[], object]]:
    """3x3 convolution with padding 1, float in and out; int8 is symmetric, with a scale for each output channel."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weight = random.standard_normal((channels, channels, 3, 3), dtype=np.float32)
    constants: dict[str, np.ndarray | np.generic] = {"w": weight}
    nodes = []
    if int8:
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        constants = {
            "w8": np.round(weight / scale[:, None, None, None]).astype(np.int8),
            "w_scale": scale,
            "w_zero": np.zeros(channels, np.int8),
            "x_scale": np.float32(0.03),
            "y_scale": np.float32(3),
            "zero": np.uint8(128),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["x8"]),
            helper.make_node("DequantizeLinear", ["x8", "x_scale", "zero"], ["xq"]),
            helper.make_node("DequantizeLinear", ["w8", "w_scale", "w_zero"], ["w"], axis=0),
        ]
    nodes.append(helper.make_node("Conv", ["xq" if int8 else "x", "w"], ["yq" if int8 else "y"], pads=[1, 1, 1, 1]))
    if int8:
        nodes.append(helper.make_node("QuantizeLinear", ["yq", "y_scale", "zero"], ["y8"]))
        nodes.append(helper.make_node("DequantizeLinear", ["y8", "y_scale", "zero"], ["y"]))
    shape = [1, channels, size, size]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "layer", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = random.standard_normal(shape, dtype=np.float32)
    # bound buffers: no copy of input or output is timed
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    return f"onnxruntime {onnxruntime.__version__}", lambda: session.run_with_iobinding(binding)


def lce_model(channels: int, size: int) -> tuple[str, Callable[[], object]]:
    """Larq compute-engine with the fastest of its kernels here: a binary convolution and batch norm, or BiRealNet-18.

    Args:
        channels: Of the layer; 0 for the network.
        size: Of the map or of the image.
    """
    os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    from importlib.metadata import version

    import larq_compute_engine
    import tensorflow
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    inputs = tensorflow.keras.Input((size, size, channels or 3), batch_size=1)
    outputs = binary_unit(inputs, channels, 1) if channels else bireal_resnet18(inputs)
    converted = larq_compute_engine.convert_keras_model(tensorflow.keras.Model(inputs, outputs))
    x = np.random.default_rng(0).standard_normal((1, size, size, channels or 3), dtype=np.float32)
    kernels: tuple[dict[str, bool], ...] = ({}, {"use_indirect_bgemm": True}, {"use_reference_bconv": True})
    calls = [partial(Interpreter(converted, num_threads=1, **kernel).predict, x) for kernel in kernels]
    return f"larq-compute-engine {version('larq-compute-engine')}", min(calls, key=seconds)


def binary_unit(x: Any, channels: int, strides: int) -> Any:
    """3x3 binary convolution with one-padding, which is what larq's fast path takes, and a batch norm."""
    import larq
    import tensorflow

    quantizers = dict(input_quantizer="ste_sign", kernel_quantizer="ste_sign", kernel_constraint="weight_clip")
    shape = dict(strides=strides, padding="same", pad_values=1.0, use_bias=False)
    return tensorflow.keras.layers.BatchNormalization()(larq.layers.QuantConv2D(channels, 3, **shape, **quantizers)(x))


def bireal_resnet18(x: Any) -> Any:
    """Bi-Real Net of 18 layers: a float stem, 16 binary units with a shortcut each, a float classifier of 1,000."""
    from tensorflow.keras import layers

    x = layers.BatchNormalization()(layers.Conv2D(64, 7, strides=2, padding="same", use_bias=False)(x))
    x = layers.MaxPool2D(3, strides=2, padding="same")(x)
    for stage in range(4):
        channels = 64 * 2**stage
        for index in range(4):
            strides = 2 if stage and not index else 1
            shortcut = x
            if strides == 2:
                shortcut = layers.AvgPool2D(2, strides=2)(shortcut)
                shortcut = layers.BatchNormalization()(layers.Conv2D(channels, 1, use_bias=False)(shortcut))
            x = layers.add([binary_unit(x, channels, strides), shortcut])
    return layers.Dense(1000)(layers.GlobalAvgPool2D()(x))


def seconds(call: Callable[[], object]) -> float:
    """CPU time of three calls after one that warms up."""
    call()
    start = time.process_time()
    for _ in range(3):
        call()
    return time.process_time() - start


def main() -> None:
    """Answer timing requests until the input ends."""
    kind, channels, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if kind.startswith("lce"):
            name, call = lce_model(0 if kind == "lce_resnet18" else channels, size)
        else:
            name, call = onnx_layer(channels, size, kind == "ort_int8")
    print(name, flush=True)
    for line in sys.stdin:
        start = time.process_time_ns()
        for _ in range(int(line)):
            call()
        print((time.process_time_ns() - start) / int(line) / 1e6, flush=True)


if __name__ == "__main__":
    main()
