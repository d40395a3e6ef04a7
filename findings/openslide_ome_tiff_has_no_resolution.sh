#!/usr/bin/env bash
# OpenSlide reads an OME-TIFF of tifffile without its um per pixel.
#
# Packages: openslide-bin 4.0.1.2 (OpenSlide 4.0.1), openslide-python 1.4.7, tifffile
# 2026.3.3.
# Guess: an OME-TIFF that says PhysicalSizeX="0.25" has openslide.mpp-x = 0.25.
# What happens: OpenSlide takes the file as a generic TIFF and looks at the tags
# XResolution and ResolutionUnit alone. tifffile leaves them at 1 without a unit, as
# the size stands in the XML. The image opens, and mpp is not there. With the same
# number in both places it is.
# Why it matters: patches are cut by um, and the file looks as if it did not say it.
#
# Output seen:
#   openslide 4.0.1 tifffile 2026.3.3
#   guess: mpp-x is 0.25 in both files
#   seen:  size in the XML: vendor generic-tiff, mpp-x None
#   seen:  size in the XML and in the tags: vendor generic-tiff, mpp-x 0.25
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  openslide-python==1.4.7 openslide-bin==4.0.1.2
  tifffile==2026.3.3 imagecodecs==2025.11.11 numpy==2.4.6
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

import numpy as np
import openslide
import tifffile

print("openslide", openslide.__library_version__, "tifffile", tifffile.__version__)
print("guess: mpp-x is 0.25 in both files")
image = np.full((512, 512, 3), 200, dtype="uint8")
found = {}
with tempfile.TemporaryDirectory() as folder:
    for name, more in {
        "size in the XML": {},
        "size in the XML and in the tags": {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"},
    }.items():
        file = pathlib.Path(folder) / "slide.ome.tif"
        size = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
        tifffile.imwrite(file, image, ome=True, metadata=size, tile=(256, 256), photometric="rgb", compression="zlib", **more)
        with tifffile.TiffFile(file) as tiff:
            assert 'PhysicalSizeX="0.25"' in tiff.ome_metadata
        with openslide.OpenSlide(file) as slide:
            found[name] = slide.properties.get("openslide.mpp-x")
            print(f"seen:  {name}: vendor {slide.properties['openslide.vendor']}, mpp-x {found[name]}")
assert list(found.values()) == [None, "0.25"]
PY
