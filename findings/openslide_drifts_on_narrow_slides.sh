#!/usr/bin/env bash
# On a narrow slide OpenSlide's lower levels drift away from level 0.
#
# Packages: openslide-python 1.4.7, openslide-bin 4.0.1.2 (OpenSlide 4.0.1), tifffile
# 2026.3.3.
# Guess: a corner in pixels of level 0 means the same place on every level.
# What happens: a level has one downsample, the mean of its ratios of width and of
# height. A level of 8 that cuts off the rest of a width of 250 px has 31 columns, so
# its ratios are 8.06 and 8, and OpenSlide divides x and y by 8.03. Down the slide the
# error grows: at y = 12,000 the level shows a place 48 px higher.
# Why it matters: long cores and strips of a few sections are narrow. Patches of a lower
# level are then beside their spots, the more the farther they lie from the corner.
#
# Output seen:
#   openslide 4.0.1 openslide-python 1.4.7
#   guess: level 1 shows the rows of level 0 that it was asked for, up to 8 px
#   seen:  levels ((250, 16000), (31, 2000)), downsamples [1.0, 8.032]
#   seen:  asked for row 0: level 1 shows about row 0
#   seen:  asked for row 4000: level 1 shows about row 3976
#   seen:  asked for row 8000: level 1 shows about row 7960
#   seen:  asked for row 12000: level 1 shows about row 11952
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

# Red and green hold the number of the row on level 0; the level keeps every eighth row and column.
rows = np.arange(16000)
full = np.zeros((16000, 250, 3), dtype="uint8")
full[..., 0], full[..., 1] = (rows // 256)[:, None], (rows % 256)[:, None]
kind = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
print("openslide", openslide.__library_version__, "openslide-python", openslide.__version__)
print("guess: level 1 shows the rows of level 0 that it was asked for, up to 8 px")
shift = {}
with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "slide.tif"
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(full, **kind)
        tiff.write(full[::8, ::8][:, :31], subfiletype=1, **kind)
    with openslide.OpenSlide(file) as slide:
        print(f"seen:  levels {slide.level_dimensions}, downsamples {[round(d, 3) for d in slide.level_downsamples]}")
        for y in (0, 4000, 8000, 12000):
            # OpenSlide mixes two rows, so take red where it does not change.
            patch = np.asarray(slide.read_region((0, y), 1, (8, 40)).convert("RGB"))[1:, 4].astype(int)
            step = next(i for i in range(1, len(patch)) if patch[i, 0] > patch[i - 1, 0])
            shown = patch[step, 0] * 256 - step * 8 - 8
            shift[y] = y - int(shown)
            print(f"seen:  asked for row {y}: level 1 shows about row {shown}")
assert abs(shift[0]) <= 16
assert shift[12000] > 35 and shift[12000] > shift[8000] > shift[4000] - 8
PY
