"""Where the tools and the configs are that come with the package."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def home() -> Path:
    """The folder that holds ``tools/`` and ``configs/``: the wheel's ``.mim``, or the clone."""
    installed = PACKAGE / ".mim"
    return installed if installed.is_dir() else PACKAGE.parent
