"""Counts in 10x Genomics' HDF5, compared with scanpy's reader."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scanpy as sc
from pandas.errors import ParserWarning
from scipy import sparse
from scipy.io import mmread

from nh2st_graph import DataError
from nh2st_graph.read._tenx import _read_matrix_market, read_tenx

CHUNKED = {"chunks": (50,), "maxshape": (None,)}


def write(path: Path, *, kinds: str = "Gene Expression", probes: bool = False, **packed: Any) -> None:
    """Write 40 spots and 12 features, of which the last two may be of another kind."""
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (40, 12)))
    with h5py.File(path, "w") as file:
        file.attrs.update(chemistry_description="Visium HD v1", software_version=b"spaceranger-4.0.1")
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array([f"s_008um_{i:05d}_00000-1" for i in range(40)], dtype="S")
        matrix["shape"] = np.array([12, 40], dtype=np.int32)
        matrix["indptr"] = counts.indptr.astype(np.int64)
        matrix.create_dataset("data", data=counts.data.astype(np.int32), **packed)
        matrix.create_dataset("indices", data=counts.indices.astype(np.int64), **packed)
        features = matrix.create_group("features")
        features["id"] = np.array([f"ENSG{i}" for i in range(12)], dtype="S")
        if probes:
            features["gene_id"] = np.array([f"ENSG{i // 2}" for i in range(12)], dtype="S")
            features["filtered_probes"] = np.arange(12) % 2 == 0
        features["name"] = np.array([f"G{i // 2}" for i in range(12)], dtype="S")  # each name twice
        features["feature_type"] = np.array(["Gene Expression"] * 10 + [kinds] * 2, dtype="S")
        features["genome"] = np.array(["GRCh38"] * 12, dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"kinds": "Antibody Capture"},
        {"probes": True},
        {**CHUNKED, "compression": "gzip", "shuffle": True},
        {**CHUNKED, "compression": "gzip"},
        {**CHUNKED, "compression": "lzf", "shuffle": True},
        {**CHUNKED, "compression": "gzip", "fletcher32": True},
    ],
    ids=["plain", "antibodies", "probes", "shuffled", "gzip", "lzf", "checked"],
)
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_is_what_scanpy_reads(how, tmp_path):
    write(tmp_path / "counts.h5", **how)
    expected = sc.read_10x_h5(tmp_path / "counts.h5")
    found = read_tenx(tmp_path / "counts.h5", "A")
    np.testing.assert_array_equal(found.matrix.toarray(), expected.X.toarray())
    assert (found.matrix.dtype, found.matrix.indices.dtype) == (np.float32, np.int32)
    assert list(found.barcodes) == list(expected.obs_names)
    assert found.var.equals(expected.var)
    assert list(found.var.columns) == list(expected.var.columns)
    assert found.metadata == {"chemistry_description": "Visium HD v1", "software_version": "spaceranger-4.0.1"}


def test_large_counts_and_many_genes_are_exact(tmp_path):
    counts = sparse.csr_matrix(([3, 70_000, 2**23 + 1], ([0, 1, 2], [0, 69_999, 300])), shape=(40, 70_000))
    write(tmp_path / "counts.h5", **CHUNKED, compression="gzip", shuffle=True)
    with h5py.File(tmp_path / "counts.h5", "a") as file:
        matrix = file["matrix"]
        matrix["shape"][...] = [70_000, 40]
        matrix["indptr"][...] = counts.indptr
        for key in ("data", "indices"):
            matrix[key].resize((3,))
            matrix[key][...] = getattr(counts, key)
        for key in list(matrix["features"]):
            values = matrix["features"][key][()]
            del matrix["features"][key]
            matrix["features"][key] = np.resize(values, 70_000)
    found = read_tenx(tmp_path / "counts.h5", "A").matrix
    assert (found != counts).nnz == 0


def test_of_version_2_has_a_group_for_the_genome(tmp_path):
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (5, 3)))
    with h5py.File(tmp_path / "old.h5", "w") as file:
        group = file.create_group("GRCh38")
        for key, value in {
            "barcodes": np.array([f"{i}-1" for i in range(5)], dtype="S"),
            "genes": np.array(["ENSG0", "ENSG1", "ENSG2"], dtype="S"),
            "gene_names": np.array(["A", "B", "C"], dtype="S"),
            "shape": np.array([3, 5], dtype=np.int32),
            "data": counts.data.astype(np.int32),
            "indices": counts.indices,
            "indptr": counts.indptr,
        }.items():
            group[key] = value
    found = read_tenx(tmp_path / "old.h5", "A")
    np.testing.assert_array_equal(found.matrix.toarray(), counts.toarray())
    assert list(found.var.index) == ["A", "B", "C"]


@pytest.mark.parametrize("lost", ["matrix/indptr", "matrix/features/name", "matrix/barcodes"])
def test_a_file_without_a_part_is_named(lost, tmp_path):
    write(tmp_path / "counts.h5")
    with h5py.File(tmp_path / "counts.h5", "a") as file:
        del file[lost]
    with pytest.raises(DataError, match=r"section 'A': .*counts\.h5 cannot be read as Space Ranger's counts"):
        read_tenx(tmp_path / "counts.h5", "A")


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("size", [2**31 - 1, 1])
def test_a_matrix_of_another_size_than_its_names_is_an_error(at, size, tmp_path):
    write(tmp_path / "counts.h5")
    with h5py.File(tmp_path / "counts.h5", "a") as file:
        file["matrix/shape"][at] = size
    with pytest.raises(DataError, match=rf"section 'A': .*counts\.h5 .* its matrix has .*{size:,}"):
        read_tenx(tmp_path / "counts.h5", "A")


def test_a_damaged_chunk_is_an_error(tmp_path):
    write(tmp_path / "counts.h5", **CHUNKED, compression="gzip", shuffle=True)
    with h5py.File(tmp_path / "counts.h5") as file:
        start = file["matrix/data"].id.get_chunk_info(1).byte_offset
    content = bytearray((tmp_path / "counts.h5").read_bytes())
    content[start : start + 20] = b"\0" * 20
    (tmp_path / "counts.h5").write_bytes(content)
    with pytest.raises(DataError, match=r"counts\.h5 cannot be read as Space Ranger's counts"):
        read_tenx(tmp_path / "counts.h5", "A")


MATRIX = "%%MatrixMarket matrix coordinate integer general\n%metadata\n\n3 2 3\n1 1 5\n3 1 2\n2 2 7\n"


class TestMatrixMarket:
    def test_as_scipy_reads_it(self):
        found = _read_matrix_market(io.BytesIO(MATRIX.encode()))
        np.testing.assert_array_equal(found.toarray(), mmread(io.StringIO(MATRIX)).toarray().T)
        assert found.dtype == np.float32

    def test_nothing_was_counted(self):
        empty = "%%MatrixMarket matrix coordinate real general\n3 2 0\n"
        assert _read_matrix_market(io.BytesIO(empty.encode())).shape == (2, 3)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("%%MatrixMarket", "%%"),
            ("coordinate", "array"),
            ("integer", "complex"),
            ("general", "symmetric"),
            ("3 2 3", "3 2 4"),
            ("3 2 3", "3 2"),
            ("3 2 3", "3 two 3"),
            ("3 2 3", f"3 {10**30} 3"),
            ("1 1 5", "0 1 5"),
            ("1 1 5", "4 1 5"),
            ("1 1 5", "1 3 5"),
            ("1 1 5", "1 1 many"),
            ("1 1 5", "1.5 1 5"),
            ("1 1 5", "1 1"),
            ("1 1 5", "1 1 5 6 7"),
            ("2 2 7\n", "2 2 "),
            ("1 1 5\n3 1 2\n2 2 7\n", ""),
        ],
    )
    def test_damaged(self, old, new):
        assert old in MATRIX
        with pytest.raises((ValueError, OverflowError, ParserWarning)):
            _read_matrix_market(io.BytesIO(MATRIX.replace(old, new).encode()))
