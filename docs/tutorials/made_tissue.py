"""Sections for the tutorials: Space Ranger's folders of Visium, counted from synthetic tissue whose truth is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix
from scipy.spatial import KDTree

import nh2st_graph as ng

PITCH_UM, SPOT_UM = 100.0, 55.0


def visium_folders(folder: str, n_sections: int = 4, n_bins: int = 12_000) -> dict[str, Path]:
    """Write Visium sections: bins of 8 um of synthetic Visium HD, summed over a lattice of printed spots."""
    made = ng.datasets.synthetic_hd(n_bins, f"{folder}_bins", n_sections=n_sections, n_own=60, n_noise=40)
    folders = {}
    for number, outs in enumerate(made.values(), start=1):
        name = f"V{number}"
        _write_section(Path(folder) / name, outs, ng.read.visium_hd_section(outs, bin_um=8))
        folders[name] = Path(folder) / name
    table = pd.DataFrame({"sample_id": list(folders), "patient": [f"P{i + 1}" for i in range(len(folders))]})
    table.to_csv(Path(folder) / "ids.csv", index=False)
    return folders


def counts_at(bins: AnnData, centres: np.ndarray, diameter_px: float) -> csr_matrix:
    """Sum the counts of the bins within each spot, ``(n_spots, n_genes)``."""
    found = KDTree(bins.obsm["spatial"]).query_ball_point(centres, diameter_px / 2)
    rows = np.repeat(np.arange(len(centres)), [len(each) for each in found])
    columns = np.concatenate(found).astype(int)
    return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(centres), bins.n_obs)) @ csr_matrix(bins.X)


def _write_section(folder: Path, outs: Path, bins: AnnData) -> None:
    spatial = folder / "spatial"
    if spatial.exists():
        return
    spatial.mkdir(parents=True)
    square = outs / "binned_outputs" / "square_008um" / "spatial"
    factors = json.loads((square / "scalefactors_json.json").read_text())
    scale = factors["microns_per_pixel"]
    extent = bins.obsm["spatial"].max(axis=0) * scale
    row, half = np.indices((int(extent[1] / (PITCH_UM * 0.75**0.5)), int(extent[0] / PITCH_UM)))
    col = 2 * half + row % 2
    centres = np.column_stack([(col.ravel() + 1) * PITCH_UM / 2, (row.ravel() + 0.5) * PITCH_UM * 0.75**0.5]) / scale
    counts = counts_at(bins, centres, SPOT_UM / scale)
    whole = 200 * np.pi / 4 * (SPOT_UM / 8) ** 2  # a bin has 200 counts
    inside = 0.9 * whole < counts.sum(axis=1).A1
    names = np.array([f"SPOT{i:04d}-1" for i in range(len(centres))])
    table = {
        "barcode": names,
        "in_tissue": inside.astype(int),
        "array_row": row.ravel(),
        "array_col": col.ravel(),
        "pxl_row_in_fullres": np.rint(centres[:, 1]).astype(int),
        "pxl_col_in_fullres": np.rint(centres[:, 0]).astype(int),
    }
    pd.DataFrame(table).to_csv(spatial / "tissue_positions.csv", index=False)
    factors |= {"spot_diameter_fullres": 65.0 / scale, "fiducial_diameter_fullres": 105.0 / scale}
    kept = ("spot_diameter_fullres", "fiducial_diameter_fullres", "tissue_hires_scalef", "tissue_lowres_scalef")
    (spatial / "scalefactors_json.json").write_text(json.dumps({key: factors[key] for key in kept}))
    for image in ("tissue_hires_image.png", "tissue_lowres_image.png"):
        shutil.copy(square / image, spatial / image)
    shutil.copy(outs.parent / "tissue_image.tif", folder / "slide.tif")
    _write_counts(folder / "filtered_feature_bc_matrix.h5", counts[inside].astype(np.int32), names[inside], bins)


def _write_counts(path: Path, counts: csr_matrix, barcodes: np.ndarray, bins: AnnData) -> None:
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = barcodes.astype("S")
        matrix["shape"] = np.array(counts.shape[::-1], dtype=np.int32)
        for key in ("data", "indices", "indptr"):
            matrix[key] = getattr(counts, key)
        features = matrix.create_group("features")
        features["id"] = bins.var["gene_ids"].to_numpy().astype("S")
        features["name"] = bins.var_names.to_numpy().astype("S")
        features["feature_type"] = np.array(["Gene Expression"] * counts.shape[1], dtype="S")
        features["genome"] = np.array(["synthetic"] * counts.shape[1], dtype="S")
