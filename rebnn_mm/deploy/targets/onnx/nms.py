"""Non-maximum suppression at the end of an ONNX graph, by ONNX's own operator."""

from __future__ import annotations

from typing import Any

import numpy as np

RESULTS = ("boxes", "scores", "labels")


def add_nms(model: Any, iou_threshold: float, max_boxes: int) -> None:
    """Let ``model`` choose among candidates: its outputs become ``boxes`` (K, 4), ``scores`` (K) and ``labels`` (K).

    K is the number found, at most ``max_boxes``, the best first.

    Args:
        model: An ``onnx.ModelProto`` with the outputs boxes (1, M, 4), the same moved so far apart that boxes of
            different classes do not overlap, scores (1, M), 0 or less for none, and labels (1, M).
        iou_threshold: Of two boxes that overlap more, the better stays.
        max_boxes: The most that are kept.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    boxes, apart, scores, labels = (output.name for output in graph.output)
    constants: dict[str, np.ndarray] = dict(
        nms_most=np.array([max_boxes], np.int64),
        nms_iou=np.array([iou_threshold], np.float32),
        nms_score=np.array([0], np.float32),
        nms_axis=np.array([0], np.int64),
        nms_column=np.array(2, np.int64),
    )
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    inputs = [apart, "nms_scores", "nms_most", "nms_iou", "nms_score"]
    nodes = [
        helper.make_node("Unsqueeze", [scores, "nms_axis"], ["nms_scores"]),  # (batch, classes, candidates)
        helper.make_node("NonMaxSuppression", inputs, ["nms_chosen"]),
        helper.make_node("Gather", ["nms_chosen", "nms_column"], ["nms_places"], axis=1),
    ]
    for source, result in zip((boxes, scores, labels), RESULTS, strict=True):
        nodes.append(helper.make_node("Squeeze", [source, "nms_axis"], [f"nms_all_{result}"]))
        nodes.append(helper.make_node("Gather", [f"nms_all_{result}", "nms_places"], [result], axis=0))
    graph.node.extend(nodes)
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64)
    shapes: tuple[list[Any], ...] = (["K", 4], ["K"], ["K"])
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in zip(RESULTS, kinds, shapes, strict=True)
    )
