"""Graph passes, one a file; :func:`fuse` runs those that leave every bit of the result as it is."""

from rebnn_mm.deploy.graph.passes.after import fuse_after
from rebnn_mm.deploy.graph.passes.before import fuse_before
from rebnn_mm.deploy.graph.passes.norms import fold_norms
from rebnn_mm.deploy.graph.passes.share import share
from rebnn_mm.deploy.graph.passes.signs import pass_signs
from rebnn_mm.deploy.graph.passes.simplify import simplify
from rebnn_mm.deploy.graph.passes.stem import pool_first
from rebnn_mm.deploy.graph.passes.steps import decide_signs
from rebnn_mm.deploy.graph.traced import Traced

__all__ = [
    *("decide_signs", "fold_norms", "fuse", "fuse_after", "fuse_before", "pass_signs", "pool_first", "share"),
    "simplify",
]


def fuse(traced: Traced) -> Traced:
    """Run all passes, in place, in the order in which they prepare each other's ground."""
    for run in (simplify, fold_norms, share, pool_first, fuse_before, fuse_after, decide_signs, share, pass_signs):
        run(traced)
        traced.graph.lint()
    return traced
