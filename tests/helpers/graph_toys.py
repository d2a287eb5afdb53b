"""Networks as training leaves them, and the operators of their graphs."""

import torch
from torch import nn

from rebnn_mm.deploy.graph.parts import Part
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.layers import ReBNNConv2d


def settle(module, seed=0):
    """Norms, slopes and shifts as training leaves them: different in every channel, of both signs."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            if part.weight is not None:
                part.weight.data.normal_(0.5, 1, generator=generator)
                part.bias.data.normal_(0, 0.3, generator=generator)
        for name, value in part.named_parameters(recurse=False):
            if name in ("shift", "bias") and value.dim() == 1:
                value.data.normal_(0, 0.3, generator=generator)
            if isinstance(part, nn.PReLU):
                value.data.uniform_(-0.2, 0.5, generator=generator)
    return module.eval()


class TwoParts(nn.Module):
    """A detector's backbone and neck: a model that is no graph as a whole. :meth:`parts` are what a file holds."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), ReBNNConv2d(8, 8, 3))
        self.neck = nn.Sequential(ReBNNConv2d(8, 4, 3))

    def forward(self, x):
        return [box.tolist() for box in self.neck(self.backbone(x))]

    @staticmethod
    def parts():
        return [Part("backbone", [torch.randn(2, 3, 20, 20)]), Part("neck", [torch.randn(2, 8, 16, 16)])]


def names(traced):
    """Names of the operators that a graph calls, in order."""
    return [row[0] for row in encode(traced)["nodes"]]
