from __future__ import annotations

import numpy as np
import pytest

from nh2st_graph import ModelError, RunError, __version__, _formats
from nh2st_graph._formats import check_format, stamp


def refused(about: dict[str, object], reads: int = 2, **how: str) -> str:
    with pytest.raises(ModelError) as caught:
        check_format("model m", about, reads, ModelError, **how)
    line = str(caught.value)
    assert line.startswith("model m: written ")
    assert f"this is version {__version__}, which reads format {reads}: " in line
    return line


@pytest.mark.parametrize(
    "about",
    [
        {},
        stamp(2),
        stamp(1),
        {"format": np.int64(2)},
        {"version": "0.0.1"},
        {"version": "0+unknown"},
        {"version": None},
    ],
)
def test_what_this_version_and_earlier_ones_wrote_is_read(about):
    check_format("model m", about, 2, ModelError)


@pytest.mark.parametrize("version", ["99.0", f"{__version__}.1", 99.0])
def test_a_later_version_is_named(version):
    line = refused({"format": 2, "version": version})
    assert f"by nh2st-graph {version}; " in line
    assert line.endswith(f": install nh2st-graph {version}")


@pytest.mark.parametrize("about", [{"format": 3}, {"format": 3, "version": __version__}])
def test_a_later_format_is_named(about):
    line = refused(about)
    assert "written in format 3 by" in line
    assert line.endswith("install a later version")


@pytest.mark.parametrize("format", [0, -1, True, "2", None, 2.0, [2]])
def test_a_format_that_is_none(format):
    assert refused({"format": format}, otherwise="train again").endswith(": train again")


def test_a_version_that_is_none():
    assert "by nh2st-graph of today;" in refused({"version": "of today"})


def test_a_source_tree_reads_all_versions_of_its_format(monkeypatch):
    monkeypatch.setattr(_formats, "__version__", "0+unknown")
    check_format("model m", {"format": 1, "version": "99.0"}, 1, ModelError)
    with pytest.raises(RunError):
        check_format("run r", {"format": 2}, 1, RunError)
