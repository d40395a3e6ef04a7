#!/usr/bin/env bash
# wsidata opens the first scene of a CZI and says nothing of the others.
#
# Packages: wsidata 0.12.0, pylibCZIrw 6.1.0.
# Guess: a file of several scenes opens whole, as Zeiss's own pylibCZIrw reads it, or
# with a warning.
# What happens: without scene= the first one is the slide, however small it is. No
# warning comes, and the slide prints no number of scenes. Its properties have n_scenes.
# Why it matters: the scanners of Zeiss store pieces of tissue as scenes. A loop over
# the files then leaves sections out, and a table of spots that was made on the whole
# image lies beside the slide.
#
# Output seen:
#   wsidata 0.12.0 pylibCZIrw 6.1.0
#   guess: (1024, 1536) pixels as pylibCZIrw reads them, or a warning
#   seen:  (256, 256) pixels of 2 scenes, 0 warnings, no scenes in its print
#   seen:  scene=1: (1024, 1024) pixels
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  wsidata==0.12.0 pylibCZIrw==6.1.0
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
import warnings
from importlib.metadata import version

import numpy as np
import wsidata
from pylibCZIrw import czi

with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "slide.czi"
    with czi.create_czi(str(file)) as new:
        new.write(np.full((256, 256, 3), 200, dtype="uint8"), location=(0, 0), scene=0)
        new.write(np.full((1024, 1024, 3), 100, dtype="uint8"), location=(512, 0), scene=1)
        new.write_metadata("slide", scale_x=0.5e-6, scale_y=0.5e-6)
    with czi.open_czi(str(file)) as opened:
        whole = opened.read().shape[:2]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        slide = wsidata.open_wsi(file, store=None)
    printed = str(slide)
    second = wsidata.open_wsi(file, store=None, scene=1)

told = [str(warning.message) for warning in caught if "scene" in str(warning.message).lower()]
print("wsidata", version("wsidata"), "pylibCZIrw", version("pylibCZIrw"))
print(f"guess: {whole} pixels as pylibCZIrw reads them, or a warning")
shape = tuple(slide.properties.shape)
print(f"seen:  {shape} pixels of {slide.properties.n_scenes} scenes, {len(told)} warnings, ", end="")
print(f"{'scenes' if 'scene' in printed.lower() else 'no scenes'} in its print")
print(f"seen:  scene=1: {tuple(second.properties.shape)} pixels")
assert whole == (1024, 1536) and shape == (256, 256) and tuple(second.properties.shape) == (1024, 1024)
assert slide.properties.n_scenes == 2 and not told and "scene" not in printed.lower()
PY
