"""What a file says of its own config, held beside the config that it is used with."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmpretrain")

from rebnn_mm.deploy import ModelCard, export_model
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.errors import UserError
from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.integrations.checkpoint import load_weights
from rebnn_mm.integrations.origin import load_trained, refuse_other_model
from rebnn_mm.integrations.packed import load_packed_model
from rebnn_mm.workflows.export import export_config
from rebnn_mm.workflows.inference import Inferencer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = {"model.backbone.base_channels": 8, "model.head.in_channels": 64}


def config(name="resnet18_rebnn_cifar10.py", **options):
    return read_config(CONFIGS / name, {**SMALL, **options})


def of(method):
    return config(f"resnet18_{method}_cifar10.py")


def checkpoint_of(cfg):
    """What mmengine saves, as far as it is read here."""
    return dict(state_dict=build_model(cfg).state_dict(), meta=dict(cfg=cfg.pretty_text))


@pytest.fixture
def packed(classifier, tmp_path):
    """A file of the small CIFAR network, with its config."""
    card = ModelCard(config=config().to_dict())
    export_model(classifier(stem="cifar", base_channels=8), tmp_path / "m.rebnn", card)
    return tmp_path / "m.rebnn"


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"model.backbone.depth": 34}, "model.backbone.depth was 18 and is 34"),
        ({"model.backbone.conv_cfg.type": "ReActConv2d"}, "conv_cfg.type was 'ReBNNConv2d' and is 'ReActConv2d'"),
        ({"model.head.num_classes": 3}, "model.head.num_classes was 10 and is 3"),
    ],
    ids=str,
)
def test_a_packed_classifier_is_refused_under_another_models_config(packed, options, difference):
    with pytest.raises(UserError, match=f"m.rebnn was exported from another model than the config's .*{difference}"):
        load_packed_model(packed, config(**options))


def test_what_no_network_depends_on_may_differ(packed):
    cfg = config(**{"model.head.topk": (1,), "model.head.loss.loss_weight": 2.0, "model.train_cfg": dict(augments=[])})
    distilled = dict(type="DistilledClassifier", teacher=dict(config="t.py", checkpoint="t.pth"), label_weight=0.5)
    cfg.merge_from_dict(dict(model=distilled))
    cfg.merge_from_dict({"model.backbone.norm_eval": True, "model.backbone.frozen_stages": -1})
    assert load_packed_model(packed, cfg).cfg is cfg
    with pytest.raises(UserError, match="another model"):
        refuse_other_model(packed, read_file(packed), cfg, whole=True)


def test_a_file_without_a_config_may_be_any_models(classifier, tmp_path):
    export_model(classifier(stem="cifar", base_channels=8), tmp_path / "m.rebnn")
    refuse_other_model("m.rebnn", read_file(tmp_path / "m.rebnn"), config(**{"model.backbone.depth": 34}))


@pytest.mark.parametrize(
    ("trained", "used", "message"),
    [
        ("react", "rebnn", "ReActConv2d trained a.pth, and the config's model has ReBNNConv2d: give the config"),
        ("rebnn", "react", "ReBNNConv2d trained a.pth, and the config's model has ReActConv2d"),
        ("bnn", "xnor", "SignConv2d trained a.pth, and the config's model has XNORConv2d"),
        ("rebnn", "real", "ReBNNConv2d trained a.pth, and the config's model has no 1-bit layers"),
    ],
)
def test_a_checkpoint_of_another_method_is_refused(trained, used, message):
    cfg, weights = of(used), checkpoint_of(of(trained))
    with pytest.raises(UserError, match=message):
        load_trained(build_model(cfg), weights, "a.pth", cfg)


def test_a_method_that_its_config_does_not_name_shows_by_its_scales():
    unnamed = config()
    del unnamed.model.backbone.conv_cfg  # the backbone's default is ReBNN's
    weights = checkpoint_of(unnamed)
    load_trained(build_model(config()), weights, "a.pth", config())
    with pytest.raises(UserError, match="a learned scale .backbone.layer1.0.unit.conv.alpha. trained a.pth"):
        load_trained(build_model(of("react")), weights, "a.pth", of("react"))


def test_checkpoints_that_fit_or_say_nothing_are_loaded():
    cfg = of("react")
    own, real, converted = checkpoint_of(cfg), checkpoint_of(of("real")), checkpoint_of(of("rebnn"))["state_dict"]
    for weights in (own, dict(own, meta=dict(cfg="no = 'Python")), real, dict(state_dict=converted, meta={})):
        load_trained(build_model(cfg), weights, "a.pth", cfg)


def test_the_layers_of_a_teacher_are_its_own():
    cfg = of("react")
    weights = checkpoint_of(cfg)
    teacher = dict(config=of("bnn").model, checkpoint="t.pth")
    cfg.merge_from_dict(dict(model=dict(type="DistilledClassifier", teacher=teacher)))
    weights["meta"]["cfg"] = cfg.pretty_text
    load_trained(build_model(of("react")), weights, "a.pth", of("react"))


def test_classes_and_names_of_packages_are_layers_types_as_well():
    cfg = of("react")
    weights = checkpoint_of(cfg)
    for written in ("rebnn_mm.layers.bnn.SignConv2d", "'rebnn_mm.SignConv2d'"):
        weights["meta"]["cfg"] = f"model = dict(backbone={{'conv_cfg': dict(type={written}), 'x': [1]}})"
        with pytest.raises(UserError, match="^SignConv2d trained"):
            load_trained(build_model(cfg), weights, "a.pth", cfg)


def test_export_and_inference_refuse_another_method(tmp_path):
    torch.save(checkpoint_of(of("react")), tmp_path / "a.pth")
    assert load_weights(tmp_path / "a.pth")["meta"]["cfg"]
    message = "ReActConv2d trained .*a.pth, and the config's model has ReBNNConv2d"
    with pytest.raises(UserError, match=message):
        export_config(config(), tmp_path / "a.pth", tmp_path / "m.rebnn")
    with pytest.raises(UserError, match=message):
        Inferencer(config(), tmp_path / "a.pth", "cpu")
    assert not (tmp_path / "m.rebnn").exists()
