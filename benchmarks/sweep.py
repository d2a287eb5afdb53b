"""Make stock models of mmpretrain or mmdet 1-bit, train a step, export and time them: one config of each folder.

With rebnn_mm it takes this package's own configs, which are 1-bit as they are.

python benchmarks/sweep.py mmpretrain|mmdet|rebnn_mm [--only PATTERN] [--missing] [--time] [--page docs/sweep.md]

Each model runs in a process of its own, with random weights and without a network. Results are JSON lines in
``--out``. ``--page`` adds the lines of all libraries to the page's rows, which it reads first; rows of the same model
are replaced. A sweep takes what is not done with the package's commit, by the lines or by the page, so one that was
interrupted goes on where it stopped; with ``--missing`` rows of other commits are left as they are, and ``--only -``
does nothing but write the page.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import sweep_page
from sweep_configs import LIBRARIES, folders
from sweep_rows import results, verdict

CHILD = Path(__file__).with_name("sweep_model.py")
# A download fails at once instead of after its own retries
OFFLINE = dict(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    http_proxy="http://127.0.0.1:9",
    https_proxy="http://127.0.0.1:9",
    CUDA_VISIBLE_DEVICES="-1",
    OMP_NUM_THREADS="1",
    PYTHONFAULTHANDLER="1",
)
CAPTURED: dict[str, Any] = dict(check=True, capture_output=True, text=True)


def main() -> None:
    """Run what is not done yet, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--only", default="*", help="folders, as a shell pattern; several with commas")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/sweep"), help="folder of the results")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--page", type=Path, help="add the results to this page, which is made if it is not there")
    parser.add_argument("--missing", action="store_true", help="only what has no row yet, of whatever commit")
    parser.add_argument("--time", action="store_true", help="time the packed model against the stock one")
    parser.add_argument("--binarize", default="{}", metavar="JSON", help="arguments of binarize instead of defaults")
    parser.add_argument("--again", action="store_true", help="also what is done already")
    parser.add_argument("--limit", type=float, default=900, help="seconds for a model")
    parser.add_argument("--memory", type=float, default=8, help="GB for a model")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lines = args.out / f"{args.library}.jsonl"
    patterns = args.only.split(",")
    wanted = [name for name in folders(args.library) if any(fnmatchcase(name, pattern) for pattern in patterns)]
    version = commit()
    done = set() if args.again else finished(lines, version, args)
    if args.page and not args.again:
        rows = sweep_page.read(args.page)[args.library].values()
        done |= {row.name for row in rows if args.missing or row.is_of(version, args.time)}
    left = [name for name in wanted if name not in done]
    print(f"{args.library}: {len(wanted)} folders, {len(left)} to do", flush=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        for result in pool.map(lambda name: run_one(name, lines, version, args), left):
            print(result, flush=True)
    if args.page:
        sweep_page.write(args.page, {name: args.out / f"{name}.jsonl" for name in LIBRARIES})


def run_one(folder: str, lines: Path, version: str, args: argparse.Namespace) -> str:
    """Start the process of one model and wait for it; a line that says how it went."""
    append(lines, dict(folder=folder, stage="start", commit=version, timed=args.time, rule=args.binarize))
    command = [sys.executable, str(CHILD), args.library, folder, str(lines), "--memory", str(args.memory)]
    command += ["--binarize", args.binarize]
    command += ["--time"] if args.time else []
    # this checkout, whatever is installed
    paths = [str(CHILD.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        env={**os.environ, **OFFLINE, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=args.limit)
        reason = crash(errors) if process.returncode else None
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its data loaders, too
        process.communicate()
        reason = f"took more than {args.limit:.0f} s"
    end: dict[str, Any] = dict(folder=folder, stage="end", seconds=round(time.monotonic() - start, 1))
    append(lines, end if reason is None else dict(end, killed=f"{reason} (exit status {process.returncode})"))
    return f"{end['seconds']:6.0f} s  {summary(results(lines)[folder])}"


def finished(lines: Path, version: str, args: argparse.Namespace) -> set[str]:
    """Folders that are done with this commit (``--missing``: any) and rule, and timed if that is asked for."""
    found = results(lines) if lines.is_file() else {}
    ended = {name: stages["start"] for name, stages in found.items() if "end" in stages}
    return {
        name
        for name, start in ended.items()
        if (args.missing or start["commit"] == version)
        and start.get("rule", "{}") == args.binarize
        and start["timed"] >= args.time
    }


def summary(stages: dict[str, dict[str, Any]]) -> str:
    """One line for the log."""
    kind, reason = verdict(stages)
    ratio = stages.get("time", {}).get("ratio")
    return f"{stages['start']['folder']:22} {kind}  {f'x{ratio:.2f}  ' if ratio else ''}{reason}"


def append(lines: Path, line: dict[str, Any]) -> None:
    """Add a JSON line."""
    with lines.open("a") as file:
        file.write(json.dumps(line) + "\n")


def commit() -> str:
    """Last commit of the package, with ``-dirty`` if its files differ from it; this command's own do not count."""
    git = ["git", "-C", str(CHILD.parents[1])]
    last = subprocess.run([*git, "log", "-1", "--abbrev=10", "--format=%h", "--", "rebnn_mm"], **CAPTURED)
    changed = subprocess.run([*git, "status", "--porcelain", "--", "rebnn_mm"], **CAPTURED)
    return last.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def crash(errors: str) -> str:
    """Of a process's last words the one that counts: where it was when it crashed, else the last line."""
    lines = errors.strip().splitlines() or ["no message"]
    fatal = [index for index, line in enumerate(lines) if line.startswith("Fatal Python error")]
    if not fatal:
        return lines[-1].strip()
    place = next((line for line in lines[fatal[0] :] if line.lstrip().startswith("File")), "")
    file, _, rest = place.rpartition("site-packages/")[2].partition('"')
    return f"{lines[fatal[0]]} at {file}{rest}"


if __name__ == "__main__":
    main()
