import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.runner import find_latest_checkpoint
from small_disk import run_on_small_disk

from rebnn_mm.errors import UserError
from rebnn_mm.hooks.checkpoint import AtomicLocalBackend, ResilientCheckpointHook
from rebnn_mm.hooks.work_dir import newest_checkpoint


def resilient(**kwargs):
    return dict(type="ResilientCheckpointHook", interval=1, **kwargs)


def checkpoints(runner):
    return sorted(path.name for path in Path(runner.work_dir).glob("*.pth"))


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_keeps_the_newest_and_links_to_it(make_runner):
    runner = make_runner(3, checkpoint=resilient(max_keep_ckpts=2))
    runner.train()
    work_dir = Path(runner.work_dir)
    assert checkpoints(runner) == ["epoch_2.pth", "epoch_3.pth", "latest.pth"]
    assert os.readlink(work_dir / "latest.pth") == "epoch_3.pth"
    assert (work_dir / "last_checkpoint").read_text() == str(work_dir / "epoch_3.pth")
    assert not list(work_dir.rglob("*.part"))
    saved = torch.load(work_dir / "latest.pth", weights_only=False)
    assert saved["message_hub"]["runtime_info"]["keep_ckpt_ids"] == [2, 3] and "optimizer" in saved


@pytest.mark.parametrize(
    ("name", "said"),
    [("intervall", "did you mean interval"), ("max_keep_ckpt", "did you mean max_keep_ckpts"), ("x", "allowed are b")],
)
def test_an_unknown_option_is_refused_at_once(name, said):
    """It came up when the first epoch was to be saved."""
    with pytest.raises(UserError, match=f"ResilientCheckpointHook: '{name}' is unknown; {said}"):
        ResilientCheckpointHook(**{name: 1})


def test_link_reaches_another_out_dir(make_runner, tmp_path):
    runner = make_runner(checkpoint=resilient(out_dir=str(tmp_path / "elsewhere")))
    runner.train()
    link = Path(runner.work_dir) / "latest.pth"
    assert link.resolve() == (tmp_path / "elsewhere" / "work" / "epoch_1.pth").resolve()
    assert not os.path.isabs(os.readlink(link))


def test_by_iteration(make_runner):
    checkpoint = dict(type="ResilientCheckpointHook", interval=2, by_epoch=False, max_keep_ckpts=1)
    runner = make_runner(checkpoint=checkpoint, train_cfg=dict(by_epoch=False, max_iters=5, val_interval=100))
    runner.train()
    assert checkpoints(runner) == ["iter_5.pth", "latest.pth"]


def test_resume_goes_on_counting(make_runner):
    make_runner(2, checkpoint=resilient(max_keep_ckpts=2)).train()
    runner = make_runner(3, checkpoint=resilient(max_keep_ckpts=2), resume=True)
    runner.train()
    assert checkpoints(runner) == ["epoch_2.pth", "epoch_3.pth", "latest.pth"]


def test_best_is_replaced_only_by_a_better_one(make_runner):
    runner = make_runner(3, checkpoint=resilient(max_keep_ckpts=1, save_best="acc"), scores=[0.5, 0.2, 0.9])
    runner.train()
    assert checkpoints(runner) == ["best_acc_epoch_3.pth", "epoch_3.pth", "latest.pth"]
    info = torch.load(Path(runner.work_dir) / "latest.pth", weights_only=False)["message_hub"]["runtime_info"]
    assert info["best_ckpt"].endswith("best_acc_epoch_3.pth") and info["best_score"] == 0.9


def test_best_by_two_metrics(make_runner):
    checkpoint = resilient(max_keep_ckpts=1, save_best=["acc", "f1"], rule="greater")
    runner = make_runner(3, checkpoint=checkpoint, scores=[0.5, 0.4, 0.6])
    runner.train()
    assert checkpoints(runner) == ["best_acc_epoch_3.pth", "best_f1_epoch_2.pth", "epoch_3.pth", "latest.pth"]


@pytest.mark.parametrize(
    "fails, save_best",
    [
        ("epoch_2.pth", None),
        ("last_checkpoint", None),
        ("epoch_2.pth", "acc"),
        ("last_checkpoint", "acc"),
        ("best_acc_epoch_2.pth", "acc"),
    ],
)
def test_a_refused_write_leaves_the_way_back(make_runner, fails, save_best):
    checkpoint = resilient(max_keep_ckpts=1, save_best=save_best)
    make_runner(1, checkpoint=checkpoint, scores=[0.5]).train()
    runner = make_runner(3, resume=True, checkpoint=checkpoint, scores=[0.6, 0.7])
    obstacle = Path(runner.work_dir) / f".{fails}.part"  # a folder where the file is written: the system refuses
    obstacle.mkdir()
    with pytest.raises(OSError, match=rf"cannot write .*{fails}: Is a directory.*MiB.*--resume"):
        runner.train()
    obstacle.rmdir()
    work_dir = Path(runner.work_dir)
    assert not list(work_dir.rglob("*.part"))
    assert (work_dir / "epoch_1.pth").exists() or fails != "epoch_2.pth"
    assert Path((work_dir / "last_checkpoint").read_text()).exists()
    assert (work_dir / "latest.pth").exists()
    if save_best:
        assert (work_dir / "best_acc_epoch_1.pth").exists()
    for name in checkpoints(runner):
        torch.load(work_dir / name, weights_only=False)
    resumed = make_runner(3, resume=True, checkpoint=checkpoint, scores=[0.8, 0.9])
    resumed.train()
    assert resumed.epoch == 3


def test_interrupted_save_leaves_nothing(tmp_path):
    class Interrupting:
        """Bytes on whose way to the disk somebody presses Ctrl-C."""

        def __len__(self):
            return 1

        def __buffer__(self, flags):
            raise KeyboardInterrupt

    AtomicLocalBackend().put(b"old", tmp_path / "new" / "a.pth")
    with pytest.raises((KeyboardInterrupt, TypeError)):  # TypeError: before Python 3.12
        AtomicLocalBackend().put(Interrupting(), tmp_path / "new" / "a.pth")
    assert (tmp_path / "new" / "a.pth").read_bytes() == b"old"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.pth"]


@pytest.mark.slow
def test_full_disk_in_the_middle_of_a_checkpoint(tmp_path):
    code = """
import sys
from rebnn_mm.hooks.checkpoint import AtomicLocalBackend as B
B().put(b"old", sys.argv[1])
with small_disk(1 << 16):
    try:
        B().put(bytes(1 << 20), sys.argv[1])
    except OSError as error:
        print(error.errno, error)
"""
    path = tmp_path / "a.pth"
    done = run_on_small_disk(code, path)
    assert done.stdout.startswith(f"{errno.EFBIG} cannot write {path}: File too large"), done.stderr
    assert "It has 1.0 MiB; earlier checkpoints are kept" in done.stdout and "--resume" in done.stdout
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_file_system_without_links(make_runner, monkeypatch):
    monkeypatch.setattr(Path, "symlink_to", no_space)
    runner = make_runner(checkpoint=resilient())
    runner.train()
    assert checkpoints(runner) == ["epoch_1.pth"]


def test_own_backend_args_are_kept(make_runner):
    runner = make_runner(checkpoint=resilient(backend_args=dict(backend="local")))
    runner.train()
    assert checkpoints(runner) == ["epoch_1.pth", "latest.pth"]


def go_on(make_runner, path, epochs=3, **kwargs):
    """Resume from ``path`` and train up to ``epochs``."""
    checkpoint = kwargs.pop("checkpoint", None) or resilient(max_keep_ckpts=1, save_best="acc")
    runner = make_runner(epochs, checkpoint=checkpoint, resume=True, load_from=str(path), **kwargs)
    runner.train()
    return runner


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.pth")}


@pytest.fixture
def first(make_runner, tmp_path):
    """Work dir of a run of two epochs whose first was the best."""
    make_runner(2, checkpoint=resilient(max_keep_ckpts=1, save_best="acc"), scores=[0.9, 0.5]).train()
    return tmp_path / "work"


def test_another_runs_checkpoints_are_never_removed(make_runner, tmp_path, first):
    before = contents(first)
    assert set(before) == {"best_acc_epoch_1.pth", "epoch_2.pth", "latest.pth"}
    new = tmp_path / "new"
    new.mkdir()
    (new / "epoch_2.pth").write_bytes(b"of a run before")
    runner = go_on(make_runner, first / "epoch_2.pth", 4, work_dir=new, scores=[0.1, 0.95])
    assert contents(first) == before
    # a best one of its own, though the first run had a better score than 0.1
    assert checkpoints(runner) == ["best_acc_epoch_4.pth", "epoch_2.pth", "epoch_4.pth", "latest.pth"]
    assert (new / "epoch_2.pth").read_bytes() == b"of a run before"


@pytest.mark.parametrize("how", ["moved", "copied", "copied, links followed", "linked"])
def test_work_dir_that_is_somewhere_else_now(make_runner, tmp_path, first, how):
    there = tmp_path / "there"
    if how == "moved":
        first.rename(there)
    elif how == "linked":
        there.symlink_to(first)
    else:
        shutil.copytree(first, there, symlinks=how == "copied")
    before = contents(first) if first.exists() else {}
    newest = newest_checkpoint(there)
    assert newest == str(there / "epoch_2.pth")
    runner = go_on(make_runner, newest, 4, work_dir=there, scores=[0.8, 0.95])
    # the old best is known under its new place, and gives way to a better one
    assert checkpoints(runner) == ["best_acc_epoch_4.pth", "epoch_4.pth", "latest.pth"]
    if how.startswith("copied"):
        assert contents(first) == before


def test_out_dir_elsewhere(make_runner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = resilient(max_keep_ckpts=1, out_dir="elsewhere")
    make_runner(2, checkpoint=dict(checkpoint)).train()
    shutil.copytree(tmp_path / "work", tmp_path / "copy" / "work", symlinks=True)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")  # relative paths mean another folder now
    newest = newest_checkpoint(tmp_path / "work")
    assert Path(newest) == tmp_path / "elsewhere" / "work" / "epoch_2.pth" == Path(newest_checkpoint("../copy/work"))
    go_on(make_runner, newest, checkpoint=resilient(max_keep_ckpts=1, out_dir="../elsewhere"))
    assert [path.name for path in (tmp_path / "elsewhere" / "work").iterdir()] == ["epoch_3.pth"]
    go_on(make_runner, tmp_path / "elsewhere" / "work" / "epoch_3.pth", 4, checkpoint=dict(checkpoint))
    assert (tmp_path / "elsewhere" / "work" / "epoch_3.pth").exists()  # this one wrote to other/elsewhere


def test_newest_when_files_were_removed_by_hand(first, caplog):
    work = Path(first)
    (work / "epoch_1.pth").write_bytes(b"kept by hand")
    (work / "epoch_2.pth").unlink()
    with caplog.at_level("WARNING"):
        assert newest_checkpoint(work) == str(work / "epoch_1.pth")
    (work / "epoch_1.pth").unlink()
    assert newest_checkpoint(work) is None  # the best one holds no optimizer
    assert newest_checkpoint(work / "nowhere") is None


def test_stock_resume_keeps_working(make_runner, first):
    assert find_latest_checkpoint(str(first)) == str(first / "epoch_2.pth")
    runner = make_runner(3, checkpoint=resilient(max_keep_ckpts=1, save_best="acc"), resume=True, scores=[0.95])
    runner.train()
    assert checkpoints(runner) == ["best_acc_epoch_3.pth", "epoch_3.pth", "latest.pth"]


def test_best_removed_by_hand_or_of_another_metric_is_sought_anew(make_runner, tmp_path, first):
    shutil.copytree(first, tmp_path / "b", symlinks=True)
    (first / "best_acc_epoch_1.pth").unlink()
    runner = go_on(make_runner, first / "epoch_2.pth", scores=[0.1])
    assert checkpoints(runner) == ["best_acc_epoch_3.pth", "epoch_3.pth", "latest.pth"]
    other = resilient(max_keep_ckpts=1, save_best="f1", rule="less")
    runner = go_on(make_runner, tmp_path / "b" / "epoch_2.pth", work_dir=tmp_path / "b", scores=[0.1], checkpoint=other)
    assert checkpoints(runner) == ["best_acc_epoch_1.pth", "best_f1_epoch_3.pth", "epoch_3.pth", "latest.pth"]
