from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import DataError
from nh2st_graph.datasets import read_panel

symbols = st.lists(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghij0123456789-._", min_size=1), min_size=1, unique=True)


@given(genes=symbols, ending=st.sampled_from(["\n", "\r\n", "\n\n", "  \n", "  # known marker\n"]))
def test_reads_what_was_written(tmp_path_factory: pytest.TempPathFactory, genes: list[str], ending: str) -> None:
    path = tmp_path_factory.mktemp("panel") / "genes.txt"
    path.write_bytes(("# a panel\n\n" + "".join(gene + ending for gene in genes)).encode())
    assert read_panel(path) == genes


def test_byte_order_mark_is_no_part_of_a_symbol(tmp_path: Path) -> None:
    path = tmp_path / "genes.txt"
    path.write_text("ERBB2\nCD3E", encoding="utf-8-sig")
    assert read_panel(str(path)) == ["ERBB2", "CD3E"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no gene"),
        (b"# only\n\n   \n", "holds no gene"),
        (b"ERBB2\nCD3E\n\nERBB2\n", "'ERBB2' is on lines 1 and 4"),
        (b"ERBB2\nCD3E CD4\n", "line 2: 'CD3E CD4' is not one symbol"),
        (b"\xff\xfe\x00\x01", "not a text file"),
    ],
)
def test_a_bad_panel_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "genes.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_panel(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "gene\nERBB2\nCD3E\n",
        "Symbol\n\nERBB2\nCD3E\n",
        '"x"\n"ERBB2"\n"CD3E"\n',
        ",gene_name\n0,ERBB2\n1,CD3E\n",
        '"","gene"\n"1","ERBB2"\n"2","CD3E"\n',
        "gene_symbol\trank\nERBB2\t1\nCD3E\t2\n",
        '{"genes": ["ERBB2", "CD3E"]}',
        '["ERBB2", "CD3E"]',
        '{"version": 1, "var_50genes": ["ERBB2", "CD3E"]}',
    ],
)
def test_headers_tables_and_json(tmp_path: Path, content: str) -> None:
    path = tmp_path / "panel"
    path.write_text(content)
    assert read_panel(path) == ["ERBB2", "CD3E"]


def test_a_word_that_may_be_a_header_is_a_gene_where_it_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "panel").write_text("X\n")
    assert read_panel(tmp_path / "panel") == ["X"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ERBB2,1\nCD3E,2\n", r"several columns \(ERBB2, 1\)"),
        ('{"genes": "ERBB2"}', "no list 'genes'"),
        ('{"a": ["X"], "b": ["Y"]}', r"no list 'genes' \(there: a, b\)"),
        ('{"genes": [1, 2]}', "no list of gene symbols"),
        ('{"genes": ["A",', "not valid JSON"),
        ('["A", "A"]', "'A' is on lines 1 and 2"),
        ("[]", "holds no gene"),
    ],
)
def test_tables_and_json_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "panel"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        read_panel(path)
    assert "\n" not in str(error.value)


def test_a_missing_panel_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt does not exist"):
        read_panel(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_panel(tmp_path)


def test_published_panels(shared_data: Path) -> None:
    folder = shared_data / "gene_panels"
    lengths = {path.stem: len(read_panel(path)) for path in folder.glob("*.txt")}
    assert lengths["her_hvg_cut_1000"] == 785
    assert lengths["genes_stnet"] == 250
