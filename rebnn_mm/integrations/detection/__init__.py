"""What the detection configs add to mmdet: checked data sets and metrics, distilled detectors.

Importing the package registers them, and the checked loader of images.
"""

from rebnn_mm.integrations.detection.box_masks import BoxMasks
from rebnn_mm.integrations.detection.datasets import CheckedCocoDataset, CheckedVOCDataset
from rebnn_mm.integrations.detection.distill import DistilledSingleStageDetector, DistilledTwoStageDetector
from rebnn_mm.integrations.detection.metrics import CheckedCocoMetric, CheckedVOCMetric
from rebnn_mm.integrations.images import LoadCheckedImage
from rebnn_mm.moved import names_of

__all__ = [
    "BoxMasks",
    "CheckedCocoDataset",
    "CheckedCocoMetric",
    "CheckedVOCDataset",
    "CheckedVOCMetric",
    "DistilledSingleStageDetector",
    "DistilledTwoStageDetector",
    "LoadCheckedImage",
]
__getattr__ = names_of("rebnn_mm.integrations.detection.datasets", __name__)
