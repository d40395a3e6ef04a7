#!/usr/bin/env bash
# Lightning weighs the mean of a metric over graphs by a number that a name decides.
#
# Packages: lightning 2.6.6, torch 2.13.0, torch-geometric 2.8.1.
# Guess: validation over four sections, one graph a batch, logs the mean of the four.
# The names of the tensors in the graph do not matter.
# What happens: Lightning takes the length of the first tensor in the batch for the
# size of the batch and weighs by it. In a PyG graph with x this is the number of
# spots. When the features have a name of their own, edge_index comes first, its length
# is always 2, and the sections weigh the same. Lightning warns of an ambiguous
# collection and goes on.
# Why it matters: the number that picks the best checkpoint is a mean over spots or
# over sections, and a renamed attribute turns one into the other. Give batch_size to
# self.log.
#
# Output seen:
#   lightning 2.6.6 torch-geometric 2.8.1
#   guess: three sections without error and one with 1 have the mean 0.25
#   seen:  features named x: 0.0033
#   seen:  features named features: 0.2500
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(lightning==2.6.6 torch==2.13.0 torch-geometric==2.8.1 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import logging

import lightning
import torch
import torch_geometric
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Error(lightning.LightningModule):
    def validation_step(self, graph, _):
        self.log("error", graph.error.mean())


def validate(name):
    sections = []
    for spots, error in ((1000, 0.0), (1000, 0.0), (1000, 0.0), (10, 1.0)):
        edges = torch.zeros(2, 5, dtype=torch.long)
        features = {name: torch.zeros(spots, 8)}
        sections.append(Data(edge_index=edges, error=torch.full((1,), error), num_nodes=spots, **features))
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    return trainer.validate(Error(), DataLoader(sections, batch_size=1), verbose=False)[0]["error"]


print("lightning", lightning.__version__, "torch-geometric", torch_geometric.__version__)
print("guess: three sections without error and one with 1 have the mean 0.25")
by_x, by_other = validate("x"), validate("features")
print(f"seen:  features named x: {by_x:.4f}")
print(f"seen:  features named features: {by_other:.4f}")
assert by_x < 0.2 and abs(by_other - 0.25) < 1e-6, (by_x, by_other)
PY
