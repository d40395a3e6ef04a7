#!/usr/bin/env bash
# Every process that makes a message passing layer leaves Python files in the temporary folder.
#
# Packages: torch-geometric 2.8.1, torch 2.13.0.
# Guess: what the library generates is held in memory, or removed when the process ends.
# What happens: the code of propagate() of each class of layer is written to a new .py file in
# the temporary folder, imported from there, and stays, with its byte code in __pycache__. A
# second process writes new ones under other names.
# Why it matters: a cluster job of a few hundred short runs leaves thousands of files on the node,
# and a container with a read-only or full temporary folder cannot make a layer at all.
#
# Output seen:
#   torch-geometric 2.8.1
#   guess: no file is left after a process that makes one layer
#   seen:  1 .py and 1 .pyc after the first process, 2 .py and 2 .pyc after the second
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(torch-geometric==2.8.1 torch==2.13.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
mkdir "$work/temporary"
cd "$work"
for _ in 1 2; do
  TMPDIR="$work/temporary" PYTHONDONTWRITEBYTECODE= "$work/venv/bin/python" -W ignore - <<'PY' >> "$work/counts"
import os
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = False
import torch_geometric
from torch_geometric.nn import SAGEConv

SAGEConv(4, 4)
folder = Path(tempfile.gettempdir())
print(torch_geometric.__version__, flush=True)
PY
  echo "$(find "$work/temporary" -name '*.py' | wc -l) $(find "$work/temporary" -name '*.pyc' | wc -l)" >> "$work/counts"
done
mapfile -t seen < "$work/counts"
echo "torch-geometric ${seen[0]}"
echo "guess: no file is left after a process that makes one layer"
read -r py1 pyc1 <<< "${seen[1]}"
read -r py2 pyc2 <<< "${seen[3]}"
echo "seen:  $py1 .py and $pyc1 .pyc after the first process, $py2 .py and $pyc2 .pyc after the second"
[[ $py1 -ge 1 && $py2 -eq $((2 * py1)) ]]
