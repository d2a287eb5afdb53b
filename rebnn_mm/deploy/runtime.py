"""From a ``.rebnn`` file to a module that runs: with torch alone for a classifier or a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.card import ModelCard, Preprocessing
from rebnn_mm.deploy.format import PackedFile, RebnnFileError, read_file
from rebnn_mm.deploy.network import PackedResNet
from rebnn_mm.deploy.real import full_precision
from rebnn_mm.deploy.record import EXPANSIONS, NetworkRecord
from rebnn_mm.deploy.weights import Weights
from rebnn_mm.errors import UserError


class PackedClassifier(nn.Module):
    """A classifier in 1-bit weights: images -> class scores.

    Args:
        record: Its structure.
        weights: Its tensors.
        card: Class names and preprocessing.
        exact: As for :class:`~rebnn_mm.deploy.network.PackedResNet`.

    Attributes:
        card: What the file tells about the model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, record: NetworkRecord, weights: Weights, card: ModelCard, exact: bool = True) -> None:
        super().__init__()
        if record.classes is None:
            raise UserError("the network record is a backbone, without classes")
        self.card = card
        self.backbone = PackedResNet(record.backbone, weights.at("backbone"), exact)
        features = record.backbone.base_channels * 2 ** max(record.backbone.out_indices)
        features *= EXPANSIONS[record.backbone.block]
        self.fc = nn.Linear(features, record.classes, record.head_bias, device="meta", dtype=torch.float32)
        self.fc.requires_grad_(False)
        self.fc.weight = nn.Parameter(weights.real("head.fc.weight", record.classes, features), requires_grad=False)
        if record.head_bias:
            self.fc.bias = nn.Parameter(weights.real("head.fc.bias", record.classes), requires_grad=False)
        preprocessing = card.preprocessing or Preprocessing((), ())
        if len(preprocessing.mean) not in (0, record.backbone.in_channels):
            raise UserError(f"preprocessing is for {len(preprocessing.mean)} channels, the network for others")
        self.in_channels = record.backbone.in_channels
        if preprocessing.channel_order == "bgr" and self.in_channels != 3:
            raise UserError(f"channel_order 'bgr' is for three channels, the network takes {self.in_channels}")
        self.flips = preprocessing.channel_order == "bgr"
        self.register_buffer("mean", _per_channel(preprocessing.mean))
        self.register_buffer("std", _per_channel(preprocessing.std))

    def forward(self, images: Tensor) -> Tensor:
        """Images -> scores (N, classes) that add up to 1.

        Args:
            images: (N, C, H, W) of any real type, with the pixel values that the network was trained on, 0..255 for
                photos. Three channels are RGB, others in the order of training.
        """
        return self.logits(self.normalize(images)).softmax(dim=1)

    def normalize(self, images: Tensor) -> Tensor:
        """Images as :meth:`forward` takes them -> the network's input, by the file's mean, std and channel order.

        Raises:
            ValueError: Not four dimensions, or other channels than the network's.
        """
        if images.dim() != 4 or images.shape[1] != self.in_channels:
            kind = "C = 3: RGB, 0 to 255" if self.in_channels == 3 else f"C = {self.in_channels}"
            raise UserError(f"images of shape {tuple(images.shape)}: give (N, C, H, W), {kind}")
        images = images.float()  # first: 16-bit images cannot be flipped
        images = images.flip(1) if self.flips else images
        return (images - self.mean) / self.std if self.mean.numel() else images

    def logits(self, x: Tensor) -> Tensor:
        """The trained model's forward: normalized input (N, C, H, W) -> (N, classes) before the softmax."""
        # contiguous before pooling, as trained: over channels-last memory torch adds in another order
        features = self.backbone(x)[-1].contiguous().mean((2, 3))
        with full_precision():
            return self.fc(features)


def _per_channel(values: Sequence[float]) -> Tensor:
    """(C, 1, 1) float32 on the CPU, whatever torch's defaults are."""
    return torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1)


def load_model(path: str | Path, model: nn.Module | None = None, exact: bool = True) -> nn.Module:
    """Load a file for inference on the CPU.

    A classifier file gives a :class:`PackedClassifier` and a backbone file a
    :class:`~rebnn_mm.deploy.network.PackedResNet`: both need torch and numpy only. Any other file is built from its
    config by mmdet or mmpretrain (:func:`rebnn_mm.integrations.packed.load_packed_model`), or put into ``model``.

    Args:
        path: Written by :func:`rebnn_mm.deploy.export_model`.
        model: A model of the same architecture, with any weights: it is changed to the packed one and
            returned. For models of your own that no config describes.
        exact: Give the trained model's bits; False allows a faster memory layout in real-valued layers.

    Raises:
        FileNotFoundError: ``path`` is no file.
        RebnnFileError: The file is damaged, or its parts do not fit each other or ``model``.
        ModuleNotFoundError: The file needs mmdet or mmpretrain, which is not installed.
    """
    file = read_file(path)
    if model is not None:
        from rebnn_mm.deploy.pack import pack_model

        return pack_model(model, file, exact)
    if file.info.get("network") is not None:
        return build_network(file, exact)
    if not isinstance(file.info.get("config"), dict):
        raise RebnnFileError(f"{path} holds neither a network record nor a config: give load_model(path, model=...)")
    from rebnn_mm.integrations.packed import load_packed_model

    return load_packed_model(path, exact=exact)


def build_network(file: PackedFile, exact: bool = True) -> PackedClassifier | PackedResNet:
    """The network of a file that has a record of it.

    Raises:
        RebnnFileError: Record, card and tensors do not fit each other.
    """
    weights = Weights(file)
    network: Any
    try:
        record = NetworkRecord.from_plain(file.info["network"])
        card = ModelCard.from_plain(file.info)
        if record.classes is None:
            network = PackedResNet(record.backbone, weights, exact)
        else:
            network = PackedClassifier(record, weights, card, exact)
    except RebnnFileError:
        raise
    except ValueError as error:
        raise RebnnFileError(f"the file's header does not describe a network: {error}") from None
    weights.check_all_used()
    return network.eval()
