"""train, test and the launchers, end to end on a few drawn images, as processes where that matters; bad input, too."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

pytest.importorskip("mmdet")

from ranks import run_ranks

from rebnn_mm.integrations.checkpoint import load_weights
from rebnn_mm.workflows.demo_data import make_demo_data

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "faster_rcnn_rebnn_r18_demo.py"
# a narrow network: three iterations an epoch, a fraction of a second each
TINY = (
    "model.backbone.base_channels=8",
    "model.neck.in_channels=[8,16,32,64]",
    "model.rpn_head.anchor_generator.scales=[2]",
    "default_hooks.logger.interval=1",
    "train_cfg.max_epochs=2",
    "train_cfg.val_interval=1",
    "default_hooks.checkpoint.interval=1",
)


def run(*command, **kwargs):
    """A finished process; its output goes into the assertion message."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
        cwd=kwargs.pop("cwd", ROOT),
        **kwargs,
    )


def environment(**extra):
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        **extra,
    }


def options(data_root, *more):
    return ("--cfg-options", f"data_root={data_root}", *TINY, *more)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Root of a drawn data set: 12 images to train on, 4 to test on."""
    return make_demo_data(tmp_path_factory.mktemp("drawn"), train=12, test=4).parent


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Work dir of an uninterrupted run of two epochs."""
    work_dir = tmp_path_factory.mktemp("whole")
    done = run(sys.executable, "tools/train.py", CONFIG, "--work-dir", work_dir, *options(data))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return work_dir


def scalars(work_dir):
    """What was logged, without times, by kind and step; a resumed run writes a second folder."""
    rows = {}
    for file in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        for line in file.read_text().splitlines():
            if not line.endswith("}"):  # Ctrl-C came while mmengine wrote it
                continue
            row = {k: v for k, v in json.loads(line).items() if "time" not in k and k not in ("iter", "epoch")}
            rows["loss" in row, row.pop("step")] = row
    return rows


def test_train_logs_and_keeps_checkpoints(trained):
    names = {path.name for path in trained.glob("*.pth")}
    assert {"epoch_1.pth", "epoch_2.pth", "latest.pth"} <= names and any(n.startswith("best_") for n in names)
    rows = scalars(trained)
    assert all({"rebnn/gamma", "rebnn/flip_share", "lr"} <= set(row) for (train, _), row in rows.items() if train)
    assert {"pascal_voc/mAP", "pascal_voc/AP50_star"} <= set(rows[False, 2])
    log = next(trained.glob("*/*.log")).read_text()
    assert "eta:" in log and "binarized 1 layers" in log


def test_test_gives_the_validations_metric_predictions_and_pictures(tool, data, trained, tmp_path, capfd):
    out, shown = tmp_path / "out.pkl", tmp_path / "shown"
    latest = trained / "latest.pth"
    tool("test")(
        *(CONFIG, latest, "--work-dir", tmp_path / "w", "--out", out, "--show-dir", shown, *options(data)),
    )
    metric = float(re.findall(r"pascal_voc/mAP: ([\d.]+)", "".join(capfd.readouterr()))[-1])
    assert metric == pytest.approx(scalars(trained)[False, 2]["pascal_voc/mAP"], abs=1e-4)
    assert len(pickle.loads(out.read_bytes())) == 4
    assert len(list(shown.iterdir())) == 4


def test_packed_file_gives_the_same_metric_and_draws(tool, data, trained, tmp_path, capfd):
    packed, latest = tmp_path / "m.rebnn", trained / "latest.pth"
    tool("export")(CONFIG, latest, packed, *options(data))
    table = capfd.readouterr().out
    assert re.search(r"backbone.layer1.0.unit.conv +1-bit", table) and packed.stat().st_size < latest.stat().st_size / 3
    tool("test")(CONFIG, packed, "--work-dir", tmp_path / "t", *options(data))
    shown = capfd.readouterr()
    metric = float(re.findall(r"pascal_voc/mAP: ([\d.]+)", shown.out + shown.err)[-1])
    assert metric == pytest.approx(scalars(trained)[False, 2]["pascal_voc/mAP"], abs=1e-6)
    images = data / "VOC2007" / "JPEGImages"
    tool("infer")(images / "test_0000.jpg", packed, "--out", tmp_path / "a", "--score-thr", 0)
    tool("infer")(images / "test_0000.jpg", CONFIG, latest, "--out", tmp_path / "b", "--score-thr", 0, *options(data))
    assert (tmp_path / "a" / "test_0000.jpg").read_bytes() == (tmp_path / "b" / "test_0000.jpg").read_bytes()


@pytest.mark.parametrize("name", ["test", "infer"])
def test_bad_packed_file(tool, data, tmp_path, name):
    bad = tmp_path / "m.rebnn"
    bad.write_bytes(b"\x89RBNN\r\n\x1a" + bytes(100))
    argv = (CONFIG, bad, *options(data)) if name == "test" else (data, bad, "--out", tmp_path / "out")
    with pytest.raises(SystemExit, match=f"^{name}: .*m.rebnn is no usable .rebnn file"):
        tool(name)(*argv)


def test_ctrl_c_and_resume_equal_the_uninterrupted_run(data, trained, tmp_path):
    command = [sys.executable, "tools/train.py", str(CONFIG), "--work-dir", str(tmp_path), *options(data)]
    with open(tmp_path / "screen", "w") as screen:
        process = subprocess.Popen(command, stdout=screen, stderr=subprocess.STDOUT, cwd=ROOT, env=environment())
    deadline = time.monotonic() + 240
    while "Epoch(train) [2][1/3]" not in re.sub(r" +", " ", (tmp_path / "screen").read_text()):
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "screen").read_text()[-3000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    last_words = (tmp_path / "screen").read_text().strip().splitlines()[-1]
    assert "train: stopped in epoch 2" in last_words and "--resume" in last_words
    assert not list(tmp_path.glob("**/*.part"))

    done = run(*command, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    whole, resumed = (torch.load(d / "latest.pth", weights_only=False) for d in (trained, tmp_path))
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key
    assert scalars(trained) == scalars(tmp_path)


@HOOKS.register_module(force=True)
class StopsInEpoch(Hook):
    """Ctrl-C in the first iteration of an epoch, counted from 0."""

    def __init__(self, epoch):
        self.epoch = epoch

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.epoch == self.epoch:
            raise KeyboardInterrupt


def test_ctrl_c_speaks_of_checkpoints_that_there_are(tool, data, trained, tmp_path, capfd):
    """In the first epoch too it said that --resume goes on from the newest one."""

    def stopped(epoch, *more):
        stop = ("default_hooks.stop.type=StopsInEpoch", f"default_hooks.stop.epoch={epoch}")
        with pytest.raises(SystemExit) as code:
            tool("train")(CONFIG, "--work-dir", tmp_path, *more, *options(data, *stop))
        assert code.value.code == 130
        return capfd.readouterr().err.strip().splitlines()[-1]

    old = trained / "epoch_1.pth"
    (tmp_path / "epoch_9.pth").write_bytes(b"of another run")
    begins = "no checkpoint was saved yet, the same command without --resume begins again"
    assert stopped(0) == f"train: stopped in epoch 1, after iteration 0; {begins}"
    assert stopped(1, "--resume", old).endswith(f"was saved since {old}, --resume {old} goes on from it again")
    assert stopped(1).endswith(f"checkpoints are in {tmp_path}, --resume goes on from the newest")


def test_resume_without_a_checkpoint_starts_anew(tool, data, tmp_path):
    tool("train")(CONFIG, "--work-dir", tmp_path, "--resume", *options(data, "train_cfg.max_epochs=1"))
    assert (tmp_path / "epoch_1.pth").exists()


def test_moved_work_dir_goes_on_with_a_lower_rate_and_more_epochs(tool, data, tmp_path):
    """Our own advice after a loss that is not finite; the rate was taken from the checkpoint without a word."""
    tool("train")(CONFIG, "--work-dir", tmp_path / "a", *options(data, "train_cfg.max_epochs=1"))
    (tmp_path / "a").rename(tmp_path / "b")
    lower = options(data, "optim_wrapper.optimizer.lr=1e-6")
    # a process of its own: mmengine keeps the visualizer, with the folder of old, as long as a process lives
    done = run(sys.executable, "tools/train.py", CONFIG, "--work-dir", tmp_path / "b", "--resume", *lower)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = scalars(tmp_path / "b")
    assert 0 < rows[True, 4]["lr"] < 1e-6
    log = "".join(path.read_text() for path in (tmp_path / "b").glob("*/*.log"))
    assert "optim_wrapper.optimizer.lr 0.001 -> 1e-06, train_cfg.max_epochs 1 -> 2; from here on lr=" in log
    assert not (tmp_path / "a").exists()


def test_full_disk_keeps_the_good_checkpoint_and_resume_goes_on(tool, data, tmp_path):
    work_dir = tmp_path / "w"
    tool("train")(CONFIG, "--work-dir", work_dir, *options(data, "train_cfg.max_epochs=1"))
    good = (work_dir / "epoch_1.pth").read_bytes()
    arguments = (CONFIG, "--work-dir", work_dir, "--resume", *options(data))
    limited = run(  # to blocks of 1024 bytes
        *("bash", "-c", 'ulimit -f 200; exec "$@"', "bash", sys.executable, "tools/train.py", *arguments)
    )
    assert limited.returncode == 1
    assert "cannot write" in limited.stderr and "go on with --resume" in limited.stderr.splitlines()[-1]
    assert (work_dir / "epoch_1.pth").read_bytes() == good and not (work_dir / "epoch_2.pth").exists()
    assert (work_dir / "latest.pth").resolve().name == "epoch_1.pth" and not list(work_dir.glob(".*.part"))
    tool("train")(*arguments)
    assert (work_dir / "latest.pth").resolve().name == "epoch_2.pth"


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_image_stops_with_its_name(tool, tmp_path, workers, capfd):
    root = make_demo_data(tmp_path, train=4, test=1)
    image = root / "JPEGImages" / "trainval_0002.jpg"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(SystemExit, match=r"^train: image .*trainval_0002.jpg is a truncated JPEG"):
        tool("train")(
            *(CONFIG, "--work-dir", tmp_path / "w"),
            *options(root.parent, f"train_dataloader.num_workers={workers}"),
        )


def test_nan_stops_with_moment_terms_and_layer(tool, data, tmp_path):
    with pytest.raises(SystemExit, match=r"iteration \d.*loss.*not finite.*[Cc]heckpoint"):
        tool("train")(CONFIG, "--work-dir", tmp_path, *options(data, "optim_wrapper.optimizer.lr=1e38"))
    assert not list(tmp_path.glob("*.pth"))


def spoil(path, how):
    weights = load_weights(path)
    bad = path.parent / f"{how}.pth"
    if how == "truncated":
        bad.write_bytes(path.read_bytes()[:-2000])
    elif how == "other":
        torch.save(dict(state_dict={"fc.weight": torch.ones(2, 2)}, meta={}), bad)
    elif how == "junk":
        bad.write_bytes(b"junk")
    elif how == "folder":
        bad.mkdir(exist_ok=True)
    elif how == "weights only":
        torch.save(dict(state_dict=weights["state_dict"]), bad)
    return bad


@pytest.mark.parametrize(
    ("how", "name", "option", "message"),
    [
        ("truncated", "test", None, "is truncated or damaged"),
        ("truncated", "train", "--resume", "is truncated or damaged"),
        ("truncated", "train", "load_from", "is truncated or damaged"),
        ("other", "test", None, "does not fit the config's model"),
        ("other", "train", "--resume", "does not fit the config's model"),
        ("other", "train", "load_from", "not one of its 1 tensors belongs"),
        ("weights only", "train", "--resume", "cannot be resumed from, it lacks meta, optimizer"),
        ("junk", "test", None, "is no PyTorch checkpoint"),
        ("folder", "train", "--resume", "the folder holds no checkpoint"),
        ("absent", "test", None, "is not a file"),
        ("absent", "train", "--resume", "is not a file"),
    ],
)
def test_bad_checkpoints(tool, data, trained, tmp_path, how, name, option, message):
    bad = spoil((trained / "latest.pth").resolve(), how)
    more = [f"load_from={bad}"] if option == "load_from" else []
    argv = [CONFIG, *([bad] if name == "test" else []), "--work-dir", tmp_path]
    argv += [option, bad] if option == "--resume" else []
    with pytest.raises(SystemExit, match=f"^{name}: .*{message}"):
        tool(name)(*argv, *options(data, *more))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("nowhere.py",), "nowhere.py is not a file"),
        ((ROOT / "configs/_base_/runtime/default.py",), "default_scope"),
        ((CONFIG, "--cfg-options", "data_root=nowhere/"), "VOC data set is not at .*nowhere.*make_demo_data"),
        ((CONFIG, "--cfg-options", "model.type=FasterRCNNN"), "FasterRCNNN is not in the .*registry"),
        ((CONFIG, "--cfg-options", "optim_wrapper.type=MyWrapper", "--amp"), "cannot replace.*MyWrapper"),
        ((CONFIG, "--cfg-options", "auto_scale_lr={}", "--auto-scale-lr"), "auto-scale-lr needs"),
        ((CONFIG, "--cfg-options", "optim_wrapper.optimizer.lr=abc"), "optimizer.lr='abc': a number is needed"),
        ((CONFIG, "--cfg-options", "randomness.seed=abc"), "randomness.seed='abc': a whole number from 0"),
        ((CONFIG, "--cfg-options", "model.backbone.base_channels=abc"), "base_channels='abc' must be a whole number"),
        ((CONFIG, "--cfg-options", "model.neck.in_channels=abc"), "type='FPN': .*in_channels='abc' is a text"),
        ((CONFIG, "--cfg-options", "model=3"), "model=3: a dict is needed"),
        ((CONFIG, "--launcher", "pytorch"), "--launcher pytorch without RANK, WORLD_SIZE"),
    ],
)
def test_train_refuses_with_one_sentence(tool, tmp_path, argv, message):
    with pytest.raises(SystemExit, match=f"(?s)^train: .*{message}") as caught:
        tool("train")(*argv, "--work-dir", tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_class_and_empty_split(tool, tmp_path):
    root = make_demo_data(tmp_path, train=2, test=1)
    xml = root / "Annotations" / "trainval_0000.xml"
    xml.write_text(re.sub("<name>[a-z]+</name>", "<name>banana</name>", xml.read_text()))
    with pytest.raises(SystemExit, match="trainval_0000.xml.*unknown class 'banana'"):
        tool("train")(CONFIG, "--work-dir", tmp_path / "w", *options(root.parent))
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("")
    with pytest.raises(SystemExit, match="trainval.txt lists no image"):
        tool("train")(CONFIG, "--work-dir", tmp_path / "w", *options(root.parent))


def test_auto_scale_lr_reaches_the_optimizer(tool, data, tmp_path):
    tool("train")(CONFIG, "--work-dir", tmp_path, "--auto-scale-lr", *options(data, "train_cfg.max_epochs=1"))
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert "Scaling the original LR by 0.25" in log  # batch 4, meant for 16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mmengine's AmpOptimWrapper needs an accelerator")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_amp(tool, data, tmp_path, dtype):
    tool("train")(CONFIG, "--work-dir", tmp_path, "--amp", *options(data, f"optim_wrapper.dtype={dtype}"))
    assert (tmp_path / "latest.pth").exists()


def test_stock_launchers_run_the_config(data, tmp_path):
    import mmdet

    tools = Path(mmdet.__file__).parent / ".mim" / "tools"
    # the stock tool does not know that data_root stands in many places
    places = [f"{split}_dataloader.dataset.data_root={data}/" for split in ("train", "val", "test")]
    more = ["--cfg-options", *TINY, *places, "train_cfg.max_epochs=1"]
    done = run(sys.executable, tools / "train.py", CONFIG, "--work-dir", tmp_path, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    done = run(sys.executable, tools / "test.py", CONFIG, tmp_path / "latest.pth", "--work-dir", tmp_path / "t", *more)
    assert done.returncode == 0 and "pascal_voc/mAP" in done.stdout + done.stderr, done.stderr[-3000:]


def test_distributed_training_and_testing(data, tmp_path):
    cpu = "model_wrapper_cfg.device_ids=None"  # the default is a GPU for each rank
    # else each rank evaluates by batch norms of its own images, and the checkpoint has those of rank 0
    shared = "default_hooks.shared.type=SyncBuffersHook"
    more = ("--launcher", "pytorch", *options(data, "train_cfg.max_epochs=1", cpu, shared))
    how = dict(cwd=ROOT, env=environment(), timeout=300)
    done = run_ranks(2, "tools/train.py", CONFIG, "--work-dir", tmp_path / "w", *more, **how)
    assert done.returncode == 0, done.stderr
    rows = scalars(tmp_path / "w")
    assert len([1 for train, _ in rows if train]) == 2  # 12 images, 2 processes, batches of 4
    words = ("tools/test.py", CONFIG, tmp_path / "w" / "latest.pth", "--work-dir", tmp_path / "t")
    done = run_ranks(2, *words, "--out", tmp_path / "two.pkl", *more, **how)
    metric = float(re.findall(r"pascal_voc/mAP: ([\d.]+)", done.stdout + done.stderr)[-1])
    assert metric == pytest.approx(rows[False, 1]["pascal_voc/mAP"], abs=1e-4)
    # that metric is about 0 so early: every image's boxes are those of one process, too, and in its order
    done = run(sys.executable, *words, "--out", tmp_path / "one.pkl", *options(data))
    assert done.returncode == 0, done.stderr
    one, two = (pickle.loads((tmp_path / f"{name}.pkl").read_bytes()) for name in ("one", "two"))
    assert [image["img_id"] for image in one] == [image["img_id"] for image in two]
    assert any(len(image["pred_instances"]["bboxes"]) for image in one)
    for mine, theirs in zip(one, two, strict=True):
        assert torch.equal(mine["pred_instances"]["bboxes"], theirs["pred_instances"]["bboxes"])


def handed_over(tmp_path, program, *command, **extra):
    """The words that a shell script hands over to ``program``, which is exchanged for one that prints them."""
    stub = tmp_path / program
    stub.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    env = environment(**extra)
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    done = subprocess.run(["bash", *command], capture_output=True, text=True, cwd=ROOT, env=env)
    return done.stdout.splitlines() or done.stderr


def test_scripts_hand_over_their_arguments(tmp_path):
    words = handed_over(tmp_path, "python", "tools/dist_train.sh", "configs/x.py", "4", "--amp", PORT="1234")
    assert {"--nproc_per_node=4", "--master_port=1234"} <= set(words)
    assert words[-5:] == ["tools/train.py", "configs/x.py", "--launcher", "pytorch", "--amp"]
    words = handed_over(tmp_path, "python", "tools/dist_test.sh", "configs/x.py", "x.pth", "4", "--out", "x.pkl")
    assert words[-7:] == ["tools/test.py", "configs/x.py", "x.pth", "--launcher", "pytorch", "--out", "x.pkl"]
    slurm = ("tools/slurm_train.sh", "part", "job", "configs/x.py", "work", "--amp")
    words = handed_over(tmp_path, "srun", *slurm, GPUS="4", GPUS_PER_NODE="2", SRUN_ARGS="--quiet --exclusive")
    assert {"part", "--ntasks=4", "--gres=gpu:2", "--quiet", "--exclusive"} <= set(words)
    assert words[-7:] == ["tools/train.py", "configs/x.py", "--work-dir", "work", "--launcher", "slurm", "--amp"]
    assert "usage: dist_train.sh CONFIG GPUS" in handed_over(tmp_path, "python", "tools/dist_train.sh", "configs/x.py")


def test_classifier_trains_and_tests_through_the_same_tools(tool, tmp_path):
    import cv2

    for split, count in (("train", 4), ("val", 2)):
        for label, value in (("dark", 20), ("light", 220)):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(folder / f"{i}.png"), np.full((32, 32, 3), value + i, np.uint8))
    config = ROOT / "configs" / "resnet18_rebnn_cifar10.py"
    more = [
        *(
            "--cfg-options",
            f"data_root={tmp_path / 'data'}",
            "train_cfg.max_epochs=1",
            "model.backbone.base_channels=8",
        ),
        *("model.head.in_channels=64", "train_dataloader.batch_size=4", "train_dataloader.num_workers=0"),
        *("val_dataloader.num_workers=0", "test_dataloader.num_workers=0"),
    ]
    tool("train")(config, "--work-dir", tmp_path / "w", *more)
    command = (config, tmp_path / "w" / "latest.pth", "--work-dir", tmp_path / "t", *more)
    tool("test")(*command, "--out", tmp_path / "out.pkl")
    assert len(pickle.loads((tmp_path / "out.pkl").read_bytes())) == 4
    react = config.with_name("resnet18_react_cifar10.py")
    with pytest.raises(SystemExit, match="^test: ReBNNConv2d trained .*latest.pth, and the config's model has ReActCo"):
        tool("test")(react, *command[1:])
    predicted = tmp_path / "packed.pkl"
    tool("export")(config, tmp_path / "w" / "latest.pth", tmp_path / "m.rebnn", *more)
    dumped = (tmp_path / "w" / config.name).read_text()
    tool("test")(config, tmp_path / "m.rebnn", "--work-dir", tmp_path / "w", "--out", predicted, *more)
    assert (tmp_path / "w" / config.name).read_text() == dumped  # the training's config is not written over
    for trained, packed in zip(*(pickle.loads(p.read_bytes()) for p in (tmp_path / "out.pkl", predicted)), strict=True):
        assert torch.equal(trained["pred_score"], packed["pred_score"])
    tool("test")(*command, "--show-dir", tmp_path / "shown")
    shown = sorted(str(path.relative_to(tmp_path / "shown")) for path in (tmp_path / "shown").rglob("*.png"))
    assert shown == ["dark/0.png", "dark/1.png", "light/0.png", "light/1.png"]
