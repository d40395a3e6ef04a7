from __future__ import annotations

import subprocess
import sys

import pytest

import nh2st_graph as ng

HEAVY = ("torch", "torch_geometric", "lightning", "timm", "squidpy", "scanpy", "matplotlib", "sklearn")


def _run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip()


@pytest.mark.parametrize("module", ["nh2st_graph", "nh2st_graph.config", "nh2st_graph.read"])
def test_heavy_libraries_load_on_use(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    assert _run(code) == "[]"


def test_import_is_light():
    # the processor's time, not the clock's: other tests may be running
    code = "import time; t = time.process_time(); import nh2st_graph; print(time.process_time() - t)"
    assert float(_run(code)) < 2


def test_rooms_are_listed_and_load_on_first_use():
    assert set(dir(ng)) == set(ng.__all__)
    code = "import sys, nh2st_graph as ng; ng.read.her2st; print('nh2st_graph.read' in sys.modules)"
    assert _run(code) == "True"


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'reed'"):
        ng.reed  # noqa: B018
    assert not hasattr(ng, "reed")
