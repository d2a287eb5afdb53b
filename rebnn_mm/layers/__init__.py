"""Layers with 1-bit weights and activations, one paper a file, and the two learnable activations around them."""

from rebnn_mm.layers.activations import ChannelShift, RPReLU
from rebnn_mm.layers.base import BinaryConv2d, BinaryLinear
from rebnn_mm.layers.bireal import BiRealConv2d, BiRealLinear
from rebnn_mm.layers.bnn import SignConv2d, SignLinear
from rebnn_mm.layers.fused import composed
from rebnn_mm.layers.interface import BinaryLayer, binary_layers
from rebnn_mm.layers.irnet import IRNetConv2d, IRNetLinear
from rebnn_mm.layers.norm import InputLayerNorm, InputNorm
from rebnn_mm.layers.react import ReActConv2d, ReActLinear
from rebnn_mm.layers.rebnn import ReBNNConv2d, ReBNNLinear
from rebnn_mm.layers.recu import ReCUConv2d, ReCULayer, ReCULinear
from rebnn_mm.layers.xnor import XNORConv2d, XNORLinear

__all__ = [
    "BiRealConv2d",
    "BiRealLinear",
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "ChannelShift",
    "IRNetConv2d",
    "IRNetLinear",
    "InputLayerNorm",
    "InputNorm",
    "RPReLU",
    "ReActConv2d",
    "ReActLinear",
    "ReBNNConv2d",
    "ReBNNLinear",
    "ReCUConv2d",
    "ReCULayer",
    "ReCULinear",
    "SignConv2d",
    "SignLinear",
    "XNORConv2d",
    "XNORLinear",
    "binary_layers",
    "composed",
]
