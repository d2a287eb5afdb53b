"""Reading images for mmdet and mmpretrain, and drawing them; importing it registers the checked loader."""

from rebnn_mm.integrations.images.loading import LoadCheckedImage
from rebnn_mm.moved import names_of

__all__ = ["LoadCheckedImage"]
__getattr__ = names_of("rebnn_mm.integrations.images.pipeline", __name__)
