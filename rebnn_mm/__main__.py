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

from rebnn_mm.home import home

_INSTALLED_BY = {
    **dict.fromkeys(("mmengine", "mmcv", "mmdet", "mmpretrain"), "'rebnn_mm[mm]'"),
    **dict.fromkeys(("transformers", "scipy"), "'rebnn_mm[bert]'"),
    "PIL": "pillow",
}


def commands() -> dict[str, Path]:
    """Name -> the tool's file."""
    return {path.stem.replace("_", "-"): path for path in sorted((home() / "tools").glob("*.py"))}


def _purpose(tool: Path) -> str:
    """The first line of its docstring."""
    return (ast.get_docstring(ast.parse(tool.read_text())) or "").partition("\n")[0]


def main() -> None:
    """Run the tool that the first word of the command line names."""
    name = sys.argv[1].replace("_", "-") if len(sys.argv) > 1 else "--help"
    known = commands()
    if name in ("-h", "--help"):
        print("usage: rebnn COMMAND ...\n       rebnn COMMAND --help\n")
        print("\n".join(f"  {command:<16} {_purpose(path)}" for command, path in known.items()))
        print(f"  {'configs':<16} Print the folder of the configs, which yours can inherit from.")
    elif name == "configs":
        print(home() / "configs")
    elif name not in known:
        raise SystemExit(f"rebnn: there is no command {sys.argv[1]!r}; there are {', '.join([*known, 'configs'])}")
    else:
        # argparse takes the name of the program from the first word
        sys.argv = [f"rebnn {name}", *sys.argv[2:]]
        try:
            _load(known[name]).main(sys.argv[1:])
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            if package not in _INSTALLED_BY:
                raise
            how = _INSTALLED_BY[package]
            raise SystemExit(f"rebnn {name} needs {package}, which is not installed: pip install {how}") from error


def _load(path: Path) -> Any:
    """The module of a tool, which is in no package."""
    spec = spec_from_file_location(f"rebnn_tool_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
