"""From a ``.rebnn`` file to a module that runs: with torch alone, if the file holds the whole network as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rebnn_mm.builders import build_from_config
from rebnn_mm.deploy.file.card import ModelCard, Preprocessing
from rebnn_mm.deploy.file.container import PackedFile, RebnnFileError, read_file
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.model.weights import Weights, graphs_of
from rebnn_mm.errors import UserError


class PackedClassifier(nn.Module):
    """A classifier of images in 1-bit weights: images -> class scores.

    Args:
        network: Normalized images, (N, C, H, W) -> (N, classes).
        card: Class names and preprocessing.

    Attributes:
        card: What the file tells about the model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: GraphNetwork, card: ModelCard) -> None:
        super().__init__()
        self.card = card
        self.network = network
        preprocessing = card.preprocessing or Preprocessing((), ())
        if [len(spec.shape) for spec in network.inputs] != [4]:
            raise UserError("a classifier takes images, (N, C, H, W), and the network does not")
        self.in_channels = network.inputs[0].shape[1]
        if len(preprocessing.mean) not in (0, self.in_channels):
            raise UserError(f"preprocessing is for {len(preprocessing.mean)} channels, the network for others")
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
            UserError: Not four dimensions, or other channels than the network's.
        """
        if images.dim() != 4 or images.shape[1] != self.in_channels:
            kind = "C = 3: RGB, 0 to 255" if self.in_channels == 3 else f"C = {self.in_channels}"
            raise UserError(f"images of shape {tuple(images.shape)}: give (N, C, H, W), {kind}")
        images = images.float()  # first: 16-bit images cannot be flipped
        images = images.flip(1) if self.flips else images
        return (images - self.mean) / self.std if self.mean.numel() else images

    def logits(self, x: Tensor) -> Tensor:
        """The trained model's forward: normalized input (N, C, H, W) -> (N, classes) before the softmax."""
        return self.network(x)


def _per_channel(values: Sequence[float]) -> Tensor:
    """(C, 1, 1) float32 on the CPU, whatever torch's defaults are."""
    return torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1)


def load_model(path: str | Path, model: nn.Module | None = None, exact: bool = True) -> nn.Module:
    """Load a file for inference on the CPU.

    A classifier's file gives a :class:`PackedClassifier`, that of another network which is a graph as a whole (a
    backbone, BERT, a network of your own) a :class:`~rebnn_mm.deploy.graph.network.GraphNetwork`: both need torch and
    numpy only. Any other file, a detector's, is built from its config by mmdet
    (:func:`rebnn_mm.integrations.packed.load_packed_model`), or put into ``model``.

    Args:
        path: Written by :func:`rebnn_mm.deploy.export_model`.
        model: A model of the same architecture, with any weights: it is changed to the packed one and
            returned. For models of your own that are no graph and that no config describes.
        exact: Give the trained model's bits (of a file with rounded weights, the bits that those give in float); False
            allows a faster memory layout and folded norms in real-valued layers, and computes linear ones with weights
            in 8 bits on integers, their inputs rounded likewise.

    Raises:
        MissingFileError: ``path`` is no file.
        RebnnFileError: The file is damaged, or its parts do not fit each other or ``model``.
        ModuleNotFoundError: The file needs mmdet, which is not installed.
    """
    file = read_file(path)
    if model is not None:
        from rebnn_mm.deploy.model.pack import pack_model

        return pack_model(model, file, exact)
    if "whole" in file.info:
        return build_network(file, exact)
    if not isinstance(file.info.get("config"), dict):
        raise RebnnFileError(f"{path} holds neither a whole graph nor a config: give load_model(path, model=...)")
    return build_from_config(Path(path), exact)


def load_parts(path: str | Path, exact: bool = True) -> dict[str, GraphNetwork]:
    """The parts of a file that are graphs, by their names in the model: of a detector its backbone and its neck.

    They need torch and numpy only. Arguments and errors are those of :func:`load_model`.
    """
    file = read_file(path)
    return {name: Weights(file).at(name).network(record, exact) for name, record in graphs_of(file).items()}


def build_network(file: PackedFile, exact: bool = True) -> PackedClassifier | GraphNetwork:
    """The network of a file that is one graph as a whole.

    Raises:
        RebnnFileError: Record, card and tensors do not fit each other.
    """
    weights, whole = Weights(file), file.info["whole"]
    part = whole.get("part") if isinstance(whole, dict) else None
    if not isinstance(part, str) or part not in graphs_of(file):
        raise RebnnFileError(f"the file names {whole!r} as its whole network, which is none of its graphs")
    network = weights.at(whole["part"]).network(graphs_of(file)[whole["part"]], exact)
    weights.check_all_used()
    if whole.get("kind") != "classifier":
        return network.eval()
    try:
        return PackedClassifier(network, ModelCard.from_plain(file.info)).eval()
    except ValueError as error:
        raise RebnnFileError(f"the file's header does not describe a classifier: {error}") from None
