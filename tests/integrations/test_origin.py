"""What a file says of its own config, held beside the config that it is used with."""

from pathlib import Path

import pytest

pytest.importorskip("mmpretrain")

from rebnn_mm.deploy import ModelCard, export_model
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.errors import UserError
from rebnn_mm.integrations.build import read_config
from rebnn_mm.integrations.origin import refuse_other_model
from rebnn_mm.integrations.packed import load_packed_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = {"model.backbone.base_channels": 8, "model.head.in_channels": 64}


def config(name="resnet18_rebnn_cifar10.py", **options):
    return read_config(CONFIGS / name, {**SMALL, **options})


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
    assert load_packed_model(packed, cfg).cfg is cfg
    with pytest.raises(UserError, match="another model"):
        refuse_other_model(packed, read_file(packed), cfg, whole=True)


def test_a_file_without_a_config_may_be_any_models(classifier, tmp_path):
    export_model(classifier(stem="cifar", base_channels=8), tmp_path / "m.rebnn")
    refuse_other_model("m.rebnn", read_file(tmp_path / "m.rebnn"), config(**{"model.backbone.depth": 34}))
