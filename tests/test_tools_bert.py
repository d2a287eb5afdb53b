"""BERT through the tools: train, resume, test, export, the packed file, GLUE's table, on a few rows as published."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("mmdet")

import torch

from rebnn_mm.integrations.checkpoint import load_weights

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "bert_rebnn_tiny_glue_rte.py"
spec = importlib.util.spec_from_file_location("glue_files", ROOT / "tests" / "bert" / "conftest.py")
glue_files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(glue_files)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield glue_files.write_glue(tmp_path_factory.mktemp("glue"))
    torch.set_num_threads(before)


def options(data, work_dir, *more):
    return (
        *("--work-dir", work_dir, "--cfg-options", f"data_root={data}", "model.bert.vocab_size=64"),
        *("model.bert.hidden_size=32", "model.bert.intermediate_size=48", "train_dataloader.batch_size=4"),
        *("train_cfg.max_epochs=2", f"train_dataloader.dataset.cache_dir={data / 'cache'}", *more),
    )


@pytest.fixture(scope="module")
def trained(tool, data, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("run")
    tool("train")(CONFIG, *options(data, work_dir))
    return work_dir


def scalars(work_dir):
    files = sorted(Path(work_dir).glob("*/vis_data/scalars.json"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_train_logs_metrics_gamma_and_oscillation(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"epoch_2.pth", "latest.pth", "oscillation.bin"} <= names
    assert any(name.startswith("best_glue_score") for name in names)
    rows = scalars(trained)
    assert any("rebnn/flip_share" in row for row in rows) and any("glue/accuracy" in row for row in rows)


def test_resume_goes_on_as_if_nothing_had_happened(tool, data, trained, tmp_path):
    tool("train")(CONFIG, *options(data, tmp_path, "train_cfg.max_epochs=2", "default_hooks.checkpoint.interval=1"))
    (tmp_path / "epoch_2.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_1.pth"))
    tool("train")(CONFIG, "--resume", *options(data, tmp_path))
    whole, resumed = (load_weights(folder / "epoch_2.pth")["state_dict"] for folder in (trained, tmp_path))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_packed_file_gives_the_same_metric_and_submission(tool, data, trained, tmp_path, capfd):
    packed = tmp_path / "m.rebnn"
    tool("export")(CONFIG, trained / "latest.pth", packed, *options(data, tmp_path)[2:])
    assert "packed and trained model gave the same bits on 2 inputs" in capfd.readouterr().out
    for number, weights in enumerate((trained / "latest.pth", packed)):
        tool("test")(CONFIG, weights, *options(data, tmp_path / "t"))
        shown = capfd.readouterr()
        found = float(re.findall(r"glue/accuracy: ([\d.]+)", shown.out + shown.err)[-1])
        assert found == pytest.approx([row for row in scalars(trained) if "glue/accuracy" in row][-1]["glue/accuracy"])
        more = ("test_dataloader.dataset.split=test", f"test_evaluator.submission_dir={tmp_path / str(number)}")
        tool("test")(CONFIG, weights, *options(data, tmp_path / "t", *more))
    first, second = ((tmp_path / name / "RTE.tsv").read_text() for name in ("0", "1"))
    assert first == second and re.fullmatch(r"index\tprediction\n(\d\t(not_)?entailment\n){5}", first)


def test_get_flops_counts_a_text(tool, capfd):
    tool("get_flops")(CONFIG, "--shape", 64)
    out = capfd.readouterr().out
    # per layer 64 tokens x (4 * 128 * 128 + 2 * 128 * 512)
    assert f"{2 * 64 * (4 * 128**2 + 2 * 128 * 512):,}" in out and "for one text of 64 tokens" in out
    with pytest.raises(SystemExit, match="shape 8 x 8: tokens, as in --shape 128"):
        tool("get_flops")(CONFIG, "--shape", 8, 8)


def test_picture_tools_say_that_texts_have_none(tool, tmp_path):
    with pytest.raises(SystemExit, match="the config's data are texts"):
        tool("browse_dataset")(CONFIG, "--out", tmp_path)


def test_a_malformed_row_ends_training_with_one_sentence(tool, data, tmp_path):
    glue = glue_files.write_glue(tmp_path / "glue")
    with open(glue / "RTE" / "train.tsv", "a") as file:
        file.write("12\tonly one\n")
    with pytest.raises(SystemExit, match="RTE/train.tsv, line 14: 2 columns, 4 expected"):
        tool("train")(CONFIG, *options(glue, tmp_path / "w"))


def test_glue_runs_task_after_task_and_prints_the_table(tool, data, tmp_path, capfd):
    command = (CONFIG, "--tasks", "mrpc", "cola", "--submission", tmp_path / "s", *options(data, tmp_path / "g"))
    tool("glue")(*command, "train_cfg.max_epochs=1")
    shown = capfd.readouterr()
    table = shown.out.splitlines()[-3:]
    # experiments of one name, begun in one second, would share mmengine's best score, and one would save no best model
    assert all(f"Exp name: {Path(CONFIG).stem}_{task}_" in shown.out + shown.err for task in ("mrpc", "cola"))
    assert re.match(r"cola +-?\d+\.\d\d  matthews", table[0]) and re.match(r"mrpc .*accuracy .*, f1", table[1])
    assert re.match(r"mean .* of 2 tasks", table[2])
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"MRPC.tsv", "CoLA.tsv"}
    tool("glue")("--resume", *command, "train_cfg.max_epochs=1")
    shown = capfd.readouterr()
    assert "cola is finished" in shown.out + shown.err and shown.out.splitlines()[-3:] == table


def test_glue_looks_at_all_data_before_it_trains(tool, data, tmp_path):
    with pytest.raises(SystemExit, match="no file .*QNLI/train.tsv"):
        tool("glue")(CONFIG, "--tasks", "rte", "qnli", *options(data, tmp_path / "g"))
    assert not (tmp_path / "g").exists()
    with pytest.raises(SystemExit, match="task 'squad'"):
        tool("glue")(CONFIG, "--tasks", "squad", *options(data, tmp_path / "g"))
