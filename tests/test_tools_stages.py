"""Two stages with a teacher by one command, stopped and resumed; drawn images, a narrow network."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmpretrain")

from mmengine.hooks import LoggerHook

from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.workflows import launch, stages

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
NAMES = ("resnet18_rebnn_imagenette_stage1", "resnet18_rebnn_imagenette_stage2")
CONFIGS = [ROOT / "configs" / f"{name}.py" for name in NAMES]
TINY = (
    "model.backbone.base_channels=8",
    "model.head.in_channels=64",
    "model.head.num_classes=2",
    "train_cfg.max_epochs=2",
    "train_cfg.val_interval=1",
    "default_hooks.logger.interval=1",
    "val_evaluator.topk=1",
    "test_evaluator.topk=1",
    "train_dataloader.batch_size=4",
    "train_dataloader.dataset.pipeline.1.scale=32",
    *(f"{split}_dataloader.num_workers=0" for split in ("train", "val", "test")),
    *(f"{split}_dataloader.dataset.pipeline.1.scale=32" for split in ("val", "test")),
    *(f"{split}_dataloader.dataset.pipeline.2.crop_size=32" for split in ("val", "test")),
)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Options with data (12 images to train on, 4 to test on) and a narrow teacher's config and weights."""
    root = tmp_path_factory.mktemp("drawn")
    for split, count in (("train", 6), ("val", 2)):
        for label, value in (("dark", 20), ("light", 220)):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(root / split / label / f"{i}.png"), np.full((32, 32, 3), value + i, np.uint8))
    teacher = root / "teacher.py"
    teacher.write_text(
        f"_base_ = ['{ROOT}/configs/resnet18_real_imagenette.py']\n"
        "model = dict(backbone=dict(base_channels=4), head=dict(in_channels=32, num_classes=2))\n"
    )
    torch.manual_seed(0)
    torch.save(build_model(read_config(teacher)).state_dict(), root / "teacher.pth")
    weights = (f"model.teacher.config={teacher}", f"model.teacher.checkpoint={root / 'teacher.pth'}")
    return ("--cfg-options", f"data_root={root}", *TINY, *weights)


@pytest.fixture(scope="module")
def trained(tool, options, tmp_path_factory):
    """Work dir of an uninterrupted run."""
    work_dir = tmp_path_factory.mktemp("whole")
    tool("train_stages")(*CONFIGS, "--work-dir", work_dir, *options)
    return work_dir


def weights(work_dir, stage):
    return torch.load(work_dir / NAMES[stage] / "latest.pth", weights_only=False)


def test_stage_two_starts_from_stage_one_and_checkpoints_hold_the_student_alone(trained):
    cfg = read_config(CONFIGS[1])
    student = set(build_model(cfg).state_dict())
    assert set(weights(trained, 1)["state_dict"]) == student
    log = next((trained / NAMES[1]).glob("*/*.log")).read_text()
    assert f"Load checkpoint from {trained / NAMES[0] / 'epoch_2.pth'}" in log
    assert "loss_distill" in log and "rebnn/gamma" in log
    assert not any(name.endswith(("alpha", "gamma")) for name in weights(trained, 0)["state_dict"])
    assert "rebnn/gamma" not in next((trained / NAMES[0]).glob("*/*.log")).read_text()


def test_the_plain_config_tests_and_exports_the_student(tool, options, trained, tmp_path, capfd):
    plain = (ROOT / "configs" / "resnet18_rebnn_imagenette.py", trained / NAMES[1] / "latest.pth")
    more = [option for option in options if not option.startswith("model.teacher")]
    tool("test")(*plain, "--work-dir", tmp_path, *more)
    assert "accuracy/top1" in "".join(capfd.readouterr())
    tool("export")(*plain, tmp_path / "plain.rebnn", *more)
    # the distilling config needs no teacher for either
    absent = [option for option in options if "teacher.checkpoint" not in option]
    tool("test")(CONFIGS[1], plain[1], "--work-dir", tmp_path, *absent)
    tool("export")(CONFIGS[1], plain[1], tmp_path / "m.rebnn", *absent)


def test_operations_are_the_students(tool, options, capsys):
    tables = []
    more = [option for option in options if not option.startswith("model.teacher")]
    for config in (CONFIGS[1], ROOT / "configs" / "resnet18_rebnn_imagenette.py"):
        tool("get_flops")(config, "--shape", 32, 32, *more)
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] and "teacher" not in tables[0]


def press_ctrl_c(runner):
    """In the second epoch of stage two, three iterations long."""
    if Path(runner.work_dir).name == NAMES[1] and runner.iter == 3:
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_in_stage_two_and_resume_equal_the_uninterrupted_run(
    tool, options, trained, tmp_path, monkeypatch, capfd
):
    arguments = (*CONFIGS, "--work-dir", tmp_path)
    log = LoggerHook.after_train_iter

    def log_and_press(hook, runner, **values):
        log(hook, runner, **values)
        press_ctrl_c(runner)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(LoggerHook, "after_train_iter", log_and_press)
        tool("train_stages")(*arguments, *options)
    assert stop.value.code == 130
    last_words = capfd.readouterr().err.strip().splitlines()[-1]
    assert re.search(rf"train_stages: stage 2 of 2 \({NAMES[1]}\): stopped in epoch 2.*--resume goes on", last_words)

    first = (tmp_path / NAMES[0] / "latest.pth").stat().st_mtime_ns
    tool("train_stages")(*arguments, "--resume", *options)
    assert (tmp_path / NAMES[0] / "latest.pth").stat().st_mtime_ns == first
    for stage in (0, 1):
        whole, resumed = weights(trained, stage)["state_dict"], weights(tmp_path, stage)["state_dict"]
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def calls(monkeypatch, trained, options, resume=True):
    """(load_from, resume) of each stage that would be trained."""
    made = []
    monkeypatch.setattr(launch, "train", lambda cfg: made.append((cfg.load_from, cfg.resume)))
    listed = [read_config(config) for config in CONFIGS]
    for cfg, name in zip(listed, NAMES, strict=True):
        cfg.train_cfg.max_epochs = 2
        cfg.work_dir = str(trained / name)
    stages.train_stages(listed, resume)
    return made


def test_finished_stages_are_skipped_unless_all_starts_anew(monkeypatch, trained, options):
    assert calls(monkeypatch, trained, options) == []
    first = str(trained / NAMES[0] / "epoch_2.pth")
    assert calls(monkeypatch, trained, options, resume=False) == [(None, False), (first, False)]


def test_stage_two_of_an_older_stage_one_starts_anew(monkeypatch, trained, options):
    path = trained / NAMES[0] / "epoch_2.pth"
    before = path.read_bytes()
    later = weights(trained, 0)
    later["meta"]["time"] = "29990101_000000"
    try:
        torch.save(later, path)
        assert calls(monkeypatch, trained, options) == [(str(path), False)]
    finally:
        path.write_bytes(before)


def test_resume_of_a_config_that_starts_from_weights_takes_its_own_checkpoint(trained):
    cfg = read_config(CONFIGS[1])
    cfg.work_dir = str(trained / NAMES[1])
    launch.use_resume(cfg, "auto")
    assert cfg.resume and cfg.load_from == str(trained / NAMES[1] / "epoch_2.pth")


def test_mistakes_show_before_stage_one(tool, options, tmp_path):
    run = tool("train_stages")
    with pytest.raises(SystemExit, match="^train_stages: stages .*their names must differ"):
        run(CONFIGS[0], CONFIGS[0], "--work-dir", tmp_path, *options)
    with pytest.raises(SystemExit, match="^train_stages: .*nowhere.py is not a file"):
        run(CONFIGS[0], "nowhere.py", "--work-dir", tmp_path, *options)
    with pytest.raises(SystemExit, match="^train_stages: the teacher's checkpoint nowhere.pth is not a file"):
        run(*CONFIGS, "--work-dir", tmp_path, *options, "model.teacher.checkpoint=nowhere.pth")
    assert not list(tmp_path.glob("*/*.pth"))


def test_a_stage_among_the_shipped_configs_is_found_from_any_folder(tmp_path, monkeypatch):
    """Configs name it as ``configs/...``, which is a path of the clone."""
    monkeypatch.chdir(tmp_path)
    real, student = (
        read_config(ROOT / "configs" / f"resnet18_{n}.py") for n in ("real_imagenette", "rebnn_imagenette_stage1")
    )
    assert stages._teacher_among([real], student) is real


def test_a_stage_is_taught_by_the_one_before(tool, options, tmp_path, monkeypatch):
    """The teacher is stage one as it was trained: narrow, by an option, and with the weights that it left."""
    own = [word for word in options if "teacher" not in word]
    (config,), (checkpoint,) = ([w for w in options if key in w] for key in ("teacher.config", "teacher.checkpoint"))
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    entry = f"dict(_delete_=True, config={config.split('=')[1]!r}, checkpoint={checkpoint.split('=')[1]!r})"
    first.write_text(f"_base_ = [{str(CONFIGS[0])!r}]\nmodel = dict(teacher={entry})\n")
    entry = f"dict(_delete_=True, config={str(first)!r}, checkpoint='not_there_yet.pth')"
    second.write_text(f"_base_ = [{str(CONFIGS[1])!r}]\nmodel = dict(teacher={entry})\n")
    taught = []
    built = stages.launch.train
    monkeypatch.setattr(stages.launch, "train", lambda cfg: (taught.append(cfg.model.teacher), built(cfg)))
    tool("train_stages")(first, second, "--work-dir", tmp_path, *own, "train_cfg.max_epochs=1")
    assert taught[1].config.backbone.base_channels == 8
    assert taught[1].checkpoint == str(tmp_path / "first" / "epoch_1.pth")
    assert torch.load(tmp_path / "second" / "latest.pth", weights_only=False)["state_dict"]
