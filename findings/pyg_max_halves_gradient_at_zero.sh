#!/usr/bin/env bash
# The maximum over neighbours in PyG halves the gradient where it is exactly 0.
#
# Packages: torch 2.13.0, torch-geometric 2.8.1, on the CPU.
# Guess: one neighbour holds the maximum, so it gets the whole gradient, 1.
# What happens: PyG calls scatter_reduce on a tensor of zeros with include_self=False.
# The value is right. In the gradient torch divides by the number of entries that
# equal the maximum, and the zero that it started from is counted as one of them. At
# any other value the gradient is 1.
# Why it matters: after a ReLU the maximum over neighbours is often exactly 0, and the
# features there learn at half of the speed or less.
#
# Output seen:
#   torch 2.13.0 torch-geometric 2.8.1
#   guess: the single largest value has a gradient of 1, whatever it is
#   seen:  values [1.0, -5.0, -6.0]: maximum 1.0, gradient [1.0, 0.0, 0.0]
#   seen:  values [-1.0, -5.0, -6.0]: maximum -1.0, gradient [1.0, 0.0, 0.0]
#   seen:  values [0.0, -5.0, -6.0]: maximum 0.0, gradient [0.5, 0.0, 0.0]
#   seen:  values [0.0, 0.0, 0.0]: gradient [0.25, 0.25, 0.25], sum 0.75; three ones have the sum 1
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
from torch_geometric.utils import scatter


def gradient(values):
    x = torch.tensor(values, requires_grad=True)
    top = scatter(x, torch.zeros(len(values), dtype=torch.long), dim_size=1, reduce="max")
    top.sum().backward()
    return top.item(), x.grad.tolist()


print("torch", torch.__version__.split("+")[0], "torch-geometric", torch_geometric.__version__)
print("guess: the single largest value has a gradient of 1, whatever it is")
for largest in (1.0, -1.0, 0.0):
    top, grad = gradient([largest, -5.0, -6.0])
    print(f"seen:  values {[largest, -5.0, -6.0]}: maximum {top}, gradient {grad}")
    assert top == largest
    assert grad == ([0.5, 0.0, 0.0] if largest == 0 else [1.0, 0.0, 0.0])
top, grad = gradient([0.0, 0.0, 0.0])
print(f"seen:  values [0.0, 0.0, 0.0]: gradient {grad}, sum {sum(grad)}; three ones have the sum {sum(gradient([1.0, 1.0, 1.0])[1]):.0f}")
assert grad == [0.25, 0.25, 0.25]
PY
