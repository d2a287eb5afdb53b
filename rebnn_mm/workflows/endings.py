"""How a tool ends: with one sentence for what its user can mend, with a traceback for all else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rebnn_mm.errors import UserError

TRACEBACK = "REBNN_MM_TRACEBACK"
FAULT = "this is a fault in rebnn_mm or below it; please report it with this traceback"
LOST_RANK = (
    "another rank of this run has ended, or the network between them failed; what that rank says first is the cause. "
    "A training goes on with the same command and --resume"
)


@contextmanager
def one_sentence(tool: str) -> Iterator[None]:
    """End the program with one sentence for a :class:`~rebnn_mm.errors.UserError`; all others keep their traceback.

    A ``UserError`` is written for the user, who can mend it. Any other error is a fault of this package or of a
    library below it: its traceback says where, and a note asks for a report. ``REBNN_MM_TRACEBACK=1`` in the
    environment shows every traceback. A program that comes through leaves its process group. Ctrl-C ends it with a
    sentence too; SIGTERM ends it at once, as a handler of Python's would be handed on to pools of processes (mmdet's
    evaluation has one), where a signal may then be lost and the pool's end is waited for in vain.
    """
    try:
        yield
        end_distributed()
    except KeyboardInterrupt as stop:
        print(f"\n{tool}: {str(stop) or 'stopped'}", file=sys.stderr)
        raise SystemExit(130) from None  # what shells expect after Ctrl-C
    except UserError as error:
        if os.environ.get(TRACEBACK):
            raise
        raise SystemExit(f"{tool}: {_sentence(error)} ({TRACEBACK}=1 shows the traceback)") from None
    except Exception as error:
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"{tool}: {LOST_RANK if is_lost_rank(error) else FAULT}")
        raise


def end_distributed() -> None:
    """Leave the process group of a distributed run, if there is one, as torch asks of a program that is done.

    mmengine leaves it to the interpreter's end, where the group's threads now and then abort a rank that was done.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def is_lost_rank(error: BaseException) -> bool:
    """Whether ``error`` says that the connection to another rank broke, or was never made."""
    lost = (torch.distributed.DistNetworkError, torch.distributed.DistStoreError)
    # the collectives' own errors have no class for it: gloo's name the source file, NCCL's the code
    named = ("gloo/transport", "connectFullMesh", "ncclRemoteError")
    return isinstance(error, lost) or isinstance(error, RuntimeError) and any(word in str(error) for word in named)


def _sentence(error: UserError) -> str:
    """The error's text; torch wraps that of a loader's worker in the worker's traceback, whose last line it is."""
    text = str(error)
    return text.strip().splitlines()[-1].split(": ", 1)[-1] if "Original Traceback" in text else text
