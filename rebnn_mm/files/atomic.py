"""Files and folders that appear in full or not at all: the one way in which this package writes its results.

What is written goes to ``.NAME.part`` beside its place, is forced to the disk, and takes the name in one step. A full
disk, a crash or Ctrl-C leaves what was there before. The part's name is fixed, so that what a killed process left
is overwritten by the next one; a lock on it lets two processes that write the same file take turns.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from rebnn_mm.errors import ExistingFileError, MissingFileError, UserError, UserFileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# the disk's own reasons to refuse a write, wherever in the writing they come up
_DISK = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO}


@contextmanager
def atomic_path(path: str | Path, make_folder: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to; on leaving without an error it takes ``path``'s name.

    A process that has the old file mapped keeps it whole. After an error nothing is left behind and the old file, if
    any, is untouched.

    Args:
        path: The file. A link is replaced, not followed: what it points to may belong to another run.
        make_folder: Make the folder if it is not there.

    Raises:
        MissingFileError: The folder does not exist.
        UserFileError: The disk is full or cannot be written, or ``path`` is a folder or a device.
    """
    path = Path(path)
    _check_place(path)
    part = path.with_name(f".{path.name}.part")
    with _disk_errors(path, own=True):
        _check_folder(path, make_folder)
        lock = _take(part)
    try:
        with _disk_errors(path):
            yield part
        with _disk_errors(path, own=True):
            _sync(part)
            os.replace(part, path)
            _sync_folder(path.parent)
    except BaseException:  # Ctrl-C too; not after the rename, when the name may be another process's
        part.unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def write_bytes(path: str | Path, data: bytes, make_folder: bool = False) -> None:
    """Write a whole file; arguments and errors as :func:`atomic_path`."""
    with atomic_path(path, make_folder) as part:
        part.write_bytes(data)


def write_text(path: str | Path, text: str, make_folder: bool = False) -> None:
    """Write a whole UTF-8 file; arguments and errors as :func:`atomic_path`."""
    write_bytes(path, text.encode(), make_folder)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder beside ``path`` to fill; on leaving without an error it takes ``path``'s name.

    Folders above it are made. What an interrupted process left of it is removed first.

    Raises:
        UserFileError: ``path`` is there already, or the disk is full or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise ExistingFileError(f"{path} exists already: remove it, or choose another place")
    part = path.with_name(f".{path.name}.part")
    with _disk_errors(path, own=True):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    try:
        with _disk_errors(path):
            yield part
        with _disk_errors(path, own=True):
            part.rename(path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_results_folder(path: str | Path) -> None:
    """Ask before the work begins whether its results can be written into a folder, which is not made yet.

    Raises:
        UserFileError: It cannot be made or written: the path of a file, or no right to.
    """
    path = Path(path)
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    with _disk_errors(path, own=True):
        TemporaryFile(dir=there).close()


def check_results_file(path: str | Path) -> None:
    """Ask before the work begins whether its result can be written to ``path``, in a folder that is there.

    Raises:
        MissingFileError: The folder does not exist.
        UserFileError: There is no right to write into it, or ``path`` is a folder or a device.
    """
    path = Path(path)
    _check_place(path)
    with _disk_errors(path, own=True):
        _check_folder(path, make=False)
        TemporaryFile(dir=path.parent).close()


def refuse_same_file(source: str | Path, out: str | Path) -> None:
    """Raise UserError where a tool would write over what it reads."""
    if Path(source).resolve() == Path(out).resolve():
        raise UserError(f"{out} is the file that is to be read: name another one to write")


def _check_place(path: Path) -> None:
    """Refuse to rename over what is no file: a folder cannot be, and /dev/null must not."""
    try:
        mode = path.stat().st_mode
    except OSError:  # not there, or not to be reached: writing says which
        return
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise UserFileError(f"cannot write {path}: it is {what}; choose the name of a file")


def _check_folder(path: Path, make: bool) -> None:
    if make:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.parent.is_dir():
        raise MissingFileError(f"folder {path.parent} does not exist: make it first, or write {path.name} elsewhere")


def _take(part: Path) -> int | None:
    """Open ``part`` empty and hold its lock, a handle to close; waits while another process writes the same file."""
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        if fcntl is None:  # Windows has no such lock, and renames no file that is open
            os.close(handle)
            return None
        try:
            with suppress(OSError):  # some network file systems have no locks: go without
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(part, handle):
                os.ftruncate(handle, 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # who held it has renamed it meanwhile: begin again with a new one


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def _disk_errors(path: Path, own: bool = False) -> Iterator[None]:
    """Turn what the disk refuses into a sentence; with ``own`` every OSError, all being about ``path`` then."""
    try:
        yield
    except MissingFileError:
        raise
    except OSError as error:
        if isinstance(error, UserFileError) or not (own or error.errno in _DISK):
            raise
        refused = UserFileError(_cannot_write(path, error))
        refused.errno = error.errno
        raise refused from error


def _cannot_write(path: Path, error: OSError) -> str:
    text = f"cannot write {path}: {error.strerror or error}"
    folder = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if folder is not None and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        text += f"; {folder} has {shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    return f"{text}. What was there before is untouched: make room there, or choose another place"


def _sync(part: Path) -> None:
    """Force the bytes to the disk, whoever wrote them."""
    with open(part, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Flush the new name itself; only POSIX can open a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # network file systems refuse, and the file has its name by now
            os.fsync(handle)
    finally:
        os.close(handle)
