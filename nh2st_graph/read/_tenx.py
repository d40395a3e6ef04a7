"""Read the counts that Cell Ranger and Space Ranger write: HDF5, or a folder with ``matrix.mtx``."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, reason
from nh2st_graph.read._hdf5 import check_declared
from nh2st_graph.read._packed import open_packed
from nh2st_graph.section import as_csr, is_real

__all__ = ["TenX", "read_tenx"]

#: Columns of ``var``, and the kind of feature that is kept.
_IDS, _TYPES, _GENES = "gene_ids", "feature_types", "Gene Expression"

#: Datasets of a file's features that become no column of their own name.
_TAKEN = {"id", "gene_id", "feature_type", "name", "_all_tag_keys"}

#: What a file says of itself that a section keeps.
_METADATA = ("chemistry_description", "software_version")

#: Numbers of HDF5's filters, and the chunks that are unpacked at a time; more than a few threads wait for the file.
_DEFLATE, _SHUFFLE, _AHEAD, _THREADS = 1, 2, 64, 4

#: Numbers that are read at a time where chunks cannot be unpacked here.
_BLOCK = 2**22


#: Matrices of counts that are read: of whole or real numbers, each written out.
_KINDS = (["integer", "general"], ["real", "general"])


class TenX(NamedTuple):
    """Counts of genes, as in their file.

    Attributes
    ----------
    matrix
        ``(n_spots, n_genes)`` CSR, float32.
    barcodes
        Names of the spots.
    var
        Genes by symbol, which may occur twice, with ``gene_ids`` and, where the file has them, ``feature_types`` and
        more.
    metadata
        What the file says of the assay.
    """

    matrix: sparse.csr_matrix
    barcodes: pd.Index
    var: pd.DataFrame
    metadata: dict[str, str]


def read_tenx(path: Path, name: str) -> TenX:
    """Read a section's counts. Features other than genes are left out.

    Parameters
    ----------
    path
        The HDF5 file, or a folder with ``matrix.mtx``, packed or not.
    name
        The section, which an error names.

    Raises
    ------
    DataError
        If it is damaged, or something else.
    """
    try:
        if path.is_dir():
            return _read_folder(path, name)
        check_declared(path)
        with h5py.File(path) as file:
            if "matrix" in file:
                return _read_file(file)
        return _read_legacy(path)
    except DataError:
        raise
    except Exception as error:  # h5py and scanpy raise nearly any class on an HDF5 file that is damaged or not 10x's
        raise DataError(
            f"section {name!r}: {path} cannot be read as Space Ranger's counts "
            f"({type(error).__name__}: {reason(error)}); copy it again"
        ) from error


def _read_file(file: h5py.File) -> TenX:
    """Read the layout of version 3 and later: genes x barcodes, barcode by barcode.

    scanpy's reader holds the counts three times over (their positions in int64, and a copy without other features).
    """
    group, features = file["matrix"], file["matrix/features"]
    n_genes, n_spots = (int(size) for size in group["shape"][()])
    barcodes, names = pd.Index(_text(group["barcodes"]), dtype=object), _text(features["name"])
    if (n_genes, n_spots) != (len(names), len(barcodes)):
        raise ValueError(
            f"its matrix has {n_genes:,} genes and {n_spots:,} barcodes, and it names {len(names):,} and "
            f"{len(barcodes):,}"
        )
    ends = group["indptr"][()]
    columns: dict[str, Any] = {_IDS: _text(features["gene_id" if "gene_id" in features else "id"])}
    if "gene_id" in features:
        columns["probe_ids"] = _text(features["id"])
    columns[_TYPES] = _text(features["feature_type"])
    for key in features:
        if isinstance(features[key], h5py.Dataset) and key not in _TAKEN:
            columns[key] = features[key][()] if features[key].dtype.kind == "b" else _text(features[key])
    var = pd.DataFrame(columns, index=pd.Index(names, dtype=object))
    number = np.int32 if max(ends[-1], n_genes) < 2**31 else np.int64
    parts = _stored(group["data"], np.float32), _stored(group["indices"], number), ends.astype(number)
    matrix = sparse.csr_matrix(parts, shape=(n_spots, n_genes))
    matrix.check_format(full_check=True)  # or SciPy would read beyond the ends of parts that do not belong together
    metadata = {key: _attribute(file.attrs[key]) for key in _METADATA if key in file.attrs}
    return _of_genes(TenX(matrix, barcodes, var, metadata))


def _text(dataset: h5py.Dataset) -> NDArray[np.object_]:
    if dataset.ndim != 1:
        raise ValueError(f"{dataset.name} has shape {dataset.shape}, expected (n,)")
    return dataset[()].astype(str).astype(object)


def _attribute(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _stored(dataset: h5py.Dataset, kind: type[np.generic]) -> NDArray[Any]:
    """Read a column of numbers in another type.

    HDF5 unpacks with one thread. Here several do, with a faster library.
    """
    import imagecodecs

    if not is_real(dataset.dtype):
        raise ValueError(f"{dataset.name} holds {dataset.dtype}, not real numbers")
    found = np.empty(len(dataset), dtype=kind)
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if filters in ([_DEFLATE], [_SHUFFLE, _DEFLATE]) and dataset.dtype.isnative:
        (step,) = dataset.chunks
        starts = range(0, len(dataset), step)
        n_bytes = dataset.dtype.itemsize

        def fill(start: int, packed: bytes) -> None:
            values = np.frombuffer(imagecodecs.deflate_decode(packed, out=step * n_bytes), dtype=np.uint8)
            if _SHUFFLE in filters:
                values = _joined_bytes(values.reshape(n_bytes, step))
            part = found[start : start + step]
            part[:] = values.view(dataset.dtype)[: len(part)]

        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            for some in _batches(starts):
                chunks = [dataset.id.read_direct_chunk((start,)) for start in some]
                if any(skipped for skipped, _ in chunks):
                    break
                list(pool.map(fill, some, (packed for _, packed in chunks)))
            else:
                return found
    for start in range(0, len(dataset), _BLOCK):
        found[start : start + _BLOCK] = dataset[start : start + _BLOCK]
    return found


def _joined_bytes(planes: NDArray[np.uint8]) -> NDArray[np.unsignedinteger[Any]]:
    """Put the bytes of numbers together: first bytes of all, then second bytes, ...; the high ones are mostly zero."""
    whole = planes[0].astype(f"u{len(planes)}")
    for i, plane in enumerate(planes[1:], start=1):
        if plane.any():
            whole |= plane.astype(whole.dtype) << np.asarray(8 * i, whole.dtype)
    return whole


def _batches(starts: range) -> Iterator[range]:
    return (starts[i : i + _AHEAD] for i in range(0, len(starts), _AHEAD))


def _of_genes(counts: TenX) -> TenX:
    """Leave out features that are not genes."""
    genes = (counts.var[_TYPES] == _GENES).to_numpy()
    return counts if genes.all() else counts._replace(matrix=counts.matrix[:, genes], var=counts.var[genes])


def _read_legacy(path: Path) -> TenX:
    """Read the layout before version 3, with a group for each genome."""
    import scanpy as sc

    adata = sc.read_10x_h5(path)
    metadata = {}
    with h5py.File(path) as file:
        metadata = {key: _attribute(file.attrs[key]) for key in _METADATA if key in file.attrs}
    return TenX(as_csr(adata.X), adata.obs_names, adata.var, metadata)


def _read_folder(folder: Path, name: str) -> TenX:
    """Read ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` (or ``genes.tsv``), each packed or not."""
    matrix, barcodes, features = (
        _one_of(folder, files, name) for files in (["matrix.mtx"], ["barcodes.tsv"], ["features.tsv", "genes.tsv"])
    )
    genes, spots = (_read_names(path) for path in (features, barcodes))
    with open_packed(matrix) as file:
        counts = _read_matrix_market(file)
    if counts.shape != (len(spots), len(genes)):
        raise DataError(
            f"section {name!r}: {matrix} has {counts.shape[1]} genes and {counts.shape[0]} barcodes, {features} has "
            f"{len(genes)} and {barcodes} has {len(spots)}; copy them again"
        )
    names = genes[1] if genes.shape[1] > 1 else genes[0]
    columns = {_IDS: genes[0].to_numpy()} | ({_TYPES: genes[2].to_numpy()} if genes.shape[1] > 2 else {})
    var = pd.DataFrame(columns, index=pd.Index(names.to_numpy(), dtype=object))
    found = TenX(counts, pd.Index(spots[0].to_numpy(), dtype=object), var, {})
    return _of_genes(found) if genes.shape[1] > 2 and (genes[2] == _GENES).any() else found


def _read_matrix_market(file: BinaryIO) -> sparse.csr_matrix:
    """Read a matrix of genes x barcodes, and turn it, ``(n_spots, n_genes)``.

    SciPy's reader of streams ends the whole process on some damaged files.

    Raises
    ------
    ValueError
        If it is damaged, or of another kind than Cell Ranger writes.
    """
    kind = file.readline(1000).decode("ascii", "replace").lower().split()
    if kind[:3] != ["%%matrixmarket", "matrix", "coordinate"] or kind[3:] not in _KINDS:
        raise ValueError(f"it is no matrix of counts in coordinates ({' '.join(kind)[:60]!r})")
    line = file.readline(2**16)
    while line.startswith(b"%") or (line and not line.strip()):
        line = file.readline(2**16)
    n_genes, n_spots, n_values = (int(number) for number in line.split())
    names = ["gene", "spot", "count"]
    types = {"gene": np.int64, "spot": np.int64, "count": np.float32}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # of a row with more than three numbers
        table = pd.read_csv(file, sep=r"\s+", header=None, names=names, dtype=types, index_col=False, comment="%")
    if table["count"].isna().any():
        raise ValueError("a count is missing")
    if len(table) != n_values or n_genes < 0 or n_spots < 0:
        raise ValueError(f"it says {n_values:,} values and has {len(table):,}")
    for column, n in (("gene", n_genes), ("spot", n_spots)):
        if n_values and not 1 <= table[column].min() <= table[column].max() <= n:
            raise ValueError(f"the number of a {column} is not between 1 and {n:,}")
    places = table["spot"].to_numpy() - 1, table["gene"].to_numpy() - 1
    return sparse.csr_matrix((table["count"].to_numpy(), places), shape=(n_spots, n_genes))


def _read_names(path: Path) -> pd.DataFrame:
    with open_packed(path) as file:
        return pd.read_csv(file, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)


def _one_of(folder: Path, names: Sequence[str], section: str) -> Path:
    there = [path for name in names for ending in ("", ".gz") for path in sorted(folder.glob(f"*{name}{ending}"))]
    if not there:
        raise DataError(
            f"section {section!r}: {folder} cannot be read as Space Ranger's counts: {names[0]} (or .gz) is missing; "
            "copy it again"
        )
    return there[0]
