"""Another default type and device of torch, which a user may have set."""

from contextlib import contextmanager

import torch


@contextmanager
def torch_defaults(dtype, device="meta"):
    """Within the block torch makes tensors of ``dtype`` on ``device`` where none is named."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
