"""A config's metric of the C++ library: it reads the image files and gives boxes or scores, through its C interface.

python benchmarks/cpp_metric.py CONFIG MODEL.pte [--cfg-options data_root=FOLDER]

Torch only reads annotations and counts here. The library is the one that ``runtime/build.sh`` or REBNN_RUNTIME names.
``tools/test.py CONFIG MODEL.pte`` gives images as the test pipeline prepares them to ExecuTorch's bindings instead.
"""

import argparse
import ctypes
import logging
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import DictAction
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData

from rebnn_mm.deploy.targets.executorch.program import LIBRARY, runtime_folder
from rebnn_mm.integrations.build import read_config, register_scope
from rebnn_mm.integrations.config import scope_of

MOST = 1000  # boxes of an image


class Box(ctypes.Structure):
    """``rebnn_box``."""

    _fields_ = [(name, ctypes.c_float) for name in ("left", "top", "right", "bottom", "score")] + [
        ("label", ctypes.c_int32)
    ]


class Model:
    """A ``rebnn_classifier`` or ``rebnn_detector``."""

    def __init__(self, path: Path, kind: str) -> None:
        self.library = ctypes.CDLL(str(runtime_folder() / LIBRARY))
        self.library.rebnn_error.restype = ctypes.c_char_p
        opened = getattr(self.library, f"rebnn_{kind}_open")
        opened.restype = ctypes.c_void_p
        self.handle = ctypes.c_void_p(self._sound(opened(str(path).encode())))
        self.runs = getattr(self.library, f"rebnn_{kind}_run_file")
        self.classes = getattr(self.library, f"rebnn_{kind}_classes")(self.handle)
        self.kind = kind

    def _sound(self, result: Any) -> Any:
        if result is None or result == -1:
            raise SystemExit(self.library.rebnn_error().decode())
        return result

    def __call__(self, image: str, sample: Any) -> Any:
        """``sample`` with what is in the file ``image``."""
        if self.kind == "classifier":
            scores = (ctypes.c_float * self.classes)()
            label = self._sound(self.runs(self.handle, image.encode(), scores, self.classes))
            return sample.set_pred_score(torch.tensor(list(scores))).set_pred_label(label)
        boxes = (Box * MOST)()
        found = boxes[: self._sound(self.runs(self.handle, image.encode(), boxes, MOST))]
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor([[b.left, b.top, b.right, b.bottom] for b in found]).reshape(-1, 4),
            scores=torch.tensor([b.score for b in found]),
            labels=torch.tensor([b.label for b in found]).long(),
        )
        return sample


def main() -> None:
    """Run each test image, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("model")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    cfg = read_config(args.config, args.cfg_options)
    register_scope(scope_of(cfg))
    model = Model(Path(args.model), "detector" if scope_of(cfg) == "mmdet" else "classifier")
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    begin = time.process_time()
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        evaluator.process(data_samples=[model(str(sample.img_path), sample)])
    took = time.process_time() - begin
    print(
        f"{evaluator.evaluate(len(dataset))}; {1e3 * took / len(dataset):.1f} ms of CPU time an image, with reading it"
    )


if __name__ == "__main__":
    main()
