#!/usr/bin/env bash
# OpenSlide blurs a patch of a lower level, by where its corner lies.
#
# Packages: openslide-python 1.4.7, openslide-bin 4.0.1.2 (OpenSlide 4.0.1), tifffile
# 2026.3.3.
# Guess: read_region takes a corner in pixels of level 0 and gives the pixels of the
# level that are nearest to it.
# What happens: OpenSlide gives the exact corner. Where it is no whole pixel of the
# level, all pixels are mixed with their neighbours. On a level of downsample 4, a
# pattern of 0 and 200 is sharp at x = 40, pale at x = 41 and even grey at x = 42.
# Why it matters: patches around spots start anywhere. Each spot is blurred in another
# way, and texture is what an encoder reads. Round the corner to the downsample.
#
# Output seen:
#   openslide 4.0.1 openslide-python 1.4.7
#   guess: the stripes of the level, 0 and 200, wherever the patch starts
#   seen:  corner at x = 40: values [0, 200]
#   seen:  corner at x = 41: values [50, 150]
#   seen:  corner at x = 42: values [100]
#   seen:  corner at x = 43: values [50, 150]
#   seen:  corner at x = 44: values [0, 200]
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

print("openslide", openslide.__library_version__, "openslide-python", openslide.__version__)
print("guess: the stripes of the level, 0 and 200, wherever the patch starts")
full = np.zeros((1024, 1024, 3), dtype="uint8")
level = np.zeros((256, 256, 3), dtype="uint8")
level[:, ::2] = 200
kind = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
spread = {}
with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "slide.tif"
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(full, **kind)
        tiff.write(level, subfiletype=1, **kind)
    with openslide.OpenSlide(file) as slide:
        assert slide.level_downsamples == (1.0, 4.0)
        for x in (40, 41, 42, 43, 44):
            patch = np.asarray(slide.read_region((x, 400), 1, (64, 64)).convert("RGB"))[1:-1, 1:-1, 0]
            spread[x] = int(patch.max()) - int(patch.min())
            print(f"seen:  corner at x = {x}: values {sorted(set(patch.ravel().tolist()))}")
assert spread[40] == spread[44] == 200
assert spread[41] < 150 and spread[42] < 10
PY
