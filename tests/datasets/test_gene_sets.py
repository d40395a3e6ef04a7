"""Gene sets in GMT."""

from __future__ import annotations

import pytest

from nh2st_graph import DataError
from nh2st_graph.datasets import read_gene_sets


@pytest.fixture
def gmt(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "sets.gmt").write_text(text)
        return str(tmp_path / "sets.gmt")

    return write


def test_reads_sets_in_their_order_each_gene_once(gmt):
    path = gmt("B\thttp://x\tERBB2\tKRT8\tERBB2\n\nA\t\tTP53,1.0\t\n")
    assert read_gene_sets(path) == {"B": ["ERBB2", "KRT8"], "A": ["TP53"]}
    assert list(read_gene_sets(path)) == ["B", "A"]
    assert read_gene_sets(f"{path}:A") == {"A": ["TP53"]}
    assert list(read_gene_sets(f"{path}: A ,B")) == ["A", "B"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("A\tx\n", "line 1, is not GMT"),
        ("A ERBB2 KRT8\n", "line 1"),
        ("A\tx\tT\nA\tx\tT\n", "line 2: set 'A'"),
    ],
)
def test_refuses_what_is_no_gmt(gmt, text, says):
    with pytest.raises(DataError, match=says):
        read_gene_sets(gmt(text))


def test_refuses_what_is_not_there(gmt, tmp_path):
    with pytest.raises(DataError, match=r"none\.gmt do not exist"):
        read_gene_sets(tmp_path / "none.gmt")
    with pytest.raises(DataError, match="no set 'HYPOXIA'; known: A"):
        read_gene_sets(gmt("A\tx\tT\n") + ":HYPOXIA")
    (tmp_path / "b.gmt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not a text file"):
        read_gene_sets(tmp_path / "b.gmt")
