from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import nh2st_graph as ng

HEAVY = ("torch", "torch_geometric", "lightning", "timm", "squidpy", "scanpy", "matplotlib", "sklearn")
#: What a new process says of itself: the seconds that the import took, whether the room ``read`` was loaded by it and
#: by its use, and which heavy libraries each of four imports, the lightest first, had loaded.
CODE = f"""
import json, sys, time
loaded = lambda: [name for name in {HEAVY} if name in sys.modules]
start = time.process_time()
import nh2st_graph as ng
found = {{"seconds": time.process_time() - start, "nh2st_graph": loaded()}}
rooms = ["nh2st_graph.read" in sys.modules]
import nh2st_graph.config
found["nh2st_graph.config"] = loaded()
ng.read.her2st
found["nh2st_graph.read"] = loaded()
import nh2st_graph.cli._encoders
found["nh2st_graph.cli._encoders"] = loaded()
found["rooms"] = [*rooms, "nh2st_graph.read" in sys.modules]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return dict(json.loads(result.stdout))


@pytest.mark.parametrize(
    "module", ["nh2st_graph", "nh2st_graph.config", "nh2st_graph.read", "nh2st_graph.cli._encoders"]
)
def test_heavy_libraries_load_on_use(found, module):
    assert found[module] == []


def test_import_is_light(found):
    # the processor's time, not the clock's: other tests may be running
    assert found["seconds"] < 2


def test_rooms_are_listed_and_load_on_first_use(found):
    assert set(dir(ng)) == set(ng.__all__)
    assert found["rooms"] == [False, True]


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'reed'"):
        ng.reed  # noqa: B018
    assert not hasattr(ng, "reed")
