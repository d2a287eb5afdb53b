"""``rebnn COMMAND ...``, also ``python -m rebnn_mm COMMAND ...``: the tools, wherever the package is installed.

``rebnn train CONFIG`` is ``python tools/train.py CONFIG``. A wheel carries the tools and the configs beside the
package, and ``rebnn configs`` prints that folder; a clone that is installed with ``pip install -e`` uses its own.
"""

from __future__ import annotations

import ast
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent


def home() -> Path:
    """The folder that holds ``tools/`` and ``configs/``: the wheel's ``.mim``, or the clone."""
    installed = PACKAGE / ".mim"
    return installed if installed.is_dir() else PACKAGE.parent


def commands() -> dict[str, str]:
    """Name -> what it does, the first line of the tool's docstring."""
    found = {}
    for path in sorted((home() / "tools").glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[path.stem.replace("_", "-")] = text.partition("\n")[0]
    return found


def main() -> None:
    """Run the tool that the first word of the command line names."""
    name = sys.argv[1].replace("_", "-") if len(sys.argv) > 1 else "--help"
    known = commands()
    if name in ("-h", "--help"):
        print("usage: rebnn COMMAND ...\n       rebnn COMMAND --help\n")
        print("\n".join(f"  {command:<16} {what}" for command, what in known.items()))
        print(f"  {'configs':<16} Print the folder of the configs, which yours can inherit from.")
    elif name == "configs":
        print(home() / "configs")
    elif name not in known:
        raise SystemExit(f"rebnn: there is no command {sys.argv[1]!r}; there are {', '.join([*known, 'configs'])}")
    else:
        tool = _load(name)
        # argparse takes the name of the program from the first word
        sys.argv = [f"rebnn {name}", *sys.argv[2:]]
        tool.main(sys.argv[1:])


def _load(name: str) -> Any:
    """The module of a tool, which is in no package."""
    path = home() / "tools" / f"{name.replace('-', '_')}.py"
    spec = spec_from_file_location(f"rebnn_tool_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
