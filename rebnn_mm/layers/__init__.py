"""Layers with 1-bit weights and activations, and the two learnable activations around them."""

from rebnn_mm.layers.activations import ChannelShift, RPReLU
from rebnn_mm.layers.interface import BinaryLayer, binary_layers
from rebnn_mm.layers.rebnn import ReBNNConv2d, ReBNNLinear

__all__ = ["BinaryLayer", "ChannelShift", "RPReLU", "ReBNNConv2d", "ReBNNLinear", "binary_layers"]
