#!/usr/bin/env bash
# PyG cuts a vector of genes with the spots when it is as long as there are spots.
#
# Packages: torch 2.13.0, torch-geometric 2.8.1.
# Guess: subgraph(spots) cuts what belongs to spots. A tensor with one entry for each
# gene belongs to the graph and stays whole.
# What happens: Data does not know what a tensor is about. It compares lengths: as long
# as x means an attribute of the nodes, as long as edge_index one of the edges. A panel
# of 250 genes is cut on a section of 250 spots and stays whole on all others.
# Why it matters: gene means or masks in the graph are cut in silence, or only in the
# one section whose number of spots or edges happens to fit.
#
# Output seen:
#   torch 2.13.0 torch-geometric 2.8.1
#   guess: the means of 250 genes stay 250 numbers on every section
#   seen:  249 spots, 100 of them kept: gene_mean has 250 numbers
#   seen:  250 spots, 100 of them kept: gene_mean has 100 numbers
#   seen:  251 spots, 100 of them kept: gene_mean has 250 numbers
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

print("torch", torch.__version__.split("+")[0], "torch-geometric", torch_geometric.__version__)
print("guess: the means of 250 genes stay 250 numbers on every section")
found = {}
for spots in (249, 250, 251):
    ring = torch.arange(spots)
    graph = Data(x=torch.zeros(spots, 8), edge_index=torch.stack([ring, ring.roll(1)]), gene_mean=torch.arange(250.0))
    part = graph.subgraph(torch.arange(100))
    found[spots] = len(part.gene_mean)
    print(f"seen:  {spots} spots, 100 of them kept: gene_mean has {found[spots]} numbers")
assert found == {249: 250, 250: 100, 251: 250}
PY
