"""Habits of the package that a small check can watch. Lint, format and types are checked by ``.ci/run``."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nh2st_graph"

#: AnnData's slots, whose keys have their one place in ``_keys.py``.
_SLOTS = {"obs", "var", "obsm", "varm", "obsp", "varp", "uns", "layers"}
#: Written by scanpy, and read once where it has just been called.
_OF_OTHERS = {"highly_variable"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def statements(path: Path) -> list[ast.AST]:
    """Every statement of a file, however deep: imports are among them, and expressions are far more."""
    found: list[ast.AST] = [tree_of(path)]
    for node in found:
        for inside in ("body", "orelse", "finalbody", "handlers", "cases"):
            found += getattr(node, inside, ())
    return found


def test_keys_of_anndata_stand_in_one_place():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.value.attr}[{node.slice.value!r}]"
        for path in sources()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr in _SLOTS
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        and node.slice.value not in _OF_OTHERS
    ]
    assert not found, "name these in _keys.py"


#: Outside libraries that a room does not load, whatever its files do inside functions.
_CLOSED = {
    "slide": {"anndata", "torch", "squidpy", "scanpy"},
    "section": {"torch", "torch_geometric", "lightning", "timm", "spatialdata", "squidpy"},
    "read": {"torch", "torch_geometric", "lightning", "timm"},
    "metrics": {"torch", "lightning"},
    "confidence": {"torch", "lightning", "torch_geometric"},
    "write": {"torch", "lightning", "torch_geometric", "scanpy", "squidpy", "geopandas"},
    "nn": {"anndata", "squidpy", "scanpy", "pandas", "lightning"},
    "models": {"anndata", "squidpy", "scanpy", "lightning"},
    "config": {"torch", "anndata"},
    "gr": {"lightning", "timm"},
}

#: The rooms, each above those that it may import.
_BELOW = {
    "slide": set(),
    "nn": set(),
    "section": {"slide"},
    "models": {"nn"},
    "read": {"section", "slide"},
    "metrics": {"section"},
    "confidence": {"metrics", "section"},
    "write": {"confidence", "read", "section"},
    "gr": {"read", "section"},
    "im": {"read", "section", "slide"},
    "datasets": {"read", "section", "slide"},
    "pl": {"confidence", "metrics", "read", "section"},
    "config": {"models", "read"},
    "train": {"confidence", "config", "datasets", "gr", "im", "metrics", "models", "nn", "read", "section", "slide"},
    "tl": {
        "confidence",
        "config",
        "datasets",
        "gr",
        "im",
        "metrics",
        "models",
        "nn",
        "pl",
        "read",
        "section",
        "slide",
        "train",
        "write",
    },
    "study": {"config", "datasets", "metrics", "models", "pl", "read", "section", "tl", "train"},
    "cli": {"config", "datasets", "gr", "im", "metrics", "models", "pl", "read", "section", "slide", "study", "tl"},
}

#: Private files beside the rooms, which all of them may import.
_BESIDE = {"_errors", "_files", "_progress", "_settings"}


def test_rooms_are_all_there_is():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(_BELOW)
    assert {path.stem for path in PACKAGE.glob("*.py")} == _BESIDE | {"__init__", "__main__"}


@pytest.mark.parametrize("room", _BELOW)
def test_arrows_between_rooms_point_one_way(room):
    """No file of a room imports a room that is not below it, inside functions included."""
    allowed = {room, *_BELOW[room], *_BESIDE, "__version__"}
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (PACKAGE / room).rglob("*.py")
        for name in imported(path)
        if name.startswith("nh2st_graph.") and name.split(".")[1] not in allowed
    ]
    assert not found


@pytest.mark.parametrize("room", _CLOSED)
def test_rooms_leave_libraries_to_others(room):
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (PACKAGE / room).rglob("*.py")
        for name in imported(path)
        if name.partition(".")[0] in _CLOSED[room]
    ]
    assert not found


def test_tests_import_public_names():
    """At most a third of their files import private ones, to test a helper by itself."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    found = [
        str(path.relative_to(ROOT))
        for path in files
        if any(
            name.startswith("nh2st_graph.") and re.search(r"\._(?!_)", name)
            for node in statements(path)
            for name in names_in(node)
        )
    ]
    assert len(found) <= len(files) / 3


def test_imports_name_the_package():
    """The tests of rooms and circles would overlook a relative import, and one of the whole package in a function."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        for node in statements(path)
        if (isinstance(node, ast.ImportFrom) and node.level)
        or (isinstance(node, ast.Import) and any(alias.name.startswith("nh2st_graph") for alias in node.names))
    ]
    assert not found


def test_the_order_of_rooms_has_no_circle():
    order = list(_BELOW)
    assert all(order.index(below) < order.index(room) for room in _BELOW for below in _BELOW[room])


def test_no_files_import_each_other_in_a_circle():
    """Over all files, imports inside functions included; those for type checkers alone do not count."""
    modules = {module_name(path): path for path in sources()}
    # A package that lists what its files hold is in no circle with them.
    graph = {
        name: {other for other in imported(path) if other in modules and other != name}
        for name, path in modules.items()
    }
    TopologicalSorter(graph).prepare()


#: Files that a command or function loads first, and libraries that it does without: each takes a second or more.
_LIGHT = {
    "tl._predict": {"lightning", "squidpy", "scanpy", "spatialdata", "timm", "matplotlib"},
    "tl._predict_run": {"lightning", "squidpy", "scanpy", "spatialdata", "timm", "matplotlib"},
    "tl._fit": {"squidpy", "scanpy", "spatialdata", "timm", "matplotlib"},
    "cli._info": {"torch", "lightning", "squidpy", "scanpy", "spatialdata", "timm", "matplotlib"},
}


@pytest.mark.parametrize("first", _LIGHT)
def test_heavy_libraries_are_loaded_by_those_who_use_them(first):
    """Follow imports that stand outside of functions, through the names of packages that load on first use."""
    modules = {module_name(path): path for path in sources()}
    seen, waiting, outside = set(), [f"nh2st_graph.{first}"], {}
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in at_the_top(modules[module]):
            if not name.startswith("nh2st_graph"):
                outside.setdefault(name.partition(".")[0], module)
                continue
            package, _, last = name.rpartition(".")
            stub = modules[package].with_suffix(".pyi") if package in modules else Path()
            waiting += {name, package, f"{package}.{where_listed(stub).get(last, '')}"} & modules.keys()
    assert not {library: outside[library] for library in _LIGHT[first] & outside.keys()}


@cache
def at_the_top(path: Path) -> list[str]:
    """Every module or name that a file imports when it is loaded."""
    statements = list(tree_of(path).body)
    found: list[str] = []
    for node in statements:
        if isinstance(node, ast.If | ast.Try) and "TYPE_CHECKING" not in ast.unparse(getattr(node, "test", node)):
            statements += node.body
        found += names_in(node)
    return found


@cache
def where_listed(stub: Path) -> dict[str, str]:
    """File of each name that a package lists; none if it loads all of them."""
    if not stub.is_file():
        return {}
    lines = ast.parse(stub.read_text(encoding="utf-8")).body
    return {each.name: line.module for line in lines if isinstance(line, ast.ImportFrom) for each in line.names}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(path: Path) -> list[str]:
    """Every module or name that a file imports at run time, wherever the import stands."""
    for_types = {
        id(each)
        for node in statements(path)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for each in ast.walk(node)
    }
    names: list[str] = []
    for node in statements(path):
        names += [] if id(node) in for_types else names_in(node)
    return [name for name in names if name != "nh2st_graph"]


def names_in(node: ast.AST) -> list[str]:
    """Modules or names of one import statement."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [*(f"{node.module}.{alias.name}" for alias in node.names), node.module]
    return []


def test_files_stay_short():
    files = [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {path: length for path, length in lengths.items() if length > 500}


def test_every_room_says_what_it_gives():
    for path in PACKAGE.glob("*/__init__.py"):
        room = importlib.import_module(f"nh2st_graph.{path.parent.name}")
        assert room.__doc__, path
        assert all(hasattr(room, name) for name in room.__all__), path
