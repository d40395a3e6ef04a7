#!/usr/bin/env bash
# squidpy's nearest neighbours, taken over by PyG, send their messages backwards.
#
# Packages: squidpy 1.8.2, torch 2.13.0, torch-geometric 2.8.1, anndata 0.12.19.
# Guess: a graph of 4 nearest neighbours gives each spot the messages of its 4 nearest.
# What happens: in squidpy's matrix the row is the spot and the columns are its
# neighbours. from_scipy_sparse_matrix makes the row the source of the edge, and PyG
# sends from the source to the target. So a spot sends to its 4 nearest, and hears from
# those that count it among theirs: from many in a dense place, from none at an edge.
# An array of Visium hides it, since its graph has both directions.
# Why it matters: single cells and irregular spots have no such array.
#
# Output seen:
#   squidpy 1.8.2 torch 2.13.0 torch-geometric 2.8.1
#   guess: each of 300 cells hears from 4
#   seen:  a cell hears from 0 to 8; 3 cells hear from none
#   seen:  the mean of the 4 nearest arrives at 8% of the cells; with the edges turned at 100%
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  squidpy==1.8.2 scanpy==1.11.5 spatialdata==0.7.3 anndata==0.12.19
  numpy==2.4.6 pandas==2.3.3 zarr==3.1.6 dask==2026.1.1
  torch==2.13.0 torch-geometric==2.8.1
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
import torch
import torch_geometric
from torch_geometric.nn import SimpleConv
from torch_geometric.utils import degree, from_scipy_sparse_matrix

logging.disable(logging.INFO)

cells = np.random.default_rng(0).gamma(1.0, size=(300, 2))
adata = ad.AnnData(np.zeros((300, 1), dtype="float32"), obsm={"spatial": cells})
sq.gr.spatial_neighbors(adata, coord_type="generic", n_neighs=4)
graph = adata.obsp["spatial_connectivities"]
edges, _ = from_scipy_sparse_matrix(graph)
heard = degree(edges[1], 300).int()
# Each cell sends its own x; the mean that arrives is compared with the mean over the row of the matrix.
x = torch.tensor(cells[:, :1])
arrived = SimpleConv(aggr="mean")(x, edges)[:, 0].numpy()
rows = graph @ cells[:, 0] / 4

print("squidpy", sq.__version__, "torch", torch.__version__.split("+")[0], "torch-geometric", torch_geometric.__version__)
print("guess: each of 300 cells hears from 4")
print(f"seen:  a cell hears from {heard.min()} to {heard.max()}; {int((heard == 0).sum())} cells hear from none")
same = float(np.isclose(arrived, rows).mean())
turned = SimpleConv(aggr="mean")(x, edges.flip(0))[:, 0].numpy()
print(f"seen:  the mean of the 4 nearest arrives at {same:.0%} of the cells; with the edges turned at {np.isclose(turned, rows).mean():.0%}")
assert heard.min() == 0 and heard.max() > 4
assert same < 0.5 and np.allclose(turned, rows)
PY
