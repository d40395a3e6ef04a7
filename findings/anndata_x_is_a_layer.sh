#!/usr/bin/env bash
# X is a layer without a name, and a section cannot be put together again from its parts.
#
# Packages: anndata 0.13.4, numpy 2.5.5 (Python 3.12 or later; PYTHON=PATH names another than 3.13).
# Guess: layers holds what stands beside X. An AnnData made of X and all layers of
# another is that other one, in memory or backed.
# What happens: layers also lists X, under the key None. Made from parts in memory it
# works; of a backed file, whose X is another object at every look, it is a ValueError.
# Names of layers that are joined or sorted meet None.
# Why it matters: code for 0.12 that goes through layers fails on files that did not change.
#
# Output seen:
#   anndata 0.13.4
#   guess: layers are ['counts'], and parts make the same section again
#   seen:  layers are [None, 'counts']
#   seen:  in memory: (2, 1)
#   seen:  backed: ValueError: If you provide `layers[None]` and `X`, they must be identical.
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(anndata==0.13.4 numpy==2.5.5 pandas==3.1.1 scipy==1.18.1)
if command -v uv >/dev/null; then
  uv venv -q --python "${PYTHON:-3.13}" "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  "${PYTHON:-python3.13}" -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - "$work/a.h5ad" <<'PY'
import sys
from importlib.metadata import version

import anndata as ad
import numpy as np

print("anndata", version("anndata"))
print("guess: layers are ['counts'], and parts make the same section again")
adata = ad.AnnData(np.ones((2, 1)), layers={"counts": np.ones((2, 1))})
print(f"seen:  layers are {sorted(adata.layers, key=str)}")
assert set(adata.layers) == {None, "counts"}
print(f"seen:  in memory: {ad.AnnData(adata.X, layers=dict(adata.layers)).shape}")
adata.write_h5ad(sys.argv[1])
backed = ad.read_h5ad(sys.argv[1], backed="r")
try:
    ad.AnnData(backed.X, layers=dict(backed.layers))
except ValueError as error:
    print(f"seen:  backed: ValueError: {error}")
else:
    raise SystemExit("changed: a backed file works, too")
PY
