"""A tool on several ranks of this machine, over gloo; as a program: one rank, ``ranks.py TOOL ARGUMENTS ...``.

``{rank}`` in an argument is the rank's number. A rank whose connection to the others breaks ends with NO_NETWORK.
"""

import os
import re
import runpy
import subprocess
import sys
import traceback

import torch.distributed as dist

from rebnn_mm.workflows.endings import is_lost_rank

NO_NETWORK = 75  # EX_TEMPFAIL of sysexits.h


def run_ranks(ranks, *words, killed=None, **kwargs):
    """The finished torchrun of ``words``: a tool and its arguments.

    It is given again where gloo loses a connection, which came once in a hundred starts or less on a busy machine
    (torch 2.13). Whatever else ends a rank first does not count, and with the file ``killed``, which a rank that is
    killed on purpose writes, what follows from that does not, either.
    """
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [*launch, "--max-restarts=0", __file__, *(str(word) for word in words)]
    before = killed and killed.exists()
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, **kwargs)
        _, _, cause = done.stderr.partition("Root Cause")
        if (killed and killed.exists()) != before or not re.search(rf"exitcode +: {NO_NETWORK}\b", cause):
            break
    return done


def _run_rank(tool, *words):
    sys.argv = [word.replace("{rank}", os.environ["RANK"]) for word in (tool, *words)]
    try:
        # mmengine's launchers ask for CUDA; what starts the process group itself goes on without
        dist.init_process_group("gloo")
        runpy.run_path(tool, run_name="__main__")
    except Exception as error:
        if not is_lost_rank(error):
            raise
        traceback.print_exc()
        sys.exit(NO_NETWORK)


if __name__ == "__main__":
    _run_rank(*sys.argv[1:])
