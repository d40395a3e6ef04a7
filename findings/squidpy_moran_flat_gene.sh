#!/usr/bin/env bash
# One flat gene takes the p-values of Moran's I away, or ranks as certain itself.
#
# Packages: squidpy 1.8.2, anndata 0.12.19, numpy 2.4.6.
# Guess: a gene with one value has no Moran's I. Its p-value is NaN, and the other
# genes keep theirs.
# What happens: squidpy sets aside memory for the p-values and fills it only where I
# is above or not above the expected value. NaN is neither, so the flat gene keeps
# what lay in the memory. In a table of 20 genes this was NaN, and the correction for
# many tests made every gene's FDR NaN. In a table of 300 genes it was a number near
# 0, and the flat gene is the most certain of all.
# Why it matters: a predicted table can hold genes that a model gave one value.
#
# Output seen:
#   squidpy 1.8.2
#   guess: the flat gene has I = NaN and p = NaN; the gradient keeps an FDR near 0
#   seen:  20 genes, none flat: 0 FDR are NaN
#   seen:  20 genes, one flat: 20 FDR are NaN; the flat gene has I = nan and p = nan
#   seen:  300 genes, one flat: 0 FDR are NaN; the flat gene has I = nan and p = 4.66e-310
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  squidpy==1.8.2 scanpy==1.11.5 spatialdata==0.7.3 anndata==0.12.19
  numpy==2.4.6 pandas==2.3.3 zarr==3.1.6 dask==2026.1.1
)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import logging

import anndata as ad
import numpy as np
import squidpy as sq

logging.disable(logging.INFO)

rng = np.random.default_rng(0)
rows, columns = np.mgrid[:10, :10]
spots = np.c_[columns.ravel(), rows.ravel()].astype(float)


def moran(genes, flat):
    X = rng.normal(size=(100, genes)).astype("float32")
    X[:, 0] = spots[:, 0] / 3
    if flat:
        X[:, 1] = 1.5
    adata = ad.AnnData(X, obsm={"spatial": spots})
    adata.var_names = ["gradient", "second"] + [f"noise{i}" for i in range(genes - 2)]
    sq.gr.spatial_neighbors(adata, coord_type="grid", n_neighs=4)
    sq.gr.spatial_autocorr(adata, mode="moran", n_perms=None)
    return adata.uns["moranI"]


print("squidpy", sq.__version__)
print("guess: the flat gene has I = NaN and p = NaN; the gradient keeps an FDR near 0")
control = moran(20, flat=False)
print(f"seen:  20 genes, none flat: {control['pval_norm_fdr_bh'].isna().sum()} FDR are NaN")
bad = []
for genes in (20, 300):
    table = moran(genes, flat=True)
    nans = int(table["pval_norm_fdr_bh"].isna().sum())
    flat = table.loc["second"]
    print(f"seen:  {genes} genes, one flat: {nans} FDR are NaN; the flat gene has I = {flat['I']} and p = {flat['pval_norm']:.3g}")
    bad.append(nans == genes or flat["pval_norm"] < 1e-6)
assert control["pval_norm_fdr_bh"].notna().all()
assert all(bad), "a flat gene no longer spoils the table"
PY
