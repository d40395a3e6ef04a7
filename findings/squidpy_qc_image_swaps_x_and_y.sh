#!/usr/bin/env bash
# squidpy's qc_image writes obsm["spatial"] as (y, x), where squidpy reads (x, y).
#
# Packages: squidpy 1.8.2 (squidpy.experimental.im), spatialdata 0.7.3.
# Guess: obsm["spatial"] of the table of tiles is (x, y), as in every table that squidpy
# reads or draws.
# What happens: the centres of the tiles are (y, x) there. obs has the right centroid_x
# and centroid_y, and the shapes of the tiles are right too.
# Why it matters: quality is joined to spots by place, or drawn by spatial_scatter. The
# map is mirrored at the diagonal. On a square image nothing looks wrong in size, and
# spots are left out because the tiles on the other side are blurred.
#
# Output seen:
#   squidpy 1.8.2
#   guess: the outliers are where the image is blurred, upper right, x > 384 and y < 128
#   seen:  4 outliers, mean of obsm['spatial']: x 64, y 448
#   seen:  mean of obs: x 448, y 64; of the shapes: x 448, y 64
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
from importlib.metadata import version

import numpy as np
import squidpy as sq
from scipy.ndimage import gaussian_filter
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel

logging.disable(logging.INFO)
SIDE, TILE = 512, 64
rng = np.random.default_rng(0)
tissue = rng.normal([[[180]], [[110]], [[170]]], 30, (3, SIDE, SIDE))
y, x = np.mgrid[:SIDE, :SIDE]
blurred = (x >= SIDE * 3 // 4) & (y < SIDE // 4)
image = np.where(blurred, gaussian_filter(tissue, (0, 4, 4)), tissue).clip(0, 255).astype("uint8")
slide = SpatialData(
    images={"he": Image2DModel.parse(image, dims=("c", "y", "x"), c_coords=["r", "g", "b"])},
    labels={"he_tissue": Labels2DModel.parse(np.ones((SIDE, SIDE), dtype="int32"), dims=("y", "x"))},
)
sq.experimental.im.qc_image(slide, "he", tile_size=(TILE, TILE), outlier_threshold=0.05, progress=False, preview=False)
table = slide.tables["qc_img_he"]

bad = (table.obs["qc_outlier"] == "True").to_numpy()
seen = table.obsm["spatial"][bad].mean(axis=0)
right = table.obs.loc[bad, ["centroid_x", "centroid_y"]].to_numpy().mean(axis=0)
shapes = slide.shapes["qc_img_he_grid"].loc[bad].centroid.get_coordinates().to_numpy().mean(axis=0)
print("squidpy", version("squidpy"))
print("guess: the outliers are where the image is blurred, upper right, x > 384 and y < 128")
print(f"seen:  {bad.sum()} outliers, mean of obsm['spatial']: x {seen[0]:.0f}, y {seen[1]:.0f}")
print(f"seen:  mean of obs: x {right[0]:.0f}, y {right[1]:.0f}; of the shapes: x {shapes[0]:.0f}, y {shapes[1]:.0f}")
assert bad.any() and right[0] > SIDE * 3 / 4 and right[1] < SIDE / 4
assert np.allclose(right, shapes) and np.allclose(seen, right[::-1])
PY
