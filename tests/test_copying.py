import torch
from torch import nn

from rebnn_mm.copying import copy_model


class Keeps(nn.Module):
    """Keeps what it computed, and its eval() returns nothing, as a head and a distiller of mmdet do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        self.last = self.linear(x)
        return self.last

    def eval(self):
        super().eval()


def test_what_a_model_computed_is_copied_without_its_history():
    model, x = Keeps(), torch.randn(2, 3)
    model(x)
    copied = copy_model(model)
    assert copied.last.grad_fn is None and torch.equal(copied.last, model.last) and model.last.grad_fn is not None
    assert not copied.training and model.training
    assert not any(p.requires_grad for p in copied.parameters()) and all(p.requires_grad for p in model.parameters())
    assert torch.equal(copied(x), model(x))
