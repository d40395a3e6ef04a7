#!/usr/bin/env bash
# PyG's to_undirected doubles the distance of every edge that had both directions.
#
# Packages: torch 2.13.0, torch-geometric 2.8.1.
# Guess: to_undirected adds the missing direction. An edge that has both stays as it is.
# What happens: both directions are added to the list and equal edges are then merged
# by a sum. An edge that was there in both directions has its attribute doubled. An
# edge with one direction keeps it. ToUndirected, the transform, does the same.
# Why it matters: in a graph of nearest neighbours some edges have both directions and
# some have one, so distances of one section are then on two scales.
#
# Output seen:
#   torch 2.13.0 torch-geometric 2.8.1
#   guess: 0-1 is 100 um in both directions, 1-2 is 110 um in both directions
#   seen:  0 -> 1: 200 um, true 100 um
#   seen:  1 -> 0: 200 um, true 100 um
#   seen:  1 -> 2: 110 um, true 110 um
#   seen:  2 -> 1: 110 um, true 110 um
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(torch==2.13.0 torch-geometric==2.8.1 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import torch
import torch_geometric
from torch_geometric.data import Data
from torch_geometric.transforms import ToUndirected

print("torch", torch.__version__.split("+")[0], "torch-geometric", torch_geometric.__version__)
# Three spots on a line at 0, 100 and 210 um, each with an edge from its nearest spot.
where = torch.tensor([0.0, 100.0, 210.0])
edges = torch.tensor([[1, 0, 1], [0, 1, 2]])
distance = (where[edges[0]] - where[edges[1]]).abs()
result = ToUndirected()(Data(pos=where[:, None], edge_index=edges, edge_attr=distance))
print("guess: 0-1 is 100 um in both directions, 1-2 is 110 um in both directions")
true = (where[result.edge_index[0]] - where[result.edge_index[1]]).abs()
for (a, b), seen, right in zip(result.edge_index.t().tolist(), result.edge_attr.tolist(), true.tolist()):
    print(f"seen:  {a} -> {b}: {seen:.0f} um, true {right:.0f} um")
assert result.edge_attr.tolist() == [200.0, 200.0, 110.0, 110.0]
PY
