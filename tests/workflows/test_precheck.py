import json
from types import SimpleNamespace

import pytest

pytest.importorskip("mmdet")

import torch  # noqa: E402
from mmdet.registry import METRICS  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.evaluator import Evaluator  # noqa: E402

from rebnn_mm.errors import UserError  # noqa: E402
from rebnn_mm.integrations import detection  # noqa: E402, F401  # registers the metrics
from rebnn_mm.workflows.launch import build_runner  # noqa: E402
from rebnn_mm.workflows.precheck import (  # noqa: E402
    check_launcher,
    check_loaders,
    check_loop,
    check_strategy,
    explain_batch_of_one,
)


@pytest.mark.parametrize("name", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_persistent_workers_need_workers(name):
    check_loaders(Config({name: dict(num_workers=2, persistent_workers=True)}))
    check_loaders(Config({name: dict(num_workers=0, persistent_workers=False), "val_dataloader": None}))
    for workers in (dict(num_workers=0), dict()):
        with pytest.raises(ValueError, match=f"set {name}.persistent_workers=False"):
            check_loaders(Config({name: dict(persistent_workers=True, **workers)}))


@pytest.mark.parametrize(
    ("launcher", "variable", "how"),
    [
        ("pytorch", "RANK", "torchrun .tools/dist_train.sh CONFIG GPUS"),
        ("slurm", "SLURM_PROCID", "srun .tools/slurm_train.sh"),
        ("mpi", "OMPI_COMM_WORLD_RANK", "mpirun"),
    ],
)
def test_a_launcher_that_has_not_started_the_process(monkeypatch, launcher, variable, how):
    check_launcher("none")
    monkeypatch.delenv(variable, raising=False)
    message = f"--launcher {launcher} without .*{variable}.* in the environment: start it with {how}.*leave"
    with pytest.raises(UserError, match=message):
        check_launcher(launcher)


def test_a_launcher_that_has_started_the_process(monkeypatch):
    for variable in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(variable, "1")
    check_launcher("pytorch")


@pytest.fixture
def loop(tmp_path):
    def build(kind, mended=(), other=None):
        path = tmp_path / "val.json"
        image, box = dict(id=1, file_name="a.jpg", width=9, height=9), dict(id=1, image_id=1, category_id=1, iscrowd=0)
        content = dict(images=[image], annotations=[dict(box, bbox=[1, 1, 2, 2])], categories=[dict(id=1, name="a")])
        path.write_text(json.dumps(content))
        metric = METRICS.build(dict(type=kind, _scope_="mmdet", ann_file=str(path)))
        dataset = SimpleNamespace(ann_file=other or str(path), mended=mended)
        return SimpleNamespace(evaluator=Evaluator([metric]), dataloader=SimpleNamespace(dataset=dataset))

    return build


def test_the_stock_metric_reads_what_the_data_set_mended(loop):
    check_loop(loop("CocoMetric"))
    check_loop(loop("CheckedCocoMetric", mended=("val.json: no iscrowd",)))
    with pytest.raises(ValueError, match="val.json: no iscrowd; CocoMetric reads the file as it is.*CheckedCocoMetric"):
        check_loop(loop("CocoMetric", mended=("val.json: no iscrowd",)))


def test_a_metric_of_another_file(loop, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    check_loop(loop("CheckedCocoMetric", other=str(tmp_path / "link" / "val.json")))
    with pytest.raises(ValueError, match=r"evaluates against .*val.json, and the data set is other.json"):
        check_loop(loop("CheckedCocoMetric", other="other.json"))


def test_loops_without_evaluator_or_file():
    check_loop(None)
    check_loop(SimpleNamespace(evaluator=Evaluator([]), dataloader=SimpleNamespace(dataset=[1])))


def test_a_last_batch_of_one():
    with pytest.raises(ValueError) as stock:
        torch.nn.BatchNorm2d(2)(torch.zeros(1, 2, 1, 1))
    with pytest.raises(ValueError, match=r"set train_dataloader.drop_last=True"):
        explain_batch_of_one(stock.value)
    explain_batch_of_one(ValueError("anything else"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("strategy", "FSDPStrategy"),
        ("strategy", "mmengine.DeepSpeedStrategy"),
        ("strategy", "ColossalAIStrategy"),
        ("model_wrapper_cfg", "MMFullyShardedDataParallel"),
        ("optim_wrapper", "DeepSpeedOptimWrapper"),
    ],
)
def test_strategies_that_split_weights_are_refused(name, kind):
    with pytest.raises(UserError, match=f"{name}.type='{kind.split('.')[-1]}' splits.*tools/dist_train.sh CONFIG GPUS"):
        build_runner(Config({name: dict(type=kind), "runner_type": "FlexibleRunner"}))


def test_strategies_that_keep_weights_whole_pass():
    check_strategy(Config(dict(strategy=dict(type="DDPStrategy"), model_wrapper_cfg=None, optim_wrapper=dict())))
