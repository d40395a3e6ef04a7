#!/usr/bin/env bash
# Two boxes side by side in spatialdata lose the points between them, and double circles.
#
# Packages: spatialdata 0.7.3, geopandas 1.2.0, numpy 2.4.6.
# Guess: cutting a section by boxes that share a side gives each spot to one box.
# What happens: a point on the shared side is in neither box, since both ends of a box
# are open for points. A circle that the side crosses is in both boxes, whole.
# So one way to hold the spots gives fewer of them than there were, the other more.
# Why it matters: folds of one section by boxes then leak spots from training to test,
# or lose the row of spots that lies on a whole number.
#
# Output seen:
#   spatialdata 0.7.3
#   guess: 45 spots, cut at x = 500, are 45 spots in both halves together
#   seen:  points: 20 + 20 = 40
#   seen:  circles: 25 + 25 = 50
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  spatialdata==0.7.3 anndata==0.12.19
  numpy==2.4.6 pandas==2.3.3 zarr==3.1.6 dask==2026.1.1 geopandas==1.2.0
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
import pandas as pd
import spatialdata
from spatialdata import bounding_box_query
from spatialdata.models import PointsModel, ShapesModel

rows, columns = np.mgrid[1:6, 1:10]
spots = np.c_[columns.ravel(), rows.ravel()] * 100.0
points = PointsModel.parse(pd.DataFrame(spots, columns=["x", "y"]))
circles = ShapesModel.parse(spots, geometry=0, radius=27.5)


def count(element, left, right):
    part = bounding_box_query(
        element,
        axes=("x", "y"),
        min_coordinate=[left, 0],
        max_coordinate=[right, 1000],
        target_coordinate_system="global",
    )
    return 0 if part is None else len(part)


print("spatialdata", spatialdata.__version__)
print(f"guess: {len(spots)} spots, cut at x = 500, are {len(spots)} spots in both halves together")
found = {}
for name, element in (("points", points), ("circles", circles)):
    halves = count(element, 0, 500), count(element, 500, 1000)
    found[name] = sum(halves)
    print(f"seen:  {name}: {halves[0]} + {halves[1]} = {sum(halves)}")
assert found == {"points": 40, "circles": 50}
PY
