"""Specs on a tiny config, and a training program that logs as tools/train.py does, without a network."""

import json
import textwrap

import pytest

CONFIG = """
default_scope = 'mmpretrain'
model = dict(backbone=dict(depth=18))
custom_hooks = [dict(type='BalanceHook', magnitude='weight')]
train_cfg = dict(by_epoch=True, max_epochs=2)
"""
SPEC = """
metric = 'acc'
seeds = [0, 1]
baseline = 'plain'
options = {'model.width': 8}
entries = dict(
    plain=dict(config='net.py'),
    gamma0=dict(config='net.py', options={'custom_hooks.0.gamma': 0.0}))
"""
# Logs 10 * seed + 5 with gamma 0 after each epoch; what else it does say the options: fail, hang, other metric, short.
TRAIN = """
import json, pathlib, os, sys, time
work_dir = pathlib.Path(sys.argv[sys.argv.index("--work-dir") + 1])
options = dict(word.split("=", 1) for word in sys.argv[sys.argv.index("--cfg-options") + 1:])
seed, mode = int(options["randomness.seed"]), options.get("mode", "")
(work_dir / "seen.json").write_text(json.dumps(dict(argv=sys.argv[1:], env=dict(os.environ), pid=os.getpid())))
(work_dir / "last_checkpoint").write_text("")
attempt = work_dir / str(time.time_ns()) / "vis_data"
attempt.mkdir(parents=True)
if "needs" in options and not list(pathlib.Path(options["needs"]).glob("*/vis_data/scalars.json")):
    sys.exit("train: no teacher")
if mode == "fail" and seed == 0 and not (work_dir.parents[1] / "mended").exists():
    sys.exit("train: it broke")
if mode == "hang" and "--resume" not in sys.argv:
    print("hanging", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (work_dir / "stopped").touch()
        sys.exit(130)
with open(attempt / "scalars.json", "w") as file:
    for epoch in (1,) if mode == "short" else (1, 2):
        rows = [{"loss": 1.0, "time": 0.1, "rebnn/flip_share": 0.01 / epoch, "iter": epoch, "step": epoch}]
        value = 10 * seed + epoch + 5 * ("custom_hooks.0.gamma" in options)
        rows += [{"other" if mode == "other" else "acc": value, "time": 0.1, "step": epoch}]
        print(*map(json.dumps, rows), sep="\\n", file=file)
"""


@pytest.fixture
def write_spec(tmp_path):
    """``write_spec(OLD=NEW ...)``: path of the spec, with texts in it replaced."""

    pytest.importorskip("mmpretrain")  # a run's config is read as the run reads it, with its library

    def write(*edits):
        text = SPEC
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "net.py").write_text(textwrap.dedent(CONFIG))
        path = tmp_path / "spec.py"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def train(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(TRAIN)
    return path


@pytest.fixture
def seen(tmp_path):
    """What the training program of a run was given: ``seen('ENTRY/seedN')``."""
    return lambda name: json.loads((tmp_path / "out" / name / "seen.json").read_text())
