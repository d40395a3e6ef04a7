#!/usr/bin/env bash
# An image that spatialdata crops lands one pixel beside where it was.
#
# Packages: spatialdata 0.7.3, dask 2026.1.1, numpy 2.4.6.
# Guess: bounding_box_query gives the pixels in the box, with a translation that puts
# each of them where it was before.
# What happens: with bounds between two pixels, such as 10.2, the crop starts at pixel
# 10, as it should, since a part of this pixel lies in the box. The translation is
# rounded up, to 11. So all of the crop is moved by one pixel against spots, shapes and
# the image that it came from. Bounds on whole pixels are right.
# Why it matters: on the small image of a section one pixel is 10 um or more, and
# patches around spots are cut beside them.
#
# Output seen:
#   spatialdata 0.7.3
#   guess: the first column of the crop is put where it was in the image
#   seen:  box from x = 10: first column 10, placed at 10
#   seen:  box from x = 10.2: first column 10, placed at 11
#   seen:  box from x = 10.5: first column 10, placed at 11
#   seen:  box from x = 10.6: first column 11, placed at 11
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  spatialdata==0.7.3 anndata==0.12.19
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
import numpy as np
import spatialdata
from spatialdata import bounding_box_query
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

# Each pixel holds its own column.
image = Image2DModel.parse(np.tile(np.arange(30, dtype="uint8"), (1, 20, 1)), dims=("c", "y", "x"))


def crop(left):
    part = bounding_box_query(
        image,
        axes=("x", "y"),
        min_coordinate=[left, 5],
        max_coordinate=[left + 10, 15],
        target_coordinate_system="global",
    )
    matrix = get_transformation(part).to_affine_matrix(("x", "y"), ("x", "y"))
    return int(np.asarray(part)[0, 0, 0]), float(matrix[0, 2])


print("spatialdata", spatialdata.__version__)
print("guess: the first column of the crop is put where it was in the image")
found = {}
for left in (10, 10.2, 10.5, 10.6):
    column, placed = found[left] = crop(left)
    print(f"seen:  box from x = {left}: first column {column}, placed at {placed:.0f}")
assert found[10] == (10, 10.0)
assert found[10.2] == (10, 11.0) and found[10.5] == (10, 11.0)
PY
