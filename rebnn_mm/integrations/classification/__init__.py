"""What the classification configs add to mmpretrain: a checked data set, a distilled classifier.

Importing the package registers them, and the checked loader of images.
"""

from rebnn_mm.integrations.classification.datasets import CheckedImageFolder
from rebnn_mm.integrations.classification.distill import DistilledClassifier
from rebnn_mm.integrations.classification.shards import ShardedImages
from rebnn_mm.integrations.images import LoadCheckedImage
from rebnn_mm.moved import names_of

__all__ = ["CheckedImageFolder", "DistilledClassifier", "LoadCheckedImage", "ShardedImages"]
__getattr__ = names_of("rebnn_mm.integrations.classification.datasets", __name__)
