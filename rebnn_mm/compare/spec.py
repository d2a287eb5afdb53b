"""What a comparison trains: a spec file -> entries -> runs.

A spec is a Python file that mmengine's Config reads, as every config. Its variables::

    metric = 'accuracy/top1'                  # as the validation logs it
    higher_is_better = True                   # the default
    choose = 'last'                           # the last validation's value (default), or the 'best' one's
    baseline = 'rebnn'                        # the entry that the others are compared with
    seeds = [0, 1, 2]
    options = {'train_cfg.max_epochs': 6}     # --cfg-options of every run
    entries = dict(
        rebnn=dict(config='../resnet18_rebnn_cifar10.py'),                                  # relative to the spec
        gamma0=dict(config='../resnet18_rebnn_cifar10.py', options={'custom_hooks.0.gamma': 0}, seeds=[0, 1]),
        student=dict(
            config='../student.py', after='rebnn/seed0',                                    # starts when it is finished
            options={'model.teacher.checkpoint': '{out}/rebnn/seed0/latest.pth'}))          # {out}: the output folder

Entries that differ by one number are also drawn over it, a line for each series::

    axis = dict(
        label='learning rate of latent weights, times', scale='log',                        # or 'linear', the default
        lines=dict(ReActNet=[(1, 'react_x1'), (10, 'react_x10')]))                          # value, name of its entry

Names that start with ``_`` are the file's own, for what several entries share.
A number in a dotted key is the place in a list: ``custom_hooks.0`` is the BalanceHook of the configs that have one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from rebnn_mm.errors import MissingFileError, UserError

_REQUIRED = {"metric", "seeds", "entries"}
_OPTIONAL = {"higher_is_better", "choose", "baseline", "options", "axis"}
_ENTRY = {"config", "options", "seeds", "after"}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        entry: Name of its entry.
        seed: Goes to ``randomness.seed``.
        config: Path of the config.
        options: What ``--cfg-options`` gets: dotted key -> value, without the seed. ``{out}`` in a text is the folder
            of the comparison.
        folder: What ``{out}`` is by default, and in the record of every run: a comparison's folder may be moved, and
            its runs are the same as before.
        after: Names of the runs that must be finished before it starts.
    """

    entry: str
    seed: int
    config: Path
    options: Mapping[str, Any]
    folder: Path
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``ENTRY/seedN``: its folder in the output."""
        return f"{self.entry}/seed{self.seed}"

    def words(self, out: Path | None = None) -> list[str]:
        """``KEY=VALUE`` for ``--cfg-options``, the seed included, with ``out`` for ``{out}``; default: ``folder``.

        Raises:
            ValueError: As :func:`option_words`, also for what ``out`` makes of a value.
        """
        return option_words(self._options(out or self.folder))

    def _options(self, out: Path) -> dict[str, Any]:
        return _with_folder({**self.options, "randomness.seed": self.seed}, out)

    def resolved(self) -> Config:
        """The config as the run trains it: read, merged and completed by the function that the run itself uses.

        Raises:
            ValueError: An option has no place in the config, or the config cannot be used here.
        """
        from rebnn_mm.integrations.build import read_config  # here: takes seconds, as it imports mmdet or mmpretrain

        try:
            return read_config(self.config, self._options(self.folder))
        except UserError as error:
            raise UserError(f"entry {self.entry}: {error}") from error


@dataclass(frozen=True)
class Axis:
    """Entries that differ by one number.

    Attributes:
        label: What the number is.
        scale: ``'linear'`` or ``'log'``.
        lines: Series -> the number of each of its entries -> the entry's name, by rising numbers.
    """

    label: str
    scale: str
    lines: Mapping[str, Mapping[float, str]]


@dataclass(frozen=True)
class Spec:
    """A comparison: the metric that counts, and the runs.

    Attributes:
        path: The spec file.
        metric: Name, as the validation logs it.
        higher_is_better: Whether more of it is better.
        choose: ``'last'`` for the last validation's value, ``'best'`` for the best one's.
        baseline: Name of the entry that the others are compared with.
        entries: Name -> its runs, one a seed.
        axis: The number that entries differ by, if the spec names one.
    """

    path: Path
    metric: str
    higher_is_better: bool
    choose: str
    baseline: str
    entries: Mapping[str, tuple[Run, ...]]
    axis: Axis | None = None

    @property
    def folder(self) -> Path:
        """Where runs and results go by default."""
        return default_folder(self.path)

    @property
    def runs(self) -> list[Run]:
        """All runs, seed by seed: a comparison that is stopped half-way has its entries filled alike."""
        every = [(place, run) for runs in self.entries.values() for place, run in enumerate(runs)]
        return [run for _, run in sorted(every, key=lambda pair: pair[0])]


def default_folder(path: Path) -> Path:
    """Where runs and results of the spec ``path`` go by default."""
    return Path("work_dirs", "compare", path.stem)


def read_spec(path: str | Path) -> Spec:
    """Read and check a spec file, its configs and its options.

    Raises:
        FileNotFoundError: The spec or one of its configs is no file.
        ValueError: What the spec says cannot be run.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"spec {path} is not a file: see configs/compare/ for examples")
    from rebnn_mm.integrations.config import read_lines  # here, as in Run.resolved

    lines = read_lines(path, f"spec {path}").to_dict()
    raw = {key: value for key, value in lines.items() if not key.startswith("_")}
    _check_keys(f"spec {path}", raw, _REQUIRED, _OPTIONAL)
    entries = raw["entries"]
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"spec {path}: entries={entries!r} must be dict(NAME=dict(config=...), ...)")
    higher = raw.get("higher_is_better", True)
    for key, value, kind in (("metric", raw["metric"], str), ("higher_is_better", higher, bool)):
        if not isinstance(value, kind):
            raise UserError(f"spec {path}: {key}={value!r} must be {'a text' if kind is str else 'True or False'}")
    baseline = raw.get("baseline", next(iter(entries)))
    choose = raw.get("choose", "last")
    if baseline not in list(entries):
        raise UserError(f"spec {path}: baseline={baseline!r} is none of the entries {', '.join(entries)}")
    if choose not in ("last", "best"):
        raise UserError(f"spec {path}: choose={choose!r}: 'last' or 'best'")
    runs = {name: _runs(path, name, entry, raw) for name, entry in entries.items()}
    runs = {name: _with_after(path, name, runs, entries[name].get("after", ())) for name in runs}
    _check_no_circle(path, runs)
    axis = _axis(path, raw["axis"], runs) if "axis" in raw else None
    return Spec(path, raw["metric"], higher, choose, baseline, runs, axis)


def option_words(options: Mapping[str, Any]) -> list[str]:
    """``KEY=VALUE`` words that ``--cfg-options`` reads back as the same values.

    Raises:
        ValueError: A value that has no such form (a dict: name its keys; a text that reads as a number).
    """
    from rebnn_mm.integrations.config import read_words  # here, as in Run.resolved

    words = []
    for key, value in options.items():
        word = f"{key}={_text(value)}"
        try:
            back = read_words([word])[key]
        except (UserError, KeyError, IndexError):
            back = Ellipsis
        if back != value or type(back) is not type(value):
            raise UserError(
                f"option {key}={value!r} cannot be given as --cfg-options: numbers, texts, True, False, None and lists "
                "of them can; write a dict as dotted keys, and anything else into a config of its own"
            )
        words.append(word)
    return words


def _with_folder(value: Any, out: Path) -> Any:
    """``value`` with ``out`` for ``{out}`` in its texts."""
    if isinstance(value, dict):
        return {key: _with_folder(item, out) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_folder(item, out) for item in value)
    return value.replace("{out}", str(out)) if isinstance(value, str) else value


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        inner = ",".join(map(_text, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return str(value)


def _runs(path: Path, name: str, entry: Any, raw: dict[str, Any]) -> tuple[Run, ...]:
    where = f"spec {path}, entry {name!r}"
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise UserError(f"{where}: the name becomes a folder, letters, digits and _ . + - are allowed")
    if not isinstance(entry, dict):
        raise UserError(f"{where} must be dict(config=..., options=..., seeds=..., after=...), not {entry!r}")
    _check_keys(where, entry, {"config"}, _ENTRY)
    if not isinstance(entry["config"], str):
        raise UserError(f"{where}: config={entry['config']!r} must be the path of a config, relative to the spec")
    config = path.parent / entry["config"]
    if not config.is_file():
        raise MissingFileError(f"{where}: config {config} is not a file (paths are relative to the spec)")
    seeds = entry.get("seeds", raw["seeds"])
    whole = isinstance(seeds, (list, tuple)) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: seeds={seeds!r} must be a list of different whole numbers >= 0")
    options = {**_options(where, raw), **_options(where, entry)}
    if "randomness.seed" in options:
        raise UserError(f"{where}: randomness.seed comes from seeds, not from options")
    runs = tuple(Run(name, seed, config, options, default_folder(path)) for seed in seeds)
    try:
        runs[0].words(Path("out"))  # the real one is checked where it is known
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    runs[0].resolved()
    return runs


def _with_after(path: Path, name: str, runs: Mapping[str, tuple[Run, ...]], after: Any) -> tuple[Run, ...]:
    """The entry's runs with the names of those they wait for; an entry's name stands for all its runs."""
    where = f"spec {path}, entry {name!r}"
    names = [after] if isinstance(after, str) else after
    if not isinstance(names, (list, tuple)) or not all(isinstance(word, str) for word in names):
        raise UserError(f"{where}: after={after!r} must be the name of an entry or a run ('ENTRY/seed0'), or a list")
    known = {entry: [run.name for run in group] for entry, group in runs.items()}
    known |= {run.name: [run.name] for group in runs.values() for run in group}
    if unknown := [word for word in names if word not in known]:
        raise UserError(f"{where}: after={', '.join(unknown)} is none of the runs {', '.join(known)}")
    waited = tuple(dict.fromkeys(run for word in names for run in known[word]))
    for run in runs[name]:
        if run.name in waited:
            raise UserError(f"{where}: {run.name} cannot come after itself (after={after!r})")
    return tuple(replace(run, after=waited) for run in runs[name])


def _axis(path: Path, raw: Any, entries: Mapping[str, Any]) -> Axis:
    where = f"spec {path}, axis"
    if not isinstance(raw, dict) or not isinstance(raw.get("lines"), dict):
        raise UserError(f"{where} must be dict(label=..., lines=dict(NAME=[(NUMBER, ENTRY), ...])), not {raw!r}")
    _check_keys(where, raw, {"label", "lines"}, {"scale"})
    scale = raw.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise UserError(f"{where}: scale={scale!r}: 'linear' or 'log'")
    lines = {}
    for name, points in raw["lines"].items():
        if not isinstance(points, (list, tuple)) or not all(map(_is_point, points)) or not points:
            raise UserError(f"{where}, line {name!r}: [(NUMBER, ENTRY), ...] is needed, not {points!r}")
        if unknown := [entry for _, entry in points if entry not in entries]:
            raise UserError(f"{where}, line {name!r}: {', '.join(unknown)} is none of the entries {', '.join(entries)}")
        if scale == "log" and min(number for number, _ in points) <= 0:
            raise UserError(f"{where}, line {name!r}: numbers of a logarithmic scale must be above 0")
        lines[name] = dict(sorted(points))
    return Axis(str(raw["label"]), scale, lines)


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, (list, tuple))
        and len(point) == 2
        and type(point[0]) in (int, float)
        and math.isfinite(point[0])
        and isinstance(point[1], str)
    )


def _check_no_circle(path: Path, entries: Mapping[str, tuple[Run, ...]]) -> None:
    """Refuse runs that wait for one another: take away what can start until nothing is left."""
    waiting = {run.name: set(run.after) for runs in entries.values() for run in runs}
    while ready := [name for name, after in waiting.items() if not after & waiting.keys()]:
        for name in ready:
            del waiting[name]
    if waiting:
        raise UserError(f"spec {path}: after= makes {', '.join(waiting)} wait for one another, so none can start")


def _options(where: str, raw: dict[str, Any]) -> dict[str, Any]:
    options = raw.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise UserError(f"{where}: options={options!r} must be a dict of dotted keys and values")
    return options


def _check_keys(where: str, given: dict[str, Any], required: set[str], optional: set[str]) -> None:
    absent, unknown = sorted(required - given.keys()), sorted(given.keys() - required - optional, key=str)
    if absent or unknown:
        raise UserError(
            f"{where}: missing {absent}, unknown {unknown}; required are {sorted(required)}, optional "
            f"{sorted(optional - required)}"
        )
