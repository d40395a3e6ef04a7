#!/usr/bin/env bash
# Merging uns of two sections leaves a spatial library with a spot size and no image.
#
# Packages: anndata 0.12.19, numpy 2.4.6.
# Guess: concat(uns_merge="same") or "unique" keeps a library of uns["spatial"] whole, or
# leaves it out when two sections have one under the same name.
# What happens: the merge goes down to the single entries. Images and scale factors of
# the two sections differ and are dropped one by one. What is equal stays: a library of
# that name with the spot diameter, and without image and scale.
# Why it matters: many sections have the same library name. The rest looks like a
# library, and its spot diameter is now used for both sections without their scale.
#
# Output seen:
#   anndata 0.12.19
#   guess: uns['spatial']['V1'] is whole, or it is not there
#   seen:  uns_merge='same': {'V1': {'scalefactors': {'spot_diameter_fullres': 89.0}}}
#   seen:  uns_merge='unique': {'V1': {'scalefactors': {'spot_diameter_fullres': 89.0}}}
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import anndata as ad
import numpy as np


def section(scale):
    library = {
        "images": {"hires": np.full((4, 4, 3), scale)},
        "scalefactors": {"tissue_hires_scalef": scale, "spot_diameter_fullres": 89.0},
    }
    adata = ad.AnnData(np.zeros((2, 1)), obsm={"spatial": np.zeros((2, 2))})
    adata.uns["spatial"] = {"V1": library}
    return adata


print("anndata", ad.__version__)
print("guess: uns['spatial']['V1'] is whole, or it is not there")
for merge in ("same", "unique"):
    joined = ad.concat({"one": section(0.1), "two": section(0.2)}, uns_merge=merge, index_unique="-")
    rest = joined.uns["spatial"]
    print(f"seen:  uns_merge={merge!r}: {rest}")
    assert rest == {"V1": {"scalefactors": {"spot_diameter_fullres": 89.0}}}
PY
