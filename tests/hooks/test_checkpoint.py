import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rebnn_mm.hooks.checkpoint import AtomicLocalBackend


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


@pytest.mark.slow
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
