"""A small classifier's file without a config, as a network of one's own gives it."""

from pathlib import Path

import torch
from torch import nn

from rebnn_mm.deploy import Check, ModelCard, Preprocessing, export_model
from rebnn_mm.layers import ReBNNConv2d


class Reddest(nn.Module):
    """Two classes of RGB images by what is more, red or blue; a 1-bit layer behind it that decides nothing."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 2, 1, bias=False)
        self.first.weight.data = torch.tensor([[1.0, 0, -1], [-1, 0, 1]]).view(2, 3, 1, 1)
        self.second = ReBNNConv2d(2, 2, 1, bias=False)
        self.second.alpha.data.fill_(1e-3)

    def forward(self, images):
        x = self.first(images)
        return (x + self.second(x)).mean((2, 3))


def export_plain_classifier(path: Path, classes=("red", "blue"), size=(24, 32)):
    """Write it to ``path``."""
    card = ModelCard(classes=classes, preprocessing=Preprocessing((127.0,) * 3, (60.0,) * 3, size=size))
    return export_model(Reddest().eval(), path, card, Check([torch.randn(1, 3, *size)]))
