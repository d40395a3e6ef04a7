#!/usr/bin/env bash
# A None in uns makes a file of anndata 0.12 unreadable for anndata 0.11.
#
# Packages: anndata 0.12.19 and 0.11.4, numpy 2.2.6, pandas 2.3.3.
# Guess: a file format that kept its version is read by the release before. What it does
# not know, it skips or refuses with the name of the entry.
# What happens: 0.12 writes None in uns as an element "null". 0.11 raises
# IORegistryError at it and reads nothing of the file, counts included. The other way
# round there is no trouble: both read what 0.11 writes of the same object.
# Why it matters: tools put None into uns for a parameter that was not given, as
# squidpy does for the radius of its graph. Nobody wrote it on purpose.
#
# Output seen:
#   guess: both read the file of either
#   seen:  anndata 0.12.19 writes a None in uns
#   seen:  anndata 0.12.19: reads the file
#   seen:  anndata 0.11.4: IORegistryError
#   seen:  anndata 0.11.4 writes a None in uns
#   seen:  anndata 0.11.4: reads the file
#   seen:  anndata 0.12.19: reads the file
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for release in 0.12.19 0.11.4; do
  packages=(anndata==$release numpy==2.2.6 pandas==2.3.3 scipy==1.15.3 h5py==3.16.0)
  if command -v uv >/dev/null; then
    uv venv -q --python python3 "$work/$release"
    uv pip install -q --python "$work/$release/bin/python" "${packages[@]}"
  else
    python3 -m venv "$work/$release"
    "$work/$release/bin/pip" install -q "${packages[@]}"
  fi
done
cd "$work"
cat >write.py <<'PY'
import sys

import anndata as ad
import numpy as np

adata = ad.AnnData(np.ones((2, 2), dtype="float32"))
adata.uns["spatial_neighbors"] = {"params": {"n_neighbors": 6, "radius": None}}
adata.write_h5ad(sys.argv[1])
print(f"seen:  anndata {ad.__version__} writes a None in uns")
PY
cat >read.py <<'PY'
import sys

import anndata as ad

try:
    ad.read_h5ad(sys.argv[1])
    outcome = "reads the file"
except Exception as error:
    outcome = type(error).__name__
print(f"seen:  anndata {ad.__version__}: {outcome}")
assert outcome == sys.argv[2], outcome
PY
echo "guess: both read the file of either"
0.12.19/bin/python -W ignore write.py new.h5ad
0.12.19/bin/python -W ignore read.py new.h5ad "reads the file"
0.11.4/bin/python -W ignore read.py new.h5ad IORegistryError
0.11.4/bin/python -W ignore write.py old.h5ad
0.11.4/bin/python -W ignore read.py old.h5ad "reads the file"
0.12.19/bin/python -W ignore read.py old.h5ad "reads the file"
