"""What a packed file is compared with: the trained model, its real-valued twin, and onnxruntime."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from rebnn_mm.deploy import load_model
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.load import PackedClassifier
from rebnn_mm.errors import MissingPackageError, UserError
from rebnn_mm.integrations.build import build_model
from rebnn_mm.integrations.checkpoint import load_weights
from rebnn_mm.integrations.images.pipeline import image_channels
from rebnn_mm.integrations.origin import load_trained, refuse_other_model
from rebnn_mm.integrations.samples import data_sample
from rebnn_mm.kept_memory import keep_freed_memory
from rebnn_mm.layers import BinaryLayer
from rebnn_mm.workflows.export import noise
from rebnn_mm.workflows.timing import Candidate, candidate, compare, format_timings, machine

Calls = dict[str, Callable[[], Any]]


def benchmark_model(
    path: str | Path,
    size: tuple[int, int],
    batch: int = 1,
    trained: tuple[Config, str] | None = None,
    onnxruntime: bool = False,
    threads: Sequence[int] = (1,),
    rounds: int = 21,
    clock: str = "wall",
    others: Mapping[str, Candidate] | None = None,
) -> str:
    """Text table of the packed model's times, and of those that it is compared with.

    Args:
        path: The ``.rebnn`` file.
        size: (H, W) of the images, noise of as many channels as the model takes; their preprocessing is timed, too.
        batch: How many images at once.
        trained: Config and checkpoint that it was exported from: adds the trained model and its real-valued twin.
        onnxruntime: Add onnxruntime, float32 and int8, for a network that is one graph.
        threads: All run with the first number; the packed model also with each of the others.
        rounds: As for :func:`rebnn_mm.workflows.timing.compare`.
        clock: As for :func:`rebnn_mm.workflows.timing.candidate`.
        others: What else is timed in the same turns, by name.

    Raises:
        ValueError: A number of threads or images below 1, fewer than three rounds; a config of another model than the
            file's.
        RebnnFileError, FileNotFoundError: The file or the checkpoint.
        MissingPackageError: ``onnxruntime`` without onnx and onnxruntime.
    """
    if min(batch, *size, *threads) < 1:
        raise UserError(f"size {tuple(size)}, batch {batch}, threads {list(threads)}: all are whole numbers from 1 on")
    if trained:
        refuse_other_model(path, read_file(path), trained[0], whole=True)  # times depend on test_cfg, too
    torch.set_num_threads(threads[0])
    keep_freed_memory()
    packed = load_model(path)
    images = noise(size, batch, packed_channels(packed))
    calls: Calls = {
        "packed": predict(packed, images),
        "packed, exact=False": predict(load_model(path, exact=False), images),
    }
    if trained:
        calls |= trained_models(*trained, images)
    if onnxruntime:
        calls |= onnxruntime_models(path, images, threads[0])
    candidates = {name: candidate(call, threads[0], clock) for name, call in calls.items()}
    for count in threads[1:]:
        candidates[f"packed, {count} threads"] = candidate(predict(load_model(path), images), count, clock)
    timings = compare({**candidates, **(others or {})}, rounds)
    shape = " x ".join(map(str, images.shape))
    head = f"{machine()}\nthreads     {threads[0]}\ninput       {shape}, {rounds} rounds, {clock} clock\n"
    return "\n".join([head, format_timings(timings), load_time(path)])


def packed_channels(model: nn.Module) -> int:
    """Channels of the images that a packed model takes."""
    graph = model.network if isinstance(model, PackedClassifier) else model
    if isinstance(graph, GraphNetwork):
        if graph.image_channels is None:
            raise UserError("the benchmark gives the network images, and it takes something else")
        return graph.image_channels
    return image_channels(model.cfg, model)  # mmdet's or mmpretrain's model


def load_time(path: str | Path, rounds: int = 9) -> str:
    """A line with the time that a file takes to load which is one graph; empty for a detector, which mmdet builds."""
    if "whole" not in read_file(path).info:
        return ""
    timing = compare({"load_model": candidate(lambda: load_model(path))}, rounds)[0]
    return f"\nload_model takes {timing.mid:.1f} ms ({timing.low:.1f}..{timing.high:.1f})"


def predict(model: nn.Module, images: Tensor) -> Callable[[], Any]:
    """A call of ``model`` on (N, C, H, W) uint8 images, preprocessing and postprocessing included.

    A network that is no classifier takes them as numbers, without any preprocessing: its file says of none.
    """
    if isinstance(model, GraphNetwork):
        floats = images.float()
        return lambda: model(floats)
    preprocessor = getattr(model, "data_preprocessor", None)
    if preprocessor is None:  # the light run-time
        return lambda: model(images)
    scope = "mmdet" if "mmdet" in type(preprocessor).__module__ else "mmpretrain"
    samples = [data_sample(scope, tuple(images.shape[2:])) for _ in images]
    return lambda: model.test_step(dict(inputs=list(images), data_samples=copy.deepcopy(samples)))


def trained_models(cfg: Config, checkpoint: str | Path, images: Tensor) -> Calls:
    """The trained model, whose 1-bit layers are simulated in float, and its twin with plain layers, both eager.

    Raises:
        FileNotFoundError, ValueError: As :func:`rebnn_mm.integrations.checkpoint.load_weights` and
            :func:`rebnn_mm.integrations.origin.load_trained`.
    """
    model = build_model(cfg)
    load_trained(model, load_weights(checkpoint), checkpoint, cfg)
    # a detector's time depends on what it finds: the twin gets the layers' own weights, so both find something
    return {
        "trained, simulated 1-bit": predict(model, images),
        "real-valued twin, torch eager": predict(real_twin(model), images),
    }


def real_twin(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose 1-bit layers are plain ones of the same shape, with ``scale * binary_weight``.

    A batch norm before the sign stays, a shortcut of the layer goes: a real-valued layer needs none.
    """
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BinaryLayer) and child.binarizes_weight:
                setattr(parent, name, _plain(child))
    return model.eval()


def _plain(layer: Any) -> nn.Module:
    plain: Any
    if hasattr(layer, "kernel_size"):
        plain = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            padding_mode=layer.padding_mode,
            bias=False,
            device="meta",
        )
    else:
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    scale = layer.scale()
    weight = layer.binary_weight() if scale is None else scale * layer.binary_weight()
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = layer.bias
    return plain if layer.input_norm is None else nn.Sequential(layer.input_norm, plain)


def onnxruntime_models(path: str | Path, images: Tensor, threads: int) -> Calls:
    """The file's network, real-valued (see :mod:`rebnn_mm.deploy.targets.onnx`), in onnxruntime: float32 and int8.

    Raises:
        MissingPackageError: onnx or onnxruntime is not installed.
        UserError: The file is no graph as a whole (a detector).
    """
    try:
        import onnxruntime
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingPackageError(f"onnxruntime is compared with, and {error.name} is not installed") from None
    from rebnn_mm.deploy.targets.onnx import export_onnx

    data: dict[str, Any] = {}

    class OneBatch(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([data])

        def get_next(self) -> Any:
            return next(self.batches, None)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # its threads would go on spinning while the next candidate is timed
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    calls: Calls = {}
    with tempfile.TemporaryDirectory() as folder:
        real, prepared, int8 = (str(Path(folder) / name) for name in ("real.onnx", "prepared.onnx", "int8.onnx"))
        export_onnx(path, real, form="real")
        (only,) = onnxruntime.InferenceSession(real, providers=["CPUExecutionProvider"]).get_inputs()
        data[only.name] = images.float().numpy()
        quantization.quant_pre_process(real, prepared, skip_symbolic_shape=True)
        # unsigned activations: the faster kind on x86
        kinds = dict(activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8)
        quantization.quantize_static(prepared, int8, OneBatch(), per_channel=True, **kinds)
        for name, file in (("float32", real), ("int8", int8)):
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            calls[f"real-valued, onnxruntime {name}"] = lambda session=session: session.run(None, data)
    return calls
