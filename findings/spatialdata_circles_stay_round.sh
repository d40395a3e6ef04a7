#!/usr/bin/env bash
# spatialdata keeps circles round on pixels that are not square, with a mean radius.
#
# Packages: spatialdata 0.7.3, geopandas 1.2.0, numpy 2.4.6.
# Guess: circles in pixels of 0.5 x 1.0 um become ellipses, or the call refuses.
# What happens: the centres go where they belong. The radius is multiplied by the mean
# of the two scales, 0.75, with a warning. The circle is then too wide in x by half and
# too low in y by a quarter. Polygons of the same outline come out right.
# Why it matters: spots are circles in SpatialData. What lies under a spot is then
# another piece of tissue.
#
# Output seen:
#   spatialdata 0.7.3
#   guess: a circle of 40 pixels is 20 um wide and 40 um high, as is a polygon of the same outline
#   seen:  polygon 20.0 x 40.0 um
#   seen:  circle  30.0 x 30.0 um
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
import geopandas as gpd
import numpy as np
import spatialdata
from spatialdata import transform
from spatialdata.models import ShapesModel
from spatialdata.transformations import Scale, set_transformation

centre, radius = np.array([[40.0, 40.0]]), 20.0
circles = ShapesModel.parse(centre, geometry=0, radius=radius)
polygons = ShapesModel.parse(gpd.GeoDataFrame(geometry=[circles.geometry.iloc[0].buffer(radius, quad_segs=64)]))
for element in (circles, polygons):
    set_transformation(element, Scale([0.5, 1.0], axes=("x", "y")), "um")


def width_and_height(element):
    shape = element.geometry.iloc[0]
    if "radius" in element:
        shape = shape.buffer(element["radius"].iloc[0], quad_segs=64)
    left, low, right, high = shape.bounds
    return round(right - left, 6), round(high - low, 6)


print("spatialdata", spatialdata.__version__)
print("guess: a circle of 40 pixels is 20 um wide and 40 um high, as is a polygon of the same outline")
circle = width_and_height(transform(circles, to_coordinate_system="um"))
polygon = width_and_height(transform(polygons, to_coordinate_system="um"))
print(f"seen:  polygon {polygon[0]} x {polygon[1]} um")
print(f"seen:  circle  {circle[0]} x {circle[1]} um")
assert polygon == (20.0, 40.0)
assert circle == (30.0, 30.0)
PY
