#!/usr/bin/env bash
# squidpy's two matrices of one graph do not hold the same edges.
#
# Packages: squidpy 1.8.2, anndata 0.12.19, scipy, numpy 2.4.6.
# Guess: spatial_connectivities and spatial_distances hold the same edges, so the second
# gives the lengths of the edges of the first, in order.
# What happens: two cells at one place have the distance 0. The sparse matrix of the
# distances drops it, the other one keeps the edge. From there on the two lists are
# shifted against each other. With delaunay=True one of the two cells has no edge at
# all.
# Why it matters: rounded centroids, and sections that lie over each other, hold such
# pairs. Lengths that are zipped to edges then belong to other edges.
#
# Output seen:
#   squidpy 1.8.2
#   guess: 200 edges and 200 distances, in the same order
#   seen:  200 edges and 198 distances; 115 distances stand beside another edge
#   seen:  delaunay=True: the two cells at one place have 0 and 4 edges
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

cells = np.random.default_rng(0).random((50, 2))
cells[21] = cells[20]
adata = ad.AnnData(np.zeros((50, 1), dtype="float32"), obsm={"spatial": cells})
sq.gr.spatial_neighbors(adata, coord_type="generic", n_neighs=4)
edges = adata.obsp["spatial_connectivities"].tocoo()
stored = adata.obsp["spatial_distances"].tocoo().data
true = np.linalg.norm(cells[edges.row] - cells[edges.col], axis=1)

print("squidpy", sq.__version__)
print("guess: 200 edges and 200 distances, in the same order")
wrong = int((~np.isclose(true[: len(stored)], stored)).sum())
print(f"seen:  {edges.nnz} edges and {len(stored)} distances; {wrong} distances stand beside another edge")
sq.gr.spatial_neighbors(adata, coord_type="generic", delaunay=True)
degree = np.asarray((adata.obsp["spatial_connectivities"] != 0).sum(axis=1)).ravel()
print(f"seen:  delaunay=True: the two cells at one place have {degree[20]} and {degree[21]} edges")
assert edges.nnz == 200 and len(stored) == 198 and wrong > 50
assert sorted(degree[20:22] > 0) == [False, True]
PY
