"""Running the runs: order, environment, resuming, failing, stopping."""

import os
import signal
import threading
import time

import pytest

from rebnn_mm.compare import read_spec, run_all, write_report
from rebnn_mm.compare.record import RunRecord
from rebnn_mm.compare.schedule import _Scheduler, duration, slot_environments


def state(tmp_path, name):
    return RunRecord.load(tmp_path / "out" / name)


def test_all_runs_are_trained_once(write_spec, train, seen, tmp_path):
    spec, lines = read_spec(write_spec()), []
    assert run_all(spec, tmp_path / "out", train, jobs=2, say=lines.append) == []
    assert lines[0] == "0 of 4 runs are finished already, 4 to go"
    assert any(line.startswith("[4/4]") and "finished, acc " in line and "nothing left" in line for line in lines)
    given = seen("gamma0/seed1")
    config, out = str(tmp_path / "net.py"), str(tmp_path / "out" / "gamma0" / "seed1")
    words = ["model.width=8", "custom_hooks.0.gamma=0.0", "randomness.seed=1"]
    assert given["argv"] == [config, "--work-dir", out, "--cfg-options", *words]
    cores = len(os.sched_getaffinity(0))
    assert given["env"]["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    record = state(tmp_path, "gamma0/seed1")
    assert (record.state, record.attempts, record.seed, record.options) == ("finished", 1, 1, words)
    assert record.seconds > 0

    lines.clear()
    assert run_all(spec, tmp_path / "out", train, say=lines.append) == []
    assert lines == ["4 of 4 runs are finished already, 0 to go"]
    assert state(tmp_path, "gamma0/seed1") == record


def test_a_second_runner_on_the_same_folder_is_refused(write_spec, train, tmp_path):
    spec, out, refused = read_spec(write_spec()), tmp_path / "out", []

    def run_again(line):
        with pytest.raises(ValueError, match=f"another process trains in {out}: wait for it or stop it"):
            run_all(spec, out, train, say=lambda line: None)
        refused.append(line)

    assert run_all(spec, out, train, say=run_again) == []
    assert refused and state(tmp_path, "plain/seed0").attempts == 1
    assert run_all(spec, out, train, say=lambda line: None) == []  # the lock went with its holder


def hanging(write_spec):
    """A spec whose runs hang until they are stopped, and a function that waits until one of each entry does."""
    spec = read_spec(write_spec(("'model.width': 8", "'mode': 'hang'")))

    def wait(out):
        logs = [out / entry / "seed0" / "train.log" for entry in ("plain", "gamma0")]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not all(log.exists() and log.read_text() for log in logs):
            time.sleep(0.01)

    return spec, wait


def test_the_trainings_of_a_killed_runner_keep_the_next_one_away(write_spec, train, seen, tmp_path, monkeypatch):
    (spec, wait), out = hanging(write_spec), tmp_path / "out"

    def die(line):
        if line.startswith("started gamma0/seed0"):
            wait(out)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Scheduler, "_stop", lambda self: None)  # as SIGKILL, which stops the runner alone
        run_all(spec, out, train, jobs=2, say=die)
    refused = f"another process trains in {out}: wait for it or stop it .fuser {out}/.lock names it, and the trainings"
    for left in ("plain/seed0", "gamma0/seed0"):
        with pytest.raises(ValueError, match=refused):
            run_all(spec, out, train, say=lambda line: None)
        pid = seen(left)["pid"]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with pytest.raises(KeyboardInterrupt):  # the lock went with the last one
        run_all(spec, out, train, jobs=2, say=lambda line: signal.raise_signal(signal.SIGINT))


@pytest.mark.slow
def test_a_failed_run_is_named_and_the_others_go_on(write_spec, train, seen, tmp_path):
    spec, out = read_spec(write_spec(("{'custom_hooks.0.gamma': 0.0}", "{'mode': 'fail'}"))), tmp_path / "out"
    (failure,) = run_all(spec, out, train, jobs=1, say=lambda line: None)
    assert failure == f"gamma0/seed0 failed: exit status 1: train: it broke; log: {out}/gamma0/seed0/train.log"
    assert [state(tmp_path, f"{e}/seed{s}").state for e in ("plain", "gamma0") for s in (0, 1)] == [
        *("finished", "finished", "failed", "finished"),
    ]
    assert "Without a result: gamma0/seed0 (failed)." in write_report(spec, out)
    lines = []
    run_all(spec, out, train, say=lines.append)  # again, from its checkpoint
    assert lines[0].startswith("3 of 4") and "--resume" in seen("gamma0/seed0")["argv"]
    assert state(tmp_path, "gamma0/seed0").attempts == 2


def test_a_run_waits_for_the_runs_it_names(write_spec, train, tmp_path):
    """The student is first in the spec, and fails without its teacher's result; every slot is free for it."""
    out, lines = tmp_path / "out", []
    options = "{'needs': '{out}/gamma0/seed1'}"
    path = write_spec(
        ("plain=dict(config='net.py')", f"plain=dict(config='net.py', after='gamma0', options={options})")
    )
    assert run_all(read_spec(path), out, train, jobs=4, say=lines.append) == []
    order = [line.split()[1].rstrip(",") for line in lines if line.startswith("started")]
    assert {*order[:2]} == {"gamma0/seed0", "gamma0/seed1"} and {*order[2:]} == {"plain/seed0", "plain/seed1"}
    assert all(state(tmp_path, name).attempts == 1 for name in order)


def test_a_folder_that_an_option_cannot_name_is_refused_before_anything_is_trained(write_spec, train, tmp_path):
    spec = read_spec(write_spec(("'model.width': 8", "'needs': '{out}/plain'")))
    with pytest.raises(ValueError, match="option needs='.*my out/plain' cannot be given as --cfg-options"):
        run_all(spec, tmp_path / "my out", train)
    assert not list((tmp_path / "my out").glob("*/*"))


@pytest.mark.slow
def test_what_comes_after_a_failed_run_is_left_out_and_taken_up_later(write_spec, train, tmp_path):
    path = write_spec(
        ("plain=dict(config='net.py')", "plain=dict(config='net.py', options={'mode': 'fail'})"),
        ("0.0}))", "0.0}, after='plain/seed0'), last=dict(config='net.py', after=['gamma0/seed1'], seeds=[3]))"),
    )
    spec, out = read_spec(path), tmp_path / "out"
    failed, *left = run_all(spec, out, train, jobs=2, say=lambda line: None)
    assert failed.startswith("plain/seed0 failed: exit status 1: train: it broke")
    again = "; the same command takes it up again"
    assert left == [
        f"gamma0/seed0 was not run: it comes after plain/seed0, which failed{again}",
        f"gamma0/seed1 was not run: it comes after plain/seed0, which failed{again}",
        f"last/seed3 was not run: it comes after gamma0/seed1, which was not run{again}",
    ]
    assert "plain/seed0 (failed), gamma0/seed0 (not started), gamma0/seed1 (not started), last/seed3 (not st" in (
        write_report(spec, out)
    )
    (out / "mended").touch()
    lines = []
    assert run_all(spec, out, train, jobs=2, say=lines.append) == [] and lines[0].startswith("1 of 5")
    assert state(tmp_path, "last/seed3").state == "finished"


def test_a_finished_run_without_its_log_is_trained_again(write_spec, train, tmp_path):
    spec, out, lines = read_spec(write_spec(("[0, 1]", "[0]"))), tmp_path / "out", []
    run_all(spec, out, train, say=lambda line: None)
    for log in (out / "plain" / "seed0").glob("*/vis_data/scalars.json"):
        log.unlink()
    with pytest.raises(FileNotFoundError, match="plain/seed0 has no TIMESTAMP/vis_data/scalars.json"):
        write_report(spec, out)
    assert run_all(spec, out, train, say=lines.append) == [] and lines[0].startswith("1 of 2")
    assert "plain" in write_report(spec, out)


def test_a_metric_that_nobody_logged(write_spec, train, tmp_path):
    spec = read_spec(write_spec(("'model.width': 8", "'mode': 'other'")))
    failures = run_all(spec, tmp_path / "out", train, say=lambda line: None)
    assert len(failures) == 4 and "no validation logged 'acc', there are other: correct the spec" in failures[0]


def test_a_last_epoch_without_its_metric(write_spec, train, tmp_path):
    path = write_spec()
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text().replace("max_epochs=2", "max_epochs=3"))
    failures = run_all(read_spec(path), tmp_path / "out", train, say=lambda line: None)
    assert len(failures) == 4 and r"'acc' after the last epoch or iteration (3) is not on record" in failures[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'custom_hooks.0.gamma': 0.0", "'custom_hooks.0.gamma': 0.1", r"-custom_hooks.0.gamma=0.0 \+custom.*=0.1"),
        ("depth=18", "depth=34", "net.py or one of its bases was edited since"),
    ],
)
def test_changed_settings_are_refused(write_spec, train, tmp_path, old, new, message):
    path = write_spec()
    run_all(read_spec(path), tmp_path / "out", train, say=lambda line: None)
    for file in (path, tmp_path / "net.py"):
        file.write_text(file.read_text().replace(old, new))
    for report in (
        lambda spec: run_all(spec, tmp_path / "out", train),
        lambda spec: write_report(spec, tmp_path / "out"),
    ):
        with pytest.raises(ValueError, match=rf"was trained with other settings \(.*{message}\): choose another --out"):
            report(read_spec(path))


def test_foreign_and_damaged_folders(write_spec, train, tmp_path):
    spec, out = read_spec(write_spec()), tmp_path / "out"
    folder = out / "plain" / "seed1"
    (folder / "x" / "vis_data").mkdir(parents=True)
    (folder / "x" / "vis_data" / "scalars.json").touch()
    with pytest.raises(ValueError, match="holds a training without run.json"):
        run_all(spec, out, train)
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json is damaged.*remove .*seed1"):
        run_all(spec, out, train)
    assert not (out / "plain" / "seed0").exists()


def test_bad_jobs_and_a_training_without_an_end(write_spec, train, tmp_path):
    path = write_spec()
    with pytest.raises(ValueError, match="jobs=0: at least one"):
        run_all(read_spec(path), tmp_path / "out", train, jobs=0)
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text().replace(", max_epochs=2", ""))
    with pytest.raises(ValueError, match="neither train_cfg.max_epochs nor"):
        run_all(read_spec(path), tmp_path / "out", train)


@pytest.fixture
def heard():
    """SIGHUP as a terminal has it: a shell's nohup, around these tests, ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_stops_the_children_and_the_same_call_goes_on(write_spec, train, seen, tmp_path, number):
    (spec, wait), out = hanging(write_spec), tmp_path / "out"

    def stop():
        wait(out)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match="stopped while training plain/seed0, gamma0/seed0; the same command"):
        run_all(spec, out, train, jobs=2, say=lambda line: None)
    thread.join()
    assert signal.getsignal(number) == before
    for entry in ("plain", "gamma0"):  # each ended by itself, and is no failure
        assert (out / entry / "seed0" / "stopped").exists()
        assert state(tmp_path, f"{entry}/seed0").state == "running"
    # what was never started would hang again: give it a checkpoint
    for entry in ("plain", "gamma0"):
        (out / entry / "seed1").mkdir(parents=True)
        (out / entry / "seed1" / "last_checkpoint").touch()
    assert run_all(spec, out, train, jobs=2, say=lambda line: None) == []
    assert "--resume" in seen("plain/seed0")["argv"] and state(tmp_path, "plain/seed0").attempts == 2


def test_a_hangup_that_nohup_ignores_stays_ignored(write_spec, train, tmp_path):
    spec, before = read_spec(write_spec()), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_all(spec, tmp_path / "out", train, say=lambda line: signal.raise_signal(signal.SIGHUP)) == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_gpus_are_dealt_out(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in slot_environments(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-ab")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in slot_environments(2)] == ["5", "GPU-ab"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert all("CUDA_VISIBLE_DEVICES" not in e for e in slot_environments(2))


def test_durations():
    assert [duration(s) for s in (3.4, 89, 90, 5000, 12000)] == ["3 s", "89 s", "2 min", "83 min", "3 h 20 min"]
