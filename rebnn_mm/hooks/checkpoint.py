"""Checkpoints that a full disk, a crash or Ctrl-C cannot spoil."""

from __future__ import annotations

import inspect
import logging
import os
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from rebnn_mm.errors import UserFileError, unknown_name
from rebnn_mm.files.atomic import write_bytes
from rebnn_mm.hooks.work_dir import LAST, LINK, newest_checkpoint, same_folder

_ATOMIC = "rebnn_atomic"


@register_backend(_ATOMIC)
class AtomicLocalBackend(LocalBackend):
    """Local disk, where a file appears complete or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` whole or not at all (:mod:`rebnn_mm.files.atomic`).

        Raises:
            OSError: The disk is full or not writable; what ``filepath`` held before is untouched.
        """
        try:
            write_bytes(filepath, obj, make_folder=True)
        except UserFileError as error:
            said = UserFileError(
                f"{error}. It has {len(obj) / 2**20:.1f} MiB; earlier checkpoints are kept. Then go on with --resume, "
                "in another --work-dir from --resume CHECKPOINT"
            )
            said.errno = error.errno
            raise said from error

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """As :meth:`put`, for text."""
        self.put(obj.encode(encoding), filepath)


@HOOKS.register_module()
class ResilientCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, with whole files only and a way back at any moment.

    A checkpoint (``save_best`` too) appears complete or not at all; an outdated one is removed only
    once its successor is on the disk, even with ``max_keep_ckpts=1``; ``latest.pth`` in the work dir
    is a relative link to the newest. On a full disk training stops with an OSError that says what to
    do, and the earlier checkpoints and ``last_checkpoint`` stay as they were.

    A checkpoint remembers by absolute paths what its run had saved, and which of them was the best. Only what lies in
    the folder that this run writes to is taken over, under the folder's present name: a work dir can be moved and
    copied, and a run that goes on from another one's checkpoint removes nothing of it.

    Args:
        kwargs: As mmengine's CheckpointHook. A given ``backend_args``, or an ``out_dir`` with a prefix such as
            ``s3://``, replaces the safe local writing.

    Raises:
        UserError: An option that mmengine's CheckpointHook does not have.
    """

    out_dir: Any  # mmengine assigns it without a type

    def __init__(self, **kwargs: Any) -> None:
        known = set(inspect.signature(CheckpointHook).parameters) - {"kwargs"}
        # the parent keeps any other for the runner, which refuses it when the first epoch is to be saved
        for name in kwargs.keys() - known:
            raise unknown_name("ResilientCheckpointHook", name, known)
        remote = "://" in str(kwargs.get("out_dir"))
        if kwargs.get("backend_args") is None and kwargs.get("file_client_args") is None and not remote:
            kwargs["backend_args"] = {"backend": _ATOMIC}
        super().__init__(**kwargs)

    def before_train(self, runner) -> None:
        """Take over what the resumed checkpoint says about files, as far as they are this run's."""
        if self.out_dir is not None and "://" not in str(self.out_dir):
            self.out_dir = os.path.abspath(self.out_dir)  # a later resume may start in another folder
        path = _resumed_from(runner)
        if path is not None:
            self._take_over(runner, path)
        super().before_train(runner)

    def _take_over(self, runner, path: str) -> None:
        """Forget the files of another run, and follow those of this one to where they are now."""
        out = self._final_out_dir(runner)
        own = same_folder(_folder_of(path), out)
        hub = runner.message_hub
        if not own:
            hub.runtime_info.pop("keep_ckpt_ids", None)
            print_log(f"resumed from {path}: checkpoints outside {out} are kept as they are", logger="current")
        for key in [key for key in hub.runtime_info if key.startswith("best_ckpt")]:
            name = os.path.basename(str(hub.get_info(key)))
            here = os.path.join(out, name)
            if own and self._judges(name) and ("://" in out or os.path.exists(here)):
                hub.update_info(key, here)
            else:  # what is saved as the best from now on is the best of the files that are here
                hub.runtime_info.pop(key)
                hub.runtime_info.pop(key.replace("best_ckpt", "best_score", 1), None)

    def _final_out_dir(self, runner) -> str:
        """Where checkpoints will be: the parent puts the work dir's name behind an ``out_dir`` of its own."""
        if self.out_dir is None or self.out_dir == runner.work_dir:
            return runner.work_dir
        return os.path.join(str(self.out_dir), os.path.basename(runner.work_dir.rstrip(os.sep)))

    def _judges(self, name: str) -> bool:
        """Whether the best checkpoint ``name`` was chosen by a metric that still chooses."""
        keys = self.save_best or []
        return keys == ["auto"] or any(name.startswith(f"best_{key}_".replace("/", "_")) for key in keys)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        # Replaces the parent's, which removes the outdated file first and then truncates last_checkpoint.
        outdated = None
        if self.max_keep_ckpts > 0:
            if step not in self.keep_ckpt_ids:  # a better score saves the same step a second time
                if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                    outdated = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._point_to_newest(runner.work_dir)
        if outdated is not None:
            self._remove(self.file_backend.join_path(self.out_dir, outdated))

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        # The parent removes the previous best before it writes the new one: hide it until that is done.
        if not self.save_best:
            return
        previous = self._best()
        self._set_best(dict.fromkeys(previous))
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            written = self._best()
            self._set_best({key: path or previous[key] for key, path in written.items()})
        for key, path in written.items():
            old = previous[key]
            if path and old and path != old:
                self._remove(old)

    def _best(self) -> dict[str, str | None]:
        """Path of the best checkpoint by metric; the parent keeps one path, or a dict of several."""
        if len(self.key_indicators) == 1:
            return {"": self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    def _set_best(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths[""]
        else:
            self.best_ckpt_path_dict = paths

    @master_only
    def _point_to_newest(self, work_dir: str) -> None:
        """Write ``last_checkpoint``, which mmengine resumes from, and the link ``latest.pth``."""
        AtomicLocalBackend().put_text(self.last_ckpt, Path(work_dir) / LAST)
        if "://" in self.last_ckpt:
            return
        link = Path(work_dir) / LINK
        part = link.with_name(f".{LINK}.part")
        try:
            part.unlink(missing_ok=True)
            # relative: the link survives moving or copying the work dir
            part.symlink_to(os.path.relpath(self.last_ckpt, work_dir))
            os.replace(part, link)
        except (OSError, NotImplementedError) as error:  # a file system without links; the checkpoint itself is safe
            print_log(f"latest.pth was not linked: {error}", logger="current", level=logging.WARNING)

    def _remove(self, path: str) -> None:
        if not is_main_process():
            return
        if not same_folder(_folder_of(path, follow=False), self.out_dir):
            print_log(f"{path} is outdated and kept: it is not in {self.out_dir}", logger="current")
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # deepspeed saves folders
            self.file_backend.rmtree(path)


def _resumed_from(runner) -> str | None:
    """Path of the checkpoint that the runner went on from, or None when it started anew."""
    if not runner._resume:  # the runner shows it nowhere else; mmengine's EMAHook asks it, too
        return None
    return runner._load_from or newest_checkpoint(runner.work_dir)


def _folder_of(path: str, follow: bool = True) -> str:
    """Folder of a file; ``follow``: of the file that a link such as ``latest.pth`` leads to."""
    return os.path.dirname(os.path.realpath(path) if follow and "://" not in path else path)
