"""Training the runs of a comparison, several at a time, each as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rebnn_mm.analysis.scalars import read_scalars
from rebnn_mm.compare.record import RunRecord, check_result, chosen_value, code_version, last_step, open_record
from rebnn_mm.compare.spec import Run, Spec
from rebnn_mm.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOG = "train.log"
_END_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_LOCK = ".lock"
_POLL = 0.1  # seconds between looks at the processes
_PATIENCE = 60.0  # seconds that a stopped process gets to end by itself


@dataclass
class _Job:
    """A run that is being trained."""

    run: Run
    folder: Path
    record: RunRecord
    process: subprocess.Popen
    slot: int
    start: float


def run_all(
    spec: Spec, out: str | Path, train: str | Path, jobs: int | None = None, say: Callable[[str], None] = print
) -> list[str]:
    """Train what is not finished yet; returns a sentence for each run that failed, or waited for one that did.

    Args:
        spec: What to train.
        out: Folder of the comparison; a run's own is ``out/ENTRY/seedN``.
        train: Path of ``tools/train.py``.
        jobs: Runs at a time; by default one a GPU, without GPUs one a core.
        say: Takes the lines of progress.

    Raises:
        ValueError: ``jobs`` below 1, a folder of a run holds one with other settings, or another process trains in
            ``out``, also one that a killed runner left. Nothing was started then.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP (the terminal closes; nohup keeps it away). The processes are
            stopped, and the message says how to go on.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"jobs={jobs}: at least one run at a time")
    out = Path(out)
    with _held(out) as lock:
        records = {run.name: open_record(run, out / run.name) for run in spec.runs}
        for run in spec.runs:
            last_step(run)
            run.words(out)  # a folder that --cfg-options cannot name is refused before anything is trained
        waiting = [
            run for run in spec.runs if records[run.name].state != "finished" or check_result(spec, run, out / run.name)
        ]
        say(f"{len(spec.runs) - len(waiting)} of {len(spec.runs)} runs are finished already, {len(waiting)} to go")
        environments = slot_environments(min(jobs or _default_jobs(), len(waiting)))
        return _Scheduler(spec, out, Path(train), environments, say, lock).run(waiting, records)


def slot_environments(jobs: int) -> list[dict[str, str]]:
    """What each of ``jobs`` processes finds in its environment: its share of the cores, and its GPU if there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // max(1, jobs)))
    environments = [dict(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads) for _ in range(jobs)]
    gpus = visible_gpus()
    for slot, environment in enumerate(environments):
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return environments


def visible_gpus() -> list[str]:
    """Names of this process's GPUs, as ``CUDA_VISIBLE_DEVICES`` takes them."""
    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in given.split(",")][:count] if given else [str(index) for index in range(count)]


class _Scheduler:
    """Starts runs as slots become free, and reports each end."""

    def __init__(
        self,
        spec: Spec,
        out: Path,
        train: Path,
        environments: Sequence[dict[str, str]],
        say: Callable[[str], None],
        lock: tuple[int, ...],
    ) -> None:
        self.spec, self.out, self.train, self.environments, self.say = spec, out, train, environments, say
        self.lock = lock  # see _held
        self.active: list[_Job] = []
        self.failures: list[str] = []
        self.ended: list[float] = []  # seconds each
        self.unfinished: set[str] = set()  # names of the runs that wait or are trained
        self.blocked: dict[str, str] = {}  # name of a run that came to nothing -> what happened to it

    def run(self, waiting: list[Run], records: dict[str, RunRecord]) -> list[str]:
        """Train all of ``waiting``; returns the failures."""
        queue, total = list(waiting), len(waiting)
        self.unfinished = {run.name for run in waiting}
        before = _interrupt_on_end_signals()
        try:
            while queue or self.active:
                while len(self.active) < len(self.environments) and (run := self._next(queue)):
                    self._start(run, records[run.name])
                time.sleep(_POLL)
                for job in [job for job in self.active if job.process.poll() is not None]:
                    self.unfinished.discard(job.run.name)
                    if not self._end(job, total, left=len(queue) + len(self.active) - 1):
                        self.blocked[job.run.name] = "failed"
                self._leave_out(queue)
        except KeyboardInterrupt:
            names = ", ".join(job.run.name for job in self.active)
            raise KeyboardInterrupt(
                f"stopped while training {names or 'nothing'}; the same command goes on from the newest checkpoints"
            ) from None
        finally:
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.failures

    def _next(self, queue: list[Run]) -> Run | None:
        """Take the first run off ``queue`` that waits for none; None if there is no such."""
        for place, run in enumerate(queue):
            if not self.unfinished.intersection(run.after) and not self.blocked.keys() & set(run.after):
                return queue.pop(place)
        return None

    def _leave_out(self, queue: list[Run]) -> None:
        """Take the runs off ``queue`` that wait for one which failed, or was left out itself."""
        while late := [run for run in queue if self.blocked.keys() & set(run.after)]:
            for run in late:
                why = next(f"{name}, which {self.blocked[name]}" for name in run.after if name in self.blocked)
                queue.remove(run)
                self.unfinished.discard(run.name)
                self.blocked[run.name] = "was not run"
                self.failures.append(
                    f"{run.name} was not run: it comes after {why}; the same command takes it up again"
                )
                self.say(f"{run.name} is left out, it comes after {why}")

    def _start(self, run: Run, record: RunRecord) -> None:
        folder = self.out / run.name
        record = replace(record, state="running", attempts=record.attempts + 1, commit=code_version())
        record.save(folder)
        resumed = (folder / "last_checkpoint").exists()
        command = [sys.executable, str(self.train), str(run.config), "--work-dir", str(folder)]
        command += ["--resume"] if resumed else []
        command += ["--cfg-options", *run.words(self.out)]
        taken = {job.slot for job in self.active}
        slot = next(slot for slot in range(len(self.environments)) if slot not in taken)
        environment = {**os.environ, **self.environments[slot]}
        with open(folder / LOG, "a") as log:
            # In a session of its own: Ctrl-C reaches this process alone, which stops the others in order.
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=self.lock,
            )
        self.active.append(_Job(run, folder, record, process, slot, time.monotonic()))
        self.say(f"{'resumed' if resumed else 'started'} {run.name}, log {folder / LOG}")

    def _end(self, job: _Job, total: int, left: int) -> bool:
        """Save and say how a run ended; whether it is finished."""
        self.active.remove(job)
        seconds = time.monotonic() - job.start
        problem = _last_words(job) if job.process.returncode else check_result(self.spec, job.run, job.folder)
        job.record.after("failed" if problem else "finished", seconds).save(job.folder)
        self.ended.append(seconds)
        eta = sum(self.ended) / len(self.ended) * left / len(self.environments)
        if problem:
            self.failures.append(f"{job.run.name} failed: {problem}; log: {job.folder / LOG}")
            result = "FAILED"
        else:
            result = f"finished, {self.spec.metric} {chosen_value(self.spec, read_scalars(job.folder)):.4g}"
        rest = f"about {duration(eta)} left" if left else "nothing left"
        self.say(f"[{total - left}/{total}] {job.run.name} {result}, after {duration(seconds)}; {rest}")
        return not problem

    def _stop(self) -> None:
        """Interrupt what still runs, as Ctrl-C would; whoever does not listen is killed, at once on a second Ctrl-C."""
        for job in self.active:
            job.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _PATIENCE
        try:
            for job in self.active:
                with suppress(subprocess.TimeoutExpired):
                    job.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for job in self.active:
                job.process.kill()  # nothing happens to one that has ended
                job.process.wait()
            for job in self.active:  # now that all have stopped: saving may fail, on a full disk
                job.record.after("running", time.monotonic() - job.start).save(job.folder)


def duration(seconds: float) -> str:
    """``'45 s'``, ``'12 min'`` or ``'3 h 20 min'``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def _held(out: Path) -> Iterator[tuple[int, ...]]:
    """Keep a second runner away from ``out``: two would write the same checkpoints.

    The lock belongs to the file that is open here, which trainings inherit (``pass_fds``): the kernel lets go of it
    when the last of them has ended, however that was, so that the trainings of a killed runner hold it, too. Windows
    has no such lock and goes without.

    Yields:
        The open file's number, or nothing on Windows.
    """
    if fcntl is None:
        yield ()
        return
    out.mkdir(parents=True, exist_ok=True)
    with open(out / _LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process trains in {out}: wait for it or stop it (fuser {out / _LOCK} names it, and the "
                "trainings of one that was killed); --report-only looks at what is finished"
            ) from None
        yield (file.fileno(),)


def _default_jobs() -> int:
    if gpus := len(visible_gpus()):
        return gpus
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _last_words(job: _Job) -> str:
    """The log's last line, which is train.py's sentence or the end of a traceback."""
    lines = (job.folder / LOG).read_text(errors="replace").strip().splitlines()
    return f"exit status {job.process.returncode}: {lines[-1] if lines else 'no output'}"


def _interrupt_on_end_signals() -> dict[int, Any]:
    """Let SIGTERM and SIGHUP interrupt as Ctrl-C does; the handlers of before, by signal.

    One that is ignored stays so: nohup ignores SIGHUP to go on without a terminal. Windows has no SIGHUP.
    """
    heard = [number for number in _END_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, _interrupt) for number in heard}


def _interrupt(*_: object) -> None:
    """Once: a terminal that closes may send several, and a second one would kill trainings that are being stopped."""
    for name in _END_SIGNALS:
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt
