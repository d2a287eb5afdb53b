import pytest
import torch
from mmengine.model import BaseModel

from rebnn_mm.hooks import LatentClipHook
from rebnn_mm.layers import ReActConv2d


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = ReActConv2d(1, 4, (1, 2))
        self.frozen = ReActConv2d(4, 4, 1)
        self.plain = torch.nn.Conv2d(4, 4, 1)
        torch.nn.init.constant_(self.plain.weight, 3.0)
        torch.nn.init.constant_(self.frozen.weight, 3.0).requires_grad_(False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([-4.0, 4.0, 0.25, -0.25, 2.0, 0.5, -0.1, -9.0]).view(4, 1, 1, 2))

    def forward(self, x, mode="loss"):
        return dict(loss=self.plain(self.frozen(self.conv(torch.stack(x)[:, None, None]))).square().mean())


@pytest.mark.parametrize("limit", [1, 0.5])
def test_latent_weights_stay_within_the_limit(make_runner, limit):
    free, held = Toy(), Toy()
    make_runner(model=free, epochs=1).train()
    assert free.conv.weight.abs().max() > 4
    make_runner(model=held, hooks=[LatentClipHook(limit)], epochs=1).train()
    assert held.conv.weight.abs().max() == limit
    assert (held.frozen.weight == 3).all()  # it does not learn: nobody asked to move it
    assert held.plain.weight.abs().max() > 2  # real-valued layers are left alone


@pytest.mark.parametrize("limit", [0, -1, float("inf"), float("nan"), True, "1"])
def test_refused_limits(limit):
    with pytest.raises(ValueError, match="limit=.* must be a finite number > 0"):
        LatentClipHook(limit)


def test_a_model_without_1_bit_layers(make_runner):
    model = Toy()
    model.conv.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="no 1-bit layer whose weight learns"):
        make_runner(model=model, hooks=[LatentClipHook()], epochs=1).train()


def test_two_of_them(make_runner):
    with pytest.raises(ValueError, match="LatentClipHook is there 2 times"):
        make_runner(model=Toy(), hooks=[LatentClipHook(), LatentClipHook()], epochs=1).train()
