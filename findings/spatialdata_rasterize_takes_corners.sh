#!/usr/bin/env bash
# spatialdata's rasterize takes one corner pixel for each larger pixel, and moves the image.
#
# Packages: spatialdata 0.7.3, dask-image 2026.5.0, numpy 2.4.6.
# Guess: an image at a tenth of its resolution holds means, or the pixel in the middle.
# What happens: rasterize, and transform with a scale, take the pixel at the upper left
# corner of each block of 10 x 10 and skip the other 99. The image is moved by 4.5 of
# its pixels, nearly half of a new one, though its transformation says nothing of this.
# What was grain stays as strong as before, where means are smooth.
# Why it matters: stained images are brought to one um per pixel in this way. An encoder
# then sees grain in place of tissue, beside the spot.
#
# Output seen:
#   spatialdata 0.7.3
#   guess: an image of column numbers becomes [4.5, 14.5, 24.5, 34.5]; grain of spread 0.29 becomes about 0.03
#   seen:  an image of column numbers becomes [0.0, 10.0, 20.0, 30.0]
#   seen:  grain has the spread 0.28
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  spatialdata==0.7.3 dask-image==2026.5.0 anndata==0.12.19
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

import numpy as np
import spatialdata
from spatialdata import rasterize
from spatialdata.models import Image2DModel

logging.disable(logging.INFO)


def tenth(array):
    image = Image2DModel.parse(array[None], dims=("c", "y", "x"))
    small = rasterize(
        image,
        axes=("x", "y"),
        min_coordinate=[0, 0],
        max_coordinate=[200, 200],
        target_coordinate_system="global",
        target_unit_to_pixels=0.1,
    )
    return np.asarray(small)[0]


print("spatialdata", spatialdata.__version__)
columns = np.tile(np.arange(200, dtype="float32"), (200, 1))
grain = np.random.default_rng(0).random((200, 200)).astype("float32")
seen, means = tenth(columns)[0, :4], columns.reshape(20, 10, 20, 10).mean(axis=(1, 3))[0, :4]
print(f"guess: an image of column numbers becomes {means.tolist()}; grain of spread {grain.std():.2f} becomes about 0.03")
print(f"seen:  an image of column numbers becomes {seen.tolist()}")
print(f"seen:  grain has the spread {tenth(grain).std():.2f}")
assert seen.tolist() == [0.0, 10.0, 20.0, 30.0]
assert np.array_equal(tenth(grain), grain[::10, ::10])
PY
