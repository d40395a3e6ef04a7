#!/usr/bin/env bash
# PyG adds the number of nodes to every attribute whose name holds "index" or "batch".
#
# Packages: torch 2.13.0, torch-geometric 2.8.1.
# Guess: only edge_index names nodes, so only edge_index is shifted when graphs are put
# into one batch. Other tensors are stacked as they are.
# What happens: Data looks at the name alone. "index" or "batch" anywhere in it, or the
# name "face", means node numbers. gene_index, patient_index, batch_effect and
# sequencing_batch grow by the nodes of the graphs before them. The first graph of a
# batch is right, and a batch of one graph is right, so a small test does not show it.
# Why it matters: numbers of genes, slides and batch effects are common beside a graph
# of spots.
#
# Output seen:
#   torch 2.13.0 torch-geometric 2.8.1
#   guess: gene_index = [0, 1, 2] three times; sequencing_batch = [7, 7, 7]
#   seen:  gene_index = [0, 1, 2, 4, 5, 6, 8, 9, 10]
#   seen:  sequencing_batch = [7, 15, 23]
#   seen:  gene_number = [0, 1, 2, 0, 1, 2, 0, 1, 2]
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
from torch_geometric.data import Batch, Data


def section():
    return Data(
        x=torch.zeros(4, 1),
        edge_index=torch.tensor([[0], [1]]),
        gene_index=torch.tensor([0, 1, 2]),
        sequencing_batch=torch.tensor([7]),
        gene_number=torch.tensor([0, 1, 2]),
    )


print("torch", torch.__version__.split("+")[0], "torch-geometric", torch_geometric.__version__)
batch = Batch.from_data_list([section(), section(), section()])
print("guess: gene_index = [0, 1, 2] three times; sequencing_batch = [7, 7, 7]")
for name in ("gene_index", "sequencing_batch", "gene_number"):
    print(f"seen:  {name} = {batch[name].tolist()}")
assert batch.gene_index.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
assert batch.sequencing_batch.tolist() == [7, 15, 23]
assert batch.gene_number.tolist() == [0, 1, 2] * 3
PY
