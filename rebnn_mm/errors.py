"""Errors that the user can mend, raised on purpose: what came, what is allowed, what to do.

The tools print such an error as one sentence. Every other exception is a fault of this package or of a library below
it, and keeps its traceback. Each class is also the built-in one that Python programs expect, so ``except ValueError``
and ``except FileNotFoundError`` catch them.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A value that cannot be used: an option, a config, a checkpoint, a data set."""


class UserTypeError(TypeError, UserError):
    """A value of a type that cannot be used."""


class UserFileError(OSError, UserError):
    """A file or folder that cannot be read or written, on a full disk for example."""


class ExistingFileError(FileExistsError, UserFileError):
    """A file or folder that is there already and is not replaced."""


class MissingFileError(FileNotFoundError, UserFileError):
    """A file or folder that is not there."""


class MissingPackageError(ImportError, UserError):
    """An optional package that is not installed."""


class NotFiniteError(FloatingPointError, UserError):
    """A loss or a weight that became NaN or infinite."""


def unknown_name(where: str, name: object, known: Iterable[str]) -> UserError:
    """What to raise for a name that nobody reads: the nearest known one is asked for, and all are listed."""
    known = sorted(known)
    near = get_close_matches(str(name), known, n=1)
    asked = f"did you mean {near[0]}? " if near else ""
    return UserError(f"{where}: {name!r} is unknown; {asked}allowed are {', '.join(known)}")
