#!/usr/bin/env bash
# wsidata has one um per pixel for both axes, and takes that of y.
#
# Packages: wsidata 0.12.0, openslide-bin 4.0.1.2 (OpenSlide 4.0.1), openslide-python
# 1.4.7, tifffile 2026.3.3.
# Guess: a slide of 0.5 x 1.0 um has two numbers, or it is refused or warned of.
# What happens: OpenSlide reports mpp-x and mpp-y. wsidata's mpp is mpp-y alone, without
# a word. A tile that should be 112 um wide is 56 um wide, or 224 um on a slide that is
# turned by a quarter.
# Why it matters: LazySlide cuts its tiles by this number, so the tiles hold another
# part of the tissue than the spots.
#
# Output seen:
#   wsidata 0.12.0
#   guess: both numbers, or a warning
#   seen:  pixels of 0.5 x 1.0 um: mpp = 1.0
#   seen:  pixels of 1.0 x 0.5 um: mpp = 0.5
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  wsidata==0.12.0 openslide-python==1.4.7 openslide-bin==4.0.1.2
  tifffile==2026.3.3 imagecodecs==2025.11.11
  spatialdata==0.7.3 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 zarr==3.1.6 dask==2026.1.1
)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import pathlib
import tempfile
from importlib.metadata import version

import numpy as np
import tifffile
import wsidata

print("wsidata", version("wsidata"))
print("guess: both numbers, or a warning")
found = {}
with tempfile.TemporaryDirectory() as folder:
    for x, y in ((0.5, 1.0), (1.0, 0.5)):
        file = pathlib.Path(folder) / f"{x}.tif"
        tifffile.imwrite(
            file,
            np.full((512, 512, 3), 200, dtype="uint8"),
            tile=(256, 256),
            photometric="rgb",
            compression="zlib",
            resolution=(10000 / x, 10000 / y),
            resolutionunit="CENTIMETER",
        )
        slide = wsidata.open_wsi(file, reader="openslide", store=None)
        found[x, y] = slide.properties.mpp
        print(f"seen:  pixels of {x} x {y} um: mpp = {found[x, y]}")
assert found == {(0.5, 1.0): 1.0, (1.0, 0.5): 0.5}
PY
