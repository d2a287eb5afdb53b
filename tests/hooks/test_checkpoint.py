import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import find_latest_checkpoint

from rebnn_mm.hooks.checkpoint import AtomicLocalBackend
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
def test_full_disk_leaves_the_way_back(make_runner, monkeypatch, fails, save_best):
    checkpoint = resilient(max_keep_ckpts=1, save_best=save_best)
    make_runner(1, checkpoint=checkpoint, scores=[0.5]).train()
    real_replace = os.replace

    def replace(source, target):
        if Path(target).name == fails:
            no_space()
        real_replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        runner = make_runner(3, resume=True, checkpoint=checkpoint, scores=[0.6, 0.7])
        with pytest.raises(OSError, match=r"cannot write .*MiB.*No space left.*--resume"):
            runner.train()
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


def test_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    backend, path = AtomicLocalBackend(), tmp_path / "new" / "a.pth"
    backend.put(b"old", path)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="cannot write .*a.pth") as caught:
            patch.setattr(os, name, no_space)
            backend.put(b"new", path)
        assert caught.value.errno == errno.ENOSPC
        assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(fd):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        AtomicLocalBackend().put(b"new", tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_file_size_limit_of_the_system(tmp_path):
    """A real refusal by the kernel in the middle of a write, without a full disk."""
    script = (
        "import resource, sys; from rebnn_mm.hooks.checkpoint import AtomicLocalBackend as B\n"
        "path = sys.argv[1]; B().put(b'old', path)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "B().put(bytes(1 << 20), path)\n"
    )
    path = tmp_path / "a.pth"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.returncode == 1 and f"cannot write {path} (1.0 MiB)" in done.stderr
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
