from __future__ import annotations

import gc
import importlib
import inspect
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from nh2st_graph.train._deferred import defer, defer_rest, load_uncollected


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that counts how often it is loaded, deferred."""
    name = f"deferred_{tmp_path.name}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import builtins\nbuiltins.loads.append(__name__)\nfrom .part import x\ny = 1\n"
    )
    (folder / "part.py").write_text("x = 2\n")
    monkeypatch.setattr("builtins.loads", [], raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    defer(name)
    yield name, sys.modules["builtins"].loads
    sys.meta_path[:] = before
    for each in (name, f"{name}.part"):
        sys.modules.pop(each, None)


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Write a module that nobody has imported, in whose code NAME is its own, and give its name."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(tmp_path)
    name = f"library_{tmp_path.name}"

    def written(code: str) -> str:
        (tmp_path / f"{name}.py").write_text(code.replace("NAME", name))
        return name

    yield written
    sys.modules.pop(name, None)


def test_loads_on_first_use(package):
    name, loads = package
    module = importlib.import_module(name)
    assert inspect.getmodule(test_loads_on_first_use) is sys.modules[__name__]  # it asks every module for its file
    assert not hasattr(module, "__unheard__")
    assert loads == []
    assert (module.y, module.x, module.y) == (1, 2, 1)
    assert loads == [name]
    with pytest.raises(AttributeError, match="no attribute 'z'"):
        module.z  # noqa: B018


def test_from_import_and_submodules_load_it(package):
    name, loads = package
    importlib.import_module(name)
    assert importlib.import_module(f"{name}.part").x == 2
    assert loads == [name]
    found: dict[str, int] = {}
    exec(f"from {name} import y", found)
    assert found["y"] == 1
    assert importlib.reload(sys.modules[name]).x == 2


def test_threads_wait_until_it_is_whole(library):
    name = library("import time\nimport NAME\nassert not hasattr(NAME, 'y')\ntime.sleep(0.2)\ny = 1\n")
    defer(name)
    importlib.import_module(name)

    def use(_: int) -> int:
        found: dict[str, int] = {}
        exec(f"from {name} import y", found)
        return found["y"]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(use, range(8))) == [1] * 8


def test_one_that_cannot_be_loaded_is_tried_again(library, monkeypatch):
    name = library("z = known\n\ndef __getattr__(name):\n    return name\n")
    defer(name)
    module = importlib.import_module(name)
    with pytest.raises(NameError):
        module.z  # noqa: B018
    monkeypatch.setattr("builtins.known", 3, raising=False)
    assert (module.z, module.other) == (3, "other")


def test_a_module_that_is_there_stays(package):
    name, loads = package
    assert importlib.import_module(name).y == 1
    defer(name)
    assert sys.modules[name].y == 1
    assert loads == [name]


@pytest.fixture
def metrics(tmp_path, monkeypatch):
    """A package of which one module defines a name and asks for another, and which counts how often it is loaded."""
    name = f"metrics_{tmp_path.name}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(
        f"import builtins\nbuiltins.loads.append(__name__)\nlog = 1\nfrom {name}.part import x\nfrom . import rest\n"
    )
    (folder / "part.py").write_text(f"from {name} import log\nclass x:\n    log = log\n")
    (folder / "rest.py").write_text(f"from {name} import x\n")
    monkeypatch.setattr("builtins.loads", [], raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield name, sys.modules["builtins"].loads
    for each in (name, f"{name}.part", f"{name}.rest"):
        sys.modules.pop(each, None)


def test_some_names_of_a_package_come_without_the_rest(metrics):
    name, loads = metrics
    defer_rest(name, {"x": "part"}, {"log": 2})
    found: dict[str, type] = {}
    exec(f"from {name} import x", found)
    assert found["x"].log == 2
    assert not hasattr(importlib.import_module(name), "__version__")
    assert (loads, f"{name}.rest" in sys.modules) == ([], False)
    assert importlib.import_module(name).rest.x is found["x"] is importlib.import_module(name).x
    assert (loads, importlib.import_module(name).log) == ([name], 1)
    with pytest.raises(AttributeError, match="no attribute 'z'"):
        importlib.import_module(name).z  # noqa: B018


def test_a_module_of_a_package_comes_without_the_rest(metrics):
    name, loads = metrics
    defer_rest(name, {"x": "part"}, {"log": 2})
    assert importlib.import_module(f"{name}.rest").x.log == 2
    assert loads == []


@pytest.mark.parametrize("names", [{"x": "elsewhere"}, {"another": "part"}])
def test_a_package_that_has_its_names_elsewhere_is_loaded_whole(metrics, names):
    name, loads = metrics
    defer_rest(name, names, {"log": 2})
    assert (importlib.import_module(name).log, loads) == (1, [name])


def test_no_garbage_is_looked_for_while_a_library_loads(library, monkeypatch):
    name = library("import gc\nlook = gc.get_threshold()[0]\nif not known:\n    1 / 0\n")
    before = gc.get_threshold()
    load_uncollected(name)
    with pytest.raises(NameError):
        importlib.import_module(name)
    assert gc.get_threshold() == before
    assert name not in sys.modules
    monkeypatch.setattr("builtins.known", True, raising=False)
    module = importlib.import_module(name)
    assert (module.look, gc.get_threshold()) == (0, before)
    assert importlib.reload(module) is module
    assert "uncollected" not in repr(module.__spec__.loader).lower().replace(name, "")


def test_a_library_that_remembers_whether_garbage_is_collected_finds_that_it_is(library):
    name = library("import dask.utils\nslicing = dask.utils.disable_gc()(lambda: None)\n")
    load_uncollected(name)
    module = importlib.import_module(name)
    assert gc.isenabled()
    module.slicing()
    assert gc.isenabled()


def test_a_library_may_set_its_own_threshold(library):
    name = library("import gc\ngc.set_threshold(12345, 6, 7)\n")
    before = gc.get_threshold()
    load_uncollected(name)
    try:
        importlib.import_module(name)
        assert gc.get_threshold() == (12345, 6, 7)
    finally:
        gc.set_threshold(*before)
