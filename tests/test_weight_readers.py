"""Layers whose weight is read past their forward, or that a model never calls, stay real-valued with a reason."""

import pytest
import torch
from torch import nn

from rebnn_mm.convert import binarize
from rebnn_mm.layers import BinaryLayer, binary_layers
from rebnn_mm.weight_readers import weight_readers


class Reader(nn.Module):
    """Every layer but ``called`` is read in another way."""

    def __init__(self):
        super().__init__()
        self.called, self.forwarded, self.helped, self.owned = (nn.Linear(4, 4) for _ in range(4))
        self.inner = nn.Sequential()
        self.inner.deep = nn.Linear(4, 4)
        self._init_weights()

    def _init_weights(self):
        nn.init.normal_(self.called.weight)

    def forward(self, x):
        x = self.called(x.to(self.called.weight.dtype))
        x = nn.functional.linear(x, self.forwarded.weight)
        x = self.help(x) @ self.own
        return x @ self.inner.deep.weight

    def help(self, x):
        return x @ self.helped.weight.t()

    @property
    def own(self):
        return self.owned.weight


class Below(Reader):
    def forward(self, x):
        return super().forward(x) + 1


class Alone(Reader):
    def forward(self, x):
        for layer in (self.forwarded, self.helped, self.owned, self.inner.deep):
            x = layer(x)
        return self.called(x)


class Aliased(nn.Module):
    """The source does not tell it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        first, second = self.layers[:2]
        return second(x @ first.weight)


READ = {"forwarded", "helped", "owned", "inner.deep"}


@pytest.mark.parametrize("kind", [Reader, Below])
def test_reading_is_found_in_the_source(kind):
    model = nn.Sequential(kind())
    assert weight_readers(model) == {f"0.{name}": kind.__name__ for name in READ}
    report = binarize(model, include="0", input_norm=False)
    assert set(report.replaced) == {"0.called"} == set(binary_layers(model))
    assert all(f"{kind.__name__} reads its weight itself" in report.kept[f"0.{name}"] for name in READ)


def test_a_method_that_is_not_used_reads_nothing():
    assert weight_readers(Alone()) == {}
    assert len(binarize(Alone(), include="*", input_norm=False).replaced) == 5


def samples(x):
    return (x, (x,), dict(x=x), lambda model: model(x))


@pytest.mark.parametrize("which", range(4))
def test_a_sample_tells_what_is_not_called(which):
    model = Aliased()
    parameters = dict(model.named_parameters())
    x = torch.randn(8, 4)
    report = binarize(model, include="layers", input_norm=False, sample=samples(x)[which])
    assert set(report.replaced) == {"layers.1"} == set(binary_layers(model))
    assert set(report.kept) == {"layers.0", "layers.2"}
    assert all("does not call it on the sample" in why for why in report.kept.values())
    assert all(parameters[name] is dict(model.named_parameters())[name] for name in parameters)
    assert model.training and all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules() if not isinstance(module, BinaryLayer))


def test_a_sample_that_fails_leaves_no_hook_and_the_mode():
    from torch.nn.modules.module import _global_forward_pre_hooks

    model = Aliased()
    with pytest.raises(RuntimeError):
        binarize(model, include="layers", input_norm=False, sample=torch.randn(8, 5))
    assert model.training and not _global_forward_pre_hooks and not binary_layers(model)


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_encoder_layer_computes_the_same_in_both_modes(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=norm_first)
    model = nn.Sequential(layer, nn.Linear(16, 16), nn.Linear(16, 2))
    report = binarize(model, input_norm=False, keep_first=False, types="Linear")
    assert set(report.replaced) == {"0.linear1", "0.linear2", "1"}
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), model.train()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t", "resnet18", "mobilenet_v3_small"])
def test_every_layer_that_torchvision_models_report_is_called(name):
    torchvision = pytest.importorskip("torchvision")
    model = getattr(torchvision.models, name)(num_classes=5).eval()
    report = binarize(model, input_norm=False)
    called = set()
    for path, module in model.named_modules():
        module.register_forward_hook(lambda module, args, output, path=path: called.add(path))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert set(report.replaced) <= called


def test_a_weight_shared_with_an_embedding_stays_real_valued():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body, self.head = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
            self.again = nn.Linear(4, 6, bias=False)
            self.head.weight = self.again.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.body(self.embed(x))) + self.again(self.embed(x))

    model = Language()
    report = binarize(model, include="*", input_norm=False)
    assert set(report.replaced) == {"body"}
    assert report.kept["head"] == report.kept["again"] == "shares its weight with embed, which stays real-valued"
