"""Shards in mmpretrain's pipelines: the same samples as from class folders, whatever the workers and ranks."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmpretrain")

from mmengine.config import Config
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from torch.utils.data import DataLoader

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.files.images import IMAGE_SUFFIXES
from rebnn_mm.files.shards import read_index
from rebnn_mm.integrations import classification  # noqa: F401  # registers the data sets
from rebnn_mm.integrations.build import read_config
from rebnn_mm.integrations.classification.shards import ShardBackend, ShardedImages
from rebnn_mm.workflows import shards as workflow
from rebnn_mm.workflows.shards import make_shards

ROOT = Path(__file__).resolve().parents[3]
PIPELINE = [dict(type="LoadCheckedImage"), dict(type="PackInputs")]


@pytest.fixture(autouse=True)
def clean_scope():
    DefaultScope._instance_dict.clear()
    init_default_scope("mmpretrain")
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Class folders and their shards, two splits of 23 and 7 images."""
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for split, counts in (("train", (11, 5, 7)), ("val", (3, 1, 3))):
        for name, count in zip(("cat", "dog", "eel"), counts, strict=True):
            (root / "folders" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (8, 9, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / "folders" / split / name / f"{i}.v1.png")
        make_shards(root / "folders" / split, root / "shards" / split, shard_bytes=1500)
    return root


def built(root, kind, split, **options):
    where = "shards" if kind == "ShardedImages" else "folders"
    return DATASETS.build(dict(type=kind, data_root=str(root / where), data_prefix=split, pipeline=PIPELINE, **options))


def content(samples):
    """Sorted (label, pixels) of packed samples."""
    return sorted((int(s["data_samples"].gt_label), s["inputs"].numpy().tobytes()) for s in samples)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_samples_are_those_of_the_folders(root, split):
    shards, folders = (built(root, kind, split) for kind in ("ShardedImages", "CheckedImageFolder"))
    assert len(list((root / "shards" / split).glob("*.tar"))) > 1
    assert shards.metainfo["classes"] == folders.metainfo["classes"] == ("cat", "dog", "eel")
    assert content(shards) == content(folders)
    # mixed, so that a program that streams shards sees no class by itself
    assert shards.get_gt_labels().tolist() != sorted(shards.get_gt_labels())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_validation_sees_every_image_once(root, monkeypatch, workers, ranks):
    import mmengine.dataset.sampler as sampler

    data = built(root, "ShardedImages", "val", same_classes_as="train")
    parts = []
    for rank in range(ranks):
        monkeypatch.setattr(sampler, "get_dist_info", lambda rank=rank: (rank, ranks))
        loader = DataLoader(
            data,
            batch_size=2,
            sampler=DefaultSampler(data, shuffle=False),
            num_workers=workers,
            collate_fn=pseudo_collate,
            multiprocessing_context="fork" if workers else None,
        )
        parts.append([sample.img_path for batch in loader for sample in batch["data_samples"]])
    # as mmengine puts the ranks' results together: in turns, and what fills the last turn is cut off
    together = [path for turn in zip(*parts, strict=True) for path in turn][: len(data)]
    assert together == [data.get_data_info(i)["img_path"] for i in range(len(data))]
    assert len(set(together)) == 7


def test_what_is_wrong_with_shards_gets_a_sentence(root, tmp_path):
    with pytest.raises(MissingFileError, match="no shard .*nowhere.*tools/make_shards.py.*From the moon"):
        built(tmp_path, "ShardedImages", "nowhere", source="From the moon.")
    shutil.copytree(root / "shards", tmp_path / "other")
    (tmp_path / "other" / "val" / "classes.txt").write_text("cat\ndog\nfox\n")
    with pytest.raises(UserError, match="must have the same classes.txt"):
        ShardedImages(data_root=str(tmp_path / "other"), data_prefix="val", same_classes_as="train", pipeline=[])


def test_labels_beyond_the_classes(root, tmp_path):
    shutil.copytree(root / "shards" / "val", tmp_path / "val")
    (tmp_path / "val" / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match="has label 2, and .*classes.txt names 2 classes"):
        ShardedImages(data_root=str(tmp_path), data_prefix="val", pipeline=[])


def test_paths_that_lead_nowhere(tmp_path):
    backend = ShardBackend()
    with pytest.raises(UserError, match="an image in a shard is shard://SHARD.tar"):
        backend.get("shard:///a.tar/b.jpg")
    with pytest.raises(MissingFileError, match="the shard of .* is not there"):
        backend.get(f"shard://{tmp_path}/a.tar/b@0+5.jpg")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: make_shards(path / "nowhere", path / "out"), "nowhere is no folder"),
        (lambda path: make_shards(path, path / "out"), "no image in a class folder"),
        (lambda path: make_shards(path, path / "out", shard_bytes=0), "shards of 0 bytes"),
    ],
)
def test_what_cannot_be_packed_gets_a_sentence(tmp_path, make, sentence):
    with pytest.raises(UserError, match=sentence):
        make(tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_images_are_those_of_the_class_folders(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(workflow, "print_log", lambda message, **kwargs: said.append(message))
    folders, elsewhere = tmp_path / "folders" / "val", tmp_path / "elsewhere"
    for name in (*(f"cat/{i}{suffix}" for i, suffix in enumerate(IMAGE_SUFFIXES)), "cat/._0.jpg", "cat/.old/0.jpg"):
        (folders / name).parent.mkdir(parents=True, exist_ok=True)
        (folders / name).write_bytes(b"x")
    elsewhere.mkdir()
    (elsewhere / "a.PNG").write_bytes(b"y")
    (folders / "cat" / "linked").symlink_to(elsewhere)
    make_shards(folders, tmp_path / "a")
    assert said == []
    for name in ("a.heic", "b.HEIC", "list"):
        (folders / "cat" / name).write_bytes(b"z")
    (tar,) = make_shards(folders, tmp_path / "b")
    assert len(read_index(tar).names) == len(IMAGE_SUFFIXES) + 1
    assert len(built(tmp_path, "CheckedImageFolder", "val")) == len(IMAGE_SUFFIXES) + 1
    (sentence,) = said
    assert "1 file(s) without suffix, 2 file(s) .heic in class folders are left out; images are .jpg" in sentence


def test_a_class_whose_files_are_no_images_is_refused(tmp_path):
    for name in ("cat/a.jpg", "dog/a.heic", "dog/.b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"class folder .*dog has no image, only 1 file\(s\) .heic: images are"):
        make_shards(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_class_keeps_its_place(tmp_path, monkeypatch):
    """The other split may have images of it: its labels must be the same."""
    said = []
    monkeypatch.setattr(workflow, "print_log", lambda message, **kwargs: said.append(message))
    for name in ("cat", "dog", "eel"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        if name != "dog":
            (tmp_path / "folders" / name / "a.jpg").write_bytes(b"x")
    (tar,) = make_shards(tmp_path / "folders", tmp_path / "out")
    assert sorted(read_index(tar).labels) == [0, 2]
    (sentence,) = said
    assert "dog is empty: its class stays in classes.txt, without an image" in sentence


@pytest.mark.slow  # trains on 1,000 photos' shards
def test_imagenette_trains_and_validates_on_shards(tool, tmp_path):
    photos = Path(os.environ.get("IMAGENETTE", ROOT.parent / "shared" / "data" / "imagenette_224"))
    if not photos.is_dir():
        pytest.skip(f"Imagenette is not at {photos}; IMAGENETTE=FOLDER names another place")
    for split in ("train", "val"):
        tool("make_shards")(photos / split, tmp_path / "shards" / split, "--shard-mb", 4)
    config = tmp_path / "config.py"
    config.write_text(f"""
_base_ = ['{ROOT}/configs/resnet18_rebnn_imagenette.py']
model = dict(backbone=dict(base_channels=8), head=dict(in_channels=64))
train_cfg = dict(max_epochs=1, val_interval=1)
train_dataloader = dict(dataset=dict(type='ShardedImages', indices=64))
val_dataloader = dict(dataset=dict(type='ShardedImages'))
test_dataloader = val_dataloader
""")
    sizes = ["train_dataloader.dataset.pipeline.1.scale=32", "val_dataloader.dataset.pipeline.1.scale=36"]
    more = [f"data_root={tmp_path / 'shards'}", *sizes, "val_dataloader.dataset.pipeline.2.crop_size=32"]
    tool("train")(config, "--work-dir", tmp_path / "w", "--cfg-options", *more)
    assert (tmp_path / "w" / "latest.pth").exists()
    weights = torch.load(tmp_path / "w" / "latest.pth", weights_only=False)
    assert len(weights["meta"]["dataset_meta"]["classes"]) == 10


def test_the_shipped_config_exchanges_the_data_set_alone():
    folders = read_config(ROOT / "configs" / "resnet18_rebnn_imagenet.py")
    shards = Config.fromfile(ROOT / "configs" / "_base_" / "datasets" / "imagenet_shards.py")
    assert shards.train_dataloader.dataset.type == shards.val_dataloader.dataset.type == "ShardedImages"
    assert shards.val_dataloader.dataset.same_classes_as == "train"
    assert shards.train_dataloader.dataset.pipeline == folders.train_dataloader.dataset.pipeline
