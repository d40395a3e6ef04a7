from __future__ import annotations

import gzip
import shutil
import tracemalloc

import pytest

from nh2st_graph import DataError, read
from nh2st_graph.im._embedding_files import read_embeddings
from nh2st_graph.read import _packed
from nh2st_graph.read._counts import open_text
from nh2st_graph.read._packed import open_packed
from nh2st_graph.read._tenx import read_tenx


@pytest.fixture
def bomb(tmp_path):
    """64 MB of zeros in 62 kB, without a line break."""
    path = tmp_path / "counts.tsv.gz"
    path.write_bytes(gzip.compress(bytes(2**26), mtime=0))
    return path


def test_what_is_packed_is_read(tmp_path):
    for name, content in (("a.txt", b"plain"), ("b.txt.gz", gzip.compress(b"packed"))):
        (tmp_path / name).write_bytes(content)
    assert open_packed(tmp_path / "a.txt").read() == b"plain"
    assert open_packed(tmp_path / "b.txt.gz", 6).read() == b"packed"
    assert open_text(tmp_path / "b.txt.gz").read() == "packed"


def test_a_bomb_stops_at_the_limit(bomb):
    tracemalloc.start()
    with pytest.raises(DataError, match=r"counts\.tsv\.gz holds more than 1,000,000 bytes when it is unpacked"):
        open_packed(bomb, 1_000_000).read()
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_readers_say_the_limit(her2st_crops, tmp_path, monkeypatch):
    root = tmp_path / "her2st"
    shutil.copytree(her2st_crops, root)
    monkeypatch.setattr(_packed.open_packed, "__defaults__", (1000,))
    with pytest.raises(DataError, match=r"C6\.tsv\.gz holds more than 1,000 bytes"):
        read.her2st(root, "C6")


def test_a_line_without_an_end(bomb, monkeypatch):
    monkeypatch.setattr(_packed.open_packed, "__defaults__", (2**20,))
    with pytest.raises(DataError, match="more than 1,048,576 bytes"):
        open_text(bomb).readline()


def test_a_damaged_file_is_the_readers_matter(tmp_path):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(bytes(1000))[:-9])
    with pytest.raises(EOFError):
        open_packed(tmp_path / "cut.gz").read()


@pytest.mark.parametrize("name", ["matrix.mtx", "barcodes.tsv", "features.tsv"])
def test_space_rangers_folder_says_the_limit(tmp_path, monkeypatch, name):
    text = {
        "matrix.mtx": "%%MatrixMarket matrix coordinate integer general\n1 1 1\n1 1 3\n",
        "barcodes.tsv": "A-1\n",
        "features.tsv": "ENSG1\tA\tGene Expression\n",
    }
    for each, content in text.items():
        (tmp_path / f"{each}.gz").write_bytes(gzip.compress(content.encode()))
    assert read_tenx(tmp_path, "s")[0].sum() == 3
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text[name].encode() + b"%" * 2**20))
    monkeypatch.setattr(_packed.open_packed, "__defaults__", (2**16,))
    with pytest.raises(DataError, match=rf"{name}\.gz holds more than 65,536 bytes"):
        read_tenx(tmp_path, "s")


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_embeddings_say_the_limit(tmp_path, monkeypatch, ending):
    path = tmp_path / f"S1.{ending}.gz"
    path.write_bytes(gzip.compress(b"spot,a\n" + b"x,1\n" * 2**18))
    monkeypatch.setattr(_packed.open_packed, "__defaults__", (2**16,))
    with pytest.raises(DataError, match=r"holds more than 65,536 bytes"):
        read_embeddings(path)
