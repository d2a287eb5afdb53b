"""Every config in configs/ builds its model, optimizer wrapper settings and names its own command."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import nn

from rebnn_mm.integrations.build import read_config
from rebnn_mm.layers import binary_layers

ROOT = Path(__file__).parents[1]
LEAVES = sorted((ROOT / "configs").glob("*.py"))
if find_spec("transformers") is None:
    LEAVES = [path for path in LEAVES if "_glue_" not in path.name]
# the others have real-valued weights on purpose
NAMING_A_METHOD = [
    p for p in LEAVES if "_base_/methods/" in p.read_text() and "_real_" not in p.name and "_stage1" not in p.name
]


def build(name, **overrides):
    cfg = Config.fromfile(ROOT / "configs" / name)
    cfg.merge_from_dict(overrides)
    import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(cfg.default_scope)
    # BERT-base without its numbers: drawing them takes five seconds
    with torch.device("meta" if "_base_glue_" in str(name) else "cpu"):
        return MODELS.build(cfg.model)


def kinds_of(path):
    """Which of a method's layers a leaf takes."""
    if any(word in path.name for word in ("_glue_", "deit_", "swin_")):
        return ["binary_linear"]
    return ["binary_conv", "binary_linear"] if "_fast_" in path.name else ["binary_conv"]


def parents(path):
    """Files of ours that ``path`` names in ``_base_``."""
    (names,) = re.findall(r"^_base_ = (\[.*?\]|'.*?')$", path.read_text(), re.DOTALL | re.MULTILINE) or ("",)
    return [path.parent / name for name in re.findall(r"'([^']+)'", names) if "::" not in name]


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)
def test_everything_stands_in_the_leaf_and_at_most_two_base_files_deep(path):
    assert all("_base_" in parent.parts for parent in parents(path))
    assert not [last for first in parents(path) for second in parents(first) for last in parents(second)]


@pytest.mark.slow
@pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)
def test_config_builds_and_starts_with_its_command(path):
    assert re.match(rf"# (python tools/train.py|tools/dist_train.sh) configs/{path.name}\b", path.read_text())
    cfg = Config.fromfile(path)
    model = build(path.name)
    hooks = [hook["type"] for hook in cfg.get("custom_hooks", [])]
    real = "_real_" in path.name or "_stage1" in path.name  # stage one: real-valued weights
    assert bool(binary_layers(model)) == (not real)
    layers = {type(layer).__name__ for layer in binary_layers(model).values()}
    assert layers == ({cfg[kind].type for kind in kinds_of(path)} if binary_layers(model) else set())
    own = {"ReBNN": "BalanceHook", "IRNet": "EDEHook", "ReCU": "ReCUHook"}
    expected = {hook for name, hook in own.items() if any(layer.startswith(name) for layer in layers)}
    assert set(hooks) & set(own.values()) == expected
    assert cfg.auto_scale_lr.base_batch_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("path", NAMING_A_METHOD, ids=lambda p: p.stem)
def test_another_method_is_one_word(path, tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    leaf = tmp_path / "configs" / path.name
    leaf.write_text(re.sub(r"methods/\w+\.py", "methods/irnet.py", path.read_text()))
    cfg = Config.fromfile(leaf)
    student = {key: value for key, value in cfg.model.to_dict().items() if key != "teacher"}
    types = set(re.findall(r"'type': '(\w*(?:Conv2d|Linear))'", str(student)))
    expected = {dict(binary_conv="IRNetConv2d", binary_linear="IRNetLinear")[kind] for kind in kinds_of(path)}
    assert types <= expected and "EDEHook" in [hook["type"] for hook in cfg.custom_hooks]
    assert {type(layer).__name__ for layer in binary_layers(build(leaf)).values()} == expected


CHECKED = {
    "mmdet": ({"CheckedVOCDataset", "CheckedCocoDataset"}, "LoadCheckedImage"),
    "mmpretrain": ({"CheckedImageFolder"}, "LoadCheckedImage"),
    "mmengine": ({"GlueDataset"}, None),  # texts
}


def parts(value, key):
    """All dicts within ``value`` that have ``key``."""
    if isinstance(value, dict):
        yield from [value] if key in value else []
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from parts(item, key)


def data_sets(loader):
    """The data sets of a loader, without those that join others."""
    return [part for part in parts(loader["dataset"], "type") if "ann_file" in part or "data_root" in part]


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)
def test_config_checks_its_data(path):
    cfg = read_config(path)
    types, loading = CHECKED[cfg.default_scope]
    for split in ("train", "val", "test"):
        found = data_sets(cfg[f"{split}_dataloader"])
        assert found and {data["type"] for data in found} <= types, split
        for data in found if loading else ():
            assert data["pipeline"][0]["type"] == loading, split
    # a stock metric would not know what CheckedCocoDataset mended, nor the names of CheckedVOCDataset
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator["type"] not in ("CocoMetric", "VOCMetric")
    folders = [data for data in data_sets(cfg.val_dataloader) if data["type"] == "CheckedImageFolder"]
    assert all(data["same_classes_as"] == "train" for data in folders)


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)
def test_config_resumes_exactly_and_stops_at_nan(path):
    cfg = read_config(path)
    assert cfg.train_dataloader.worker_init_fn == dict(type="seed_worker")
    assert not any(cfg[f"{split}_dataloader"].get("persistent_workers") for split in ("train", "val", "test"))
    assert cfg.randomness.seed is not None and not cfg.resume
    hooks = [hook["type"] for hook in [*cfg.default_hooks.values(), *cfg.get("custom_hooks", [])]]
    for name in ("EpochSeedHook", "FiniteLossHook", "ResilientCheckpointHook"):
        assert hooks.count(name) == 1, name
    assert cfg.default_hooks.checkpoint.type == "ResilientCheckpointHook"
    assert cfg.default_hooks.checkpoint.save_best and cfg.default_hooks.checkpoint.max_keep_ckpts
    assert cfg.auto_scale_lr.base_batch_size > 0 and not cfg.auto_scale_lr.get("enable")


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)
def test_custom_hooks_of_a_user_keep_the_hooks_of_every_run(path, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(f"_base_ = ['{path}']\ncustom_hooks = [dict(type='EMAHook')]\n")
    assert {"EpochSeedHook", "FiniteLossHook"} <= {hook["type"] for hook in read_config(mine).default_hooks.values()}


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)
def test_data_root_reaches_every_split_and_the_evaluator(path):
    before = read_config(path).data_root
    cfg = read_config(path, {"data_root": "elsewhere/mine"})
    for split in ("train", "val", "test"):
        assert all(data["data_root"].startswith("elsewhere/mine") for data in data_sets(cfg[f"{split}_dataloader"]))
        assert before not in str(cfg[f"{split}_dataloader"]), split
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert "ann_file" not in evaluator or evaluator["ann_file"].startswith("elsewhere/mine/")


def test_detector_is_binary_where_the_config_says():
    names = set(binary_layers(build("faster_rcnn_rebnn_r18_voc.py")))
    assert sum(n.startswith("backbone.layer") for n in names) == 16
    assert sum(n.startswith("neck.") for n in names) == 8
    assert {n for n in names if not n.startswith(("backbone.", "neck."))} == {"rpn_head.rpn_conv"}


def test_backbone_only_and_shared_fcs_are_overrides():
    overrides = {"model.neck.conv_cfg": None, "model.rpn_head.binarize": None}
    names = binary_layers(build("faster_rcnn_rebnn_r18_voc.py", **overrides))
    assert len(names) == 16 and all(n.startswith("backbone.") for n in names)
    overrides = {
        "model.roi_head.bbox_head.type": "Binarized",
        "model.roi_head.bbox_head.base": "Shared2FCBBoxHead",
        "model.roi_head.bbox_head.binarize.include": "shared_fcs",
    }
    names = binary_layers(build("faster_rcnn_rebnn_r18_voc.py", **overrides))
    assert {"roi_head.bbox_head.shared_fcs.0", "roi_head.bbox_head.shared_fcs.1"} <= set(names)


def test_the_fast_detector_has_1_bit_shared_layers_and_fewer_proposals():
    cfg = read_config(ROOT / "configs/faster_rcnn_rebnn_r18_fast_voc.py")
    assert cfg.model.test_cfg.rpn.max_per_img == 300 and cfg.model.test_cfg.rcnn.max_per_img == 100
    layers = binary_layers(build("faster_rcnn_rebnn_r18_fast_voc.py"))
    assert {name for name in layers if "roi_head" in name} == {f"roi_head.bbox_head.shared_fcs.{i}" for i in (0, 1)}


def test_twin_holds_the_same_weights_as_the_binary_detector():
    binary = build("faster_rcnn_rebnn_r18_bccd.py")
    twin = build("faster_rcnn_real_r18_bccd.py")
    own = {k for k in binary.state_dict() if not k.endswith((".alpha", ".gamma"))}
    assert own == set(twin.state_dict())


@pytest.mark.parametrize("method", ["rebnn", "react"])
def test_detector_trains_one_step_and_gradients_reach_every_binary_layer(method):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    torch.manual_seed(0)
    model = build(f"faster_rcnn_{method}_r18_bccd.py", **{"model.backbone.base_channels": 64})
    model.init_weights()
    sample = DetDataSample(metainfo=dict(img_shape=(96, 128), ori_shape=(96, 128), scale_factor=(1.0, 1.0)))
    boxes = torch.tensor([[8.0, 8, 60, 60], [70, 20, 120, 90]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
    data = model.data_preprocessor(
        dict(inputs=[torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8)] * 2, data_samples=[sample, sample]), True
    )
    total, _ = model.train().parse_losses(model(**data, mode="loss"))
    assert torch.isfinite(total)
    total.backward()
    for name, layer in binary_layers(model).items():
        assert layer.weight.grad.abs().sum() > 0, name
        assert method != "rebnn" or layer.alpha.grad.abs().sum() > 0, name
    assert not any(isinstance(m, nn.Conv2d) and m is model.rpn_head.rpn_cls for m in binary_layers(model).values())


def test_a_config_whose_packages_are_missing_says_which(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("custom_imports = dict(imports=['no_such_package'], allow_failed_imports=False)\nmodel = dict()\n")
    with pytest.raises(
        ValueError, match=r"imports what is not installed: .*no_such_package.*BERT needs rebnn_mm\[bert\]"
    ):
        read_config(path)
