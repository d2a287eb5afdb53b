"""Which part of the package may import which, read from the sources: imports within functions count, too."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A part imports from the lines above its own only. What a part is for stands in docs/code.md.
ORDER = (
    (
        "errors",
        "home",
        "moved",
        "builders",
        "native",
        "busy_machine",
        "kept_memory",
        "tracing",
        "copying",
        "weight_readers",
        "progress",
    ),
    ("functional", "checks", "files", "fast_path", "adaptive_padding"),
    ("estimators",),
    ("layers",),
    ("backbones", "balance", "distill", "bert", "analysis"),
    ("hooks", "convert", "optim"),
    ("deploy",),
    ("integrations",),
    ("workflows", "compare"),
    ("__main__",),
)
LEVELS = {part: level for level, parts in enumerate(ORDER) for part in parts}
# the same for what is in rebnn_mm.deploy; names without a folder are modules
DEPLOY = (
    ("operation",),
    ("file", "kernels"),
    ("layers",),
    ("graph", "training"),
    ("model",),
    ("load",),
    ("verify",),
    ("rounding",),
    ("report",),
    ("export",),
    ("targets",),
)
# the same for what is in rebnn_mm.deploy.targets: an engine needs no other one, but OpenVINO reads ONNX
TARGETS = (("network",), ("onnx", "executorch"), ("openvino",))
TARGETS_LEVELS = {target: level for level, targets in enumerate(TARGETS) for target in targets}
DEPLOY_LEVELS = {room: level for level, rooms in enumerate(DEPLOY) for room in rooms}
# only rebnn_mm.integrations adapts to these
LIBRARIES = {"mmcv", "mmdet", "mmpretrain", "transformers"}


class Import(NamedTuple):
    """``from module import name`` in ``file``; ``name`` is None for ``import module``."""

    file: Path
    line: int
    module: str
    name: str | None

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.name or ''} from {self.module}"


@cache
def imports(file: Path) -> tuple[Import, ...]:
    return tuple(_imports(file))


def _imports(file: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports by a relative name"
            yield from (Import(file, node.lineno, node.module, alias.name) for alias in node.names)


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file): file for file in sorted((ROOT / "rebnn_mm").rglob("*.py"))}


def target(found: Import) -> str:
    """The module of ours that an import reads, which may be named behind ``from package import``."""
    whole = f"{found.module}.{found.name}"
    return whole if whole in MODULES else found.module


def part(module: str) -> str:
    """``rebnn_mm.deploy.graph.lower`` -> ``deploy``; the package itself has none."""
    return (module.split(".") + [""])[1]


def room(module: str) -> str:
    """``rebnn_mm.deploy.graph.lower`` -> ``graph``; what is not in ``deploy``, and the package itself, has none."""
    return (module.split(".") + ["", ""])[2] if part(module) == "deploy" else ""


def engine(module: str) -> str:
    """``rebnn_mm.deploy.targets.onnx.export`` -> ``onnx``; what is not in ``deploy.targets`` has none."""
    return (module.split(".") + ["", "", ""])[3] if room(module) == "targets" else ""


def ours() -> list[tuple[str, Import]]:
    """(module, import) for all that our modules import from each other."""
    found = [(name, each) for name, file in MODULES.items() for each in imports(file)]
    return [(name, each) for name, each in found if each.module.split(".")[0] == "rebnn_mm"]


def test_every_part_has_its_place():
    assert {part(name) for name in MODULES} - {""} == set(LEVELS)


def test_every_part_is_on_the_map():
    text = (ROOT / "docs" / "code.md").read_text()
    missing = [name for name in LEVELS if not re.search(rf"\b{name}\b", text.split("A part imports")[0])]
    assert not missing


def test_parts_import_in_one_direction():
    wrong = [
        str(found)
        for name, found in ours()
        # the package itself says which of its parts build what
        if part(name) and part(target(found)) and part(name) != part(target(found))
        if LEVELS[part(name)] <= LEVELS[part(target(found))]
    ]
    assert not wrong, "\n".join(wrong)


def test_every_room_of_deploy_has_its_place_on_the_map():
    assert {room(name) for name in MODULES} - {""} == set(DEPLOY_LEVELS)
    text = (ROOT / "docs" / "code.md").read_text()
    section = text.split("## `rebnn_mm/deploy/`")[1].split("A room imports")[0]
    assert not [name for name in DEPLOY_LEVELS if not re.search(rf"^    {name}[/.]", section, re.MULTILINE)]


def test_rooms_of_deploy_import_in_one_direction():
    wrong = [
        str(found)
        for name, found in ours()
        if room(name) and room(target(found)) and room(name) != room(target(found))
        if DEPLOY_LEVELS[room(name)] <= DEPLOY_LEVELS[room(target(found))]
    ]
    assert not wrong, "\n".join(wrong)


def test_engines_import_in_one_direction():
    assert {engine(name) for name in MODULES} - {""} == set(TARGETS_LEVELS)
    wrong = [
        str(found)
        for name, found in ours()
        if engine(name) and engine(target(found)) and engine(name) != engine(target(found))
        if TARGETS_LEVELS[engine(name)] <= TARGETS_LEVELS[engine(target(found))]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: set() for name in MODULES}
    for name, found in ours():
        if name != "rebnn_mm" and target(found) in graph and target(found) != name:
            graph[name].add(target(found))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_libraries_are_imported_by_their_adapters_only():
    wrong = [
        str(found)
        for name, file in MODULES.items()
        if part(name) != "integrations"
        for found in imports(file)
        if found.module.split(".")[0] in LIBRARIES
    ]
    assert not wrong, "\n".join(wrong)


def test_private_names_stay_in_their_file():
    files = [file for folder in ("rebnn_mm", "tools", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    scripts = {file.stem for file in (ROOT / "benchmarks").glob("*.py")}
    wrong = [
        str(found)
        for file in files
        for found in imports(file)
        if found.module.split(".")[0] in {"rebnn_mm", *scripts}
        if any(
            word.startswith("_") and not word.startswith("__") for word in (*found.module.split("."), found.name or "")
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_private_names_are_not_reached_through_their_module():
    wrong = []
    for file in MODULES.values():
        modules = {found.name for found in imports(file) if found.name and target(found).endswith(f".{found.name}")}
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                if node.attr.startswith("_") and not node.attr.startswith("__"):
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} reads {node.value.id}.{node.attr}")
    assert not wrong, "\n".join(wrong)


def test_files_are_short():
    """The house aims at 100 to 200 lines; what comes near the limit is split."""
    lengths = {name: len(file.read_text().splitlines()) for name, file in MODULES.items()}
    assert not {name: length for name, length in lengths.items() if length > 330}


def test_scripts_hide_no_package():
    """A folder of scripts comes first on the path of each of them."""
    names = {file.stem for folder in ("benchmarks", "tools") for file in (ROOT / folder).glob("*.py")}
    names.remove("test")  # OpenMMLab's name for the tool; Python's own tests are imported by nothing
    assert not [name for name in names if PathFinder.find_spec(name) is not None or name in sys.stdlib_module_names]
