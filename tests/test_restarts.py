"""torchrun, started again after a rank has died or with another number of ranks, goes on from the last checkpoint.

The command is given again, as a queue does. torchrun's own restart within one command is not used here: over gloo
(torch 2.11) the new ranks now and then do not find one another.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import run_ranks

pytest.importorskip("mmpretrain")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("restarts")]  # one worker, which trains once to compare with
ROOT = Path(__file__).resolve().parents[1]
HELPERS = ROOT / "tests" / "helpers"
IMAGES, EPOCHS, RANKS = 12, 3, 2
PER_EPOCH = 3  # iterations: 12 images, 2 ranks, batches of 2
LOADERS = {f"{split}_dataloader.num_workers": 0 for split in ("train", "val", "test")}
LOADERS |= {f"{split}_dataloader.batch_size": 2 for split in ("train", "val")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve noisy images of two classes to train on, four to validate; a config."""
    root = tmp_path_factory.mktemp("restarts")
    rng = np.random.default_rng(0)
    for split, count in (("train", IMAGES // 2), ("val", 2)):
        for label, value in (("dark", 20), ("light", 180)):
            (root / "data" / split / label).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 60, (32, 32, 3)) + value
                Image.fromarray(noise.astype(np.uint8)).save(root / "data" / split / label / f"{i}.png")
    (root / "config.py").write_text(f"""
_base_ = ['{ROOT}/configs/resnet18_rebnn_cifar10.py']
custom_imports = dict(_delete_=True, imports=['rebnn_mm', 'rebnn_mm.integrations.classification', 'faulty_rank'])
model = dict(backbone=dict(base_channels=8), head=dict(in_channels=64, num_classes=2))
train_cfg = dict(max_epochs={EPOCHS}, val_interval=1)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1))
model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)
custom_hooks = [
    dict(type='BalanceHook', magnitude='gradient', flip_interval=3), dict(type='OscillationHook', interval=2)]
""")
    return root


def train(data, out, *more, ranks=RANKS, work_dir=None, fault=None):
    """The finished torchrun, given once more if a rank of it died, and what every rank left."""
    out.mkdir(exist_ok=True)
    hook = dict(type="Fault", folder=str(out), **(fault or {}))
    config = out / "config.py"
    config.write_text((data / "config.py").read_text() + f"custom_hooks += [{hook!r}]\n")
    loaders = [f"{name}={value}" for name, value in LOADERS.items()]
    words = ["--launcher", "pytorch", "--work-dir", str(work_dir or out / "work")]
    words += [*(more or ["--resume"]), "--cfg-options", f"data_root={data / 'data'}"]
    paths = os.pathsep.join(filter(None, [str(HELPERS), os.environ.get("PYTHONPATH", str(ROOT))]))
    # signs flip within nine updates, so that gamma is not 0
    words += ["optim_wrapper.optimizer.lr=0.2", *loaders]
    how = dict(killed=out / "died", cwd=ROOT, timeout=500, env=dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS="1"))
    run = partial(run_ranks, ranks, "tools/train.py", config, *words, **how)
    done = run()
    if fault:
        assert done.returncode != 0 and (out / "died").exists(), done.stderr
        done = run()
    left = [torch.load(out / f"rank{rank}.pt") for rank in range(ranks)] if done.returncode == 0 else []
    return done, left


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Folder, and what the ranks left, of a run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole")
    done, left = train(data, out)
    assert done.returncode == 0, done.stderr
    return out, left


def assert_equal(one, other):
    """The same weights, bit for bit; each a dict of tensors."""
    assert one.keys() == other.keys()
    for name, value in other.items():
        assert torch.equal(one[name], value), name


def shared(weights):
    """What is one on all ranks: all but the statistics of batch norms, which each rank has of its own images."""
    return {name: value for name, value in weights.items() if "running_" not in name}


def seen(left, epoch):
    return sorted(image for rank in left for image in rank["images"][epoch])


def test_ranks_agree_and_share_the_images(whole):
    _, left = whole
    gammas = {name: value for name, value in left[0]["weights"].items() if name.endswith("gamma")}
    assert gammas.keys() <= shared(left[1]["weights"]).keys() and any(value.any() for value in gammas.values())
    assert_equal(shared(left[0]["weights"]), shared(left[1]["weights"]))
    for epoch in range(EPOCHS):
        assert len(set(seen(left, epoch))) == len(seen(left, epoch)) == IMAGES


@pytest.mark.parametrize(
    ("fault", "start"),
    [
        (dict(rank=1, iteration=PER_EPOCH + 2), 1),  # in the second epoch
        (dict(rank=0, saving="epoch_2.pth"), 1),
    ],
)
def test_a_rank_that_dies_costs_nothing_but_time(data, whole, tmp_path, fault, start):
    done, left = train(data, tmp_path, fault=fault)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists() and {rank["start"] for rank in left} == {start}
    assert_equal(left[0]["weights"], whole[1][0]["weights"])
    assert_equal(shared(left[1]["weights"]), shared(whole[1][1]["weights"]))
    assert not list((tmp_path / "work").glob(".*.part"))


def test_another_number_of_ranks_goes_on(data, whole, tmp_path):
    checkpoint = whole[0] / "work" / "epoch_1.pth"
    done, left = train(data, tmp_path, "--resume", str(checkpoint), ranks=1)
    assert done.returncode == 0, done.stderr
    assert left[0]["start"] == 1 and "an epoch has 6 iterations and had 3" in done.stdout + done.stderr
    assert sorted(left[0]["images"]) == [1, 2]
    for epoch in (1, 2):
        assert len(set(seen(left, epoch))) == len(seen(left, epoch)) == IMAGES
    assert (tmp_path / "work" / f"epoch_{EPOCHS}.pth").exists()


def test_ranks_that_would_go_on_from_different_places_are_refused(data, whole, tmp_path):
    (tmp_path / "0").symlink_to(whole[0] / "work")
    done, _ = train(data, tmp_path / "out", work_dir=tmp_path / "{rank}")
    assert done.returncode != 0
    assert "rank 1 starts anew: the work dir must be one folder that all machines share" in done.stderr
