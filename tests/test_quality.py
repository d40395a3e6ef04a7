"""Lint, format and types, as tests; and the habits that a small check can watch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nh2st_graph"

#: AnnData's slots, whose keys have their one place in ``_keys.py``.
_SLOTS = {"obs", "var", "obsm", "varm", "obsp", "varp", "uns", "layers"}
#: Written by scanpy, and read once where it has just been called.
_OF_OTHERS = {"highly_variable"}

_CODE = "nh2st_graph tests benchmarks"


@pytest.mark.parametrize("command", [f"ruff check {_CODE}", f"ruff format --check {_CODE}", "mypy"])
def test_tools_have_nothing_to_say(command):
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_keys_of_anndata_stand_in_one_place():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.value.attr}[{node.slice.value!r}]"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr in _SLOTS
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        and node.slice.value not in _OF_OTHERS
    ]
    assert not found, "name these in _keys.py"


@pytest.mark.parametrize(
    ("room", "closed"),
    [
        ("read", {"torch", "torch_geometric", "lightning", "timm"}),
        ("metrics", {"torch", "lightning", "nh2st_graph.models", "nh2st_graph.tl"}),
        ("nn", {"anndata", "squidpy", "scanpy", "pandas", "lightning"}),
        ("models", {"anndata", "squidpy", "scanpy", "lightning", "nh2st_graph.read", "nh2st_graph.tl"}),
        ("config", {"torch", "anndata", "nh2st_graph.tl"}),
        ("gr", {"lightning", "timm", "nh2st_graph.models", "nh2st_graph.tl"}),
    ],
)
def test_arrows_between_rooms_point_one_way(room, closed):
    """``models`` never reads files, ``read`` never imports torch."""
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (PACKAGE / room).rglob("*.py")
        for name in imported(path)
        if any(name == each or name.startswith(f"{each}.") for each in closed)
    ]
    assert not found


def imported(path: Path) -> list[str]:
    """Every module that a file names in an import, wherever it stands."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def test_files_stay_short():
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert not {path: length for path, length in lengths.items() if length > 500}


def test_every_room_says_what_it_gives():
    for path in PACKAGE.glob("*/__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        names = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
        assert "__all__" in names, path
