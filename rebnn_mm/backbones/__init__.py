"""Backbones of 1-bit blocks, for mmdet and mmpretrain alike."""

from rebnn_mm.backbones.mobilenet import ReBNNMobileNet
from rebnn_mm.backbones.resnet import ReBNNResNet

__all__ = ["ReBNNMobileNet", "ReBNNResNet"]
