"""The only modules that import mmdet, mmpretrain or transformers; none is imported by ``import rebnn_mm``."""
