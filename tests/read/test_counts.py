from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from nh2st_graph import DataError
from nh2st_graph.read._counts import array_positions, read_counts


@pytest.fixture
def table():
    values = np.random.default_rng(0).poisson(1, (25, 4))
    return pd.DataFrame(values, index=[f"s{i}" for i in range(25)], columns=["A", "B", "A", "C,1"])


def _write(table, path, ends="\n"):
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        text = table.to_csv(sep="," if ".csv" in path.suffixes else "\t", lineterminator=ends).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.tsv.gz", "t.txt"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_text(table, tmp_path, name, ends):
    counts = read_counts(_write(table, tmp_path / name, ends), "S")
    assert list(counts.spots) == list(table.index)
    assert list(counts.genes) == list(table.columns)
    assert counts.matrix.format == "csr"
    np.testing.assert_array_equal(counts.matrix.toarray(), table)


def test_parquet(table, tmp_path):
    table.columns = ["A", "B", "C", "D"]
    counts = read_counts(_write(table, tmp_path / "t.parquet"), "S")
    np.testing.assert_array_equal(counts.matrix.toarray(), table)
    assert list(counts.spots) == list(table.index)


def test_quoted_names_as_r_writes_them(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('"","A","B"\n"s0",1,0\n"s1",2.0,3\n')
    counts = read_counts(path, "S")
    assert (list(counts.spots), list(counts.genes)) == (["s0", "s1"], ["A", "B"])
    np.testing.assert_array_equal(counts.matrix.toarray(), [[1, 0], [2, 3]])


def test_names_that_are_numbers_stay_text(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("\tA\n17\t1\n18\t0\n")
    assert list(read_counts(path, "S").spots) == ["17", "18"]


BAD = {
    "empty": ("", "has no spots"),
    "header only": ("\tA\tB\n", "has no spots"),
    "no genes": ("s\n1\n", "names 0 genes and has 0 counts of spot '1'"),
    "header without corner": ("A\tB\ns0\t1\t2\n", "names 1 genes and has 2 counts of spot 's0'"),
    "empty cell": ("\tA\tB\ns0\t\t2\n", "gene 'A' in spot 's0' of .* is not a number"),
    "not finite": ("\tA\tB\ns0\t1\tnan\n", "gene 'B' in spot 's0' of .* is not a number"),
    "text": ("\tA\tB\ns0\t1\tmany\n", "gene 'B' in spot 's0' of .* is not a number"),
    "cut off": ("\tA\tB\ns0\t1\t2\ns1\t1\n", "names 2 genes and has 1 counts of spot 's1'"),
    "long row": ("\tA\tB\ns0\t1\t2\ns1\t1\t2\t3\n", "names 2 genes and has 3 counts of spot 's1'"),
    "twice": ("\tA\ns0\t1\ns0\t2\n", "spot 's0' occurs more than once"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_give_one_line(tmp_path, case):
    content, message = BAD[case]
    path = tmp_path / "t.tsv"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_counts(path, "section 'S'")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10x14", "3x4"], [[10, 14], [3, 4]]),
        (["S_ST_A1_10x14"], [[10, 14]]),
        (["S_Rep1_19.05x11.98"], [[19.05, 11.98]]),
        (["S_6.5PCW_1_5x15x10"], [[15, 10]]),
        (["010x014"], [[10, 14]]),
        (["ACGT-1"], None),
        (["10x14", "ACGT-1"], None),
        (["s_008um_00301_00321-1"], None),
    ],
)
def test_array_positions(names, expected):
    found = array_positions(pd.Index(names))
    if expected is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, expected)
