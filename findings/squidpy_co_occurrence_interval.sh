#!/usr/bin/env bash
# The default distances of squidpy's co-occurrence come from two or three corner spots.
#
# Packages: squidpy 1.8.2, anndata 0.12.19, numpy 2.4.6.
# Guess: interval=50 cuts the range of the distances in the section into 50 steps. A
# section that is turned on the slide has the same range.
# What happens: squidpy looks for the spots with the smallest and the largest x + y.
# Half of the distance between them is the far end. The distance between the two
# smallest is the near end. So the range of a long piece of tissue depends on how it
# lies on the slide, and the near end is the pitch or several times the pitch.
# Why it matters: curves of several sections, or of truth and prediction on other
# spots, are not on the same axis unless the distances are given.
#
# Output seen:
#   squidpy 1.8.2
#   guess: about the same range, from the pitch of 100 on, however the piece lies
#   seen:  piece of 6000 x 1000 um, turned by 45 degrees: 100 to 2955
#   seen:  piece of 6000 x 1000 um, turned by 0 degrees: 173 to 2951
#   seen:  piece of 6000 x 1000 um, turned by -45 degrees: 361 to 693
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  squidpy==1.8.2 scanpy==1.11.5 spatialdata==0.7.3 anndata==0.12.19
  numpy==2.4.6 pandas==2.3.3 zarr==3.1.6 dask==2026.1.1
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
import pandas as pd
import squidpy as sq

logging.disable(logging.INFO)

rows, columns = np.mgrid[-60:61, -60:61]
array = np.c_[((columns + 0.5 * (rows % 2)) * 100.0).ravel(), (rows * 100.0 * np.sqrt(3) / 2).ravel()]


def piece(degrees):
    """Spots in an ellipse of 6000 x 1000 um that is turned."""
    angle = np.deg2rad(degrees)
    along = array @ np.array([np.cos(angle), np.sin(angle)])
    across = array @ np.array([-np.sin(angle), np.cos(angle)])
    return array[(along / 3000) ** 2 + (across / 500) ** 2 < 1]


def ends(spots):
    adata = ad.AnnData(np.zeros((len(spots), 1), dtype="float32"), obsm={"spatial": spots})
    adata.obs["side"] = pd.Categorical(np.where(spots[:, 0] > np.median(spots[:, 0]), "right", "left"))
    sq.gr.co_occurrence(adata, "side", interval=50, show_progress_bar=False)
    interval = adata.uns["side_co_occurrence"]["interval"]
    return float(interval[0]), float(interval[-1])


print("squidpy", sq.__version__)
print("guess: about the same range, from the pitch of 100 on, however the piece lies")
found = {}
for degrees in (45, 0, -45):
    near, far = found[degrees] = ends(piece(degrees))
    print(f"seen:  piece of 6000 x 1000 um, turned by {degrees} degrees: {near:.0f} to {far:.0f}")
assert found[45][1] > 4 * found[-45][1]
assert any(near > 150 for near, _ in found.values()), "the near end is the pitch"
PY
