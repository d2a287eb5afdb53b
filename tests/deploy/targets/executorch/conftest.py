"""Small networks, fused, and their edge form; the C++ library and program."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from cpp_runtime import PIXELS, ROOT, SIZE, build_runtime, write_ppm
from graph_toys import settle
from torch import nn

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.deploy import Check, ModelCard, Preprocessing, export_model
from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.lower import lower
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.targets.executorch.edge import edge_form
from rebnn_mm.deploy.targets.executorch.export import export_executorch
from rebnn_mm.deploy.targets.executorch.lowering import as_taken


@pytest.fixture
def edge():
    """``edge(module, *inputs)``: (the packed network, its edge form, inputs as programs take them)."""

    def make(module, *inputs):
        batch = [torch.cat([x, x]) for x in inputs]
        traced = fuse(capture(lower(copy.deepcopy(module)), batch))
        network = GraphNetwork(encode(traced), traced.tensors, exact=False)
        taken = [as_taken(x) for x in inputs]
        return network, edge_form(network.traced(), taken), taken

    return make


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Folder with the C++ library and program."""
    if "REBNN_RUNTIME" in os.environ:
        yield Path(os.environ["REBNN_RUNTIME"])
        return
    folder = tmp_path_factory.mktemp("runtime")
    done = build_runtime(folder)
    assert done.returncode == 0, done.stderr
    os.environ["REBNN_RUNTIME"] = str(folder)
    yield folder
    del os.environ["REBNN_RUNTIME"]


class Small(nn.Module):
    def __init__(self, classes=7):
        super().__init__()
        self.backbone, self.head = ReBNNResNet(18, base_channels=8), nn.Linear(64, classes)

    def forward(self, x):
        (y,) = self.backbone(x)
        return self.head(y.mean((2, 3)))


@pytest.fixture(scope="session")
def files(built, tmp_path_factory):
    """(packed file, its program) of two classifiers, and the first one's image as PPM."""
    folder = tmp_path_factory.mktemp("files")
    made = []
    for number in range(2):
        torch.manual_seed(number)
        model = settle(Small(7 + number), number)
        card = ModelCard(
            classes=tuple(f"class {i}" for i in range(7 + number)),
            preprocessing=Preprocessing((100.0, 110.0, 120.0), (50.0, 55.0, 60.0), ("rgb", "bgr")[number], (64, 96)),
        )
        export_model(model, folder / f"{number}.rebnn", card, Check([torch.randn(1, 3, 64, 96)]))
        report = export_executorch(folder / f"{number}.rebnn", folder / f"{number}.pte")
        made.append((folder / f"{number}.rebnn", folder / f"{number}.pte", report))
    return made


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """(path of a PPM, its pixels)."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    return write_ppm(tmp_path_factory.mktemp("image") / "a.ppm", pixels), pixels


@pytest.fixture(scope="session")
def exported(built, tmp_path_factory):
    """``exported(config, options, spread)``: (the packed detector, normalized PIXELS, its program); ``spread`` has the
    last layers to be drawn anew, with the deviation of their weights."""
    pytest.importorskip("mmdet")
    from rebnn_mm.integrations.build import build_model, read_config
    from rebnn_mm.integrations.executorch import export_detector
    from rebnn_mm.integrations.packed import load_packed_model
    from rebnn_mm.workflows.export import parts_of, preprocessing_of

    def make(config, options, spread, **choice):
        folder = tmp_path_factory.mktemp("detector")
        cfg = read_config(ROOT / f"configs/{config}.py", options)
        torch.manual_seed(0)
        model = settle(build_model(cfg))
        generator = torch.Generator().manual_seed(3)
        for layer, deviation in spread.items():
            model.get_submodule(layer).weight.data.normal_(0, deviation, generator=generator)
        classes = tuple(f"class {i}" for i in range(80))
        card = ModelCard(config=cfg.to_dict(), preprocessing=preprocessing_of(cfg, model), classes=classes)
        export_model(model, folder / "a.rebnn", card, parts=parts_of(cfg, model))
        make.report = export_detector(folder / "a.rebnn", folder / "a.pte", SIZE, **choice)
        mean, std = (torch.tensor(n) for n in (card.preprocessing.mean, card.preprocessing.std))
        order = -1 if card.preprocessing.channel_order == "bgr" else 1
        x = ((torch.from_numpy(PIXELS[..., ::order].copy()) - mean) / std).permute(2, 0, 1)[None].float()
        return load_packed_model(folder / "a.rebnn"), x, folder / "a.pte"

    return make
