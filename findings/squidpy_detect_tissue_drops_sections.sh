#!/usr/bin/env bash
# squidpy's detect_tissue drops the smaller one of two sections, and both if they are equal.
#
# Packages: squidpy 1.8.2 (squidpy.experimental.im), spatialdata 0.7.3.
# Guess: on a slide with several sections each of them is tissue, and dust is not.
# What happens: pieces above 1% of the image are split by Otsu's threshold on their
# logarithmic area, and the lower class is dropped as artefacts. Otsu always finds two
# classes. Of two sections that differ by 1% the smaller is background. If all areas
# are equal none is above the threshold, and the mask is empty. Neither is said.
# n_samples, the number of sections, keeps them.
# Why it matters: several sections on one slide are common, and tissue microarrays are
# nothing else. qc_image and normalize_stains take this mask: a dropped section is not
# judged, and is not normalised.
#
# Output seen:
#   squidpy 1.8.2
#   guess: each section is tissue, 1.0 of it
#   seen:  one, radius [150]: [1.0]
#   seen:  two, radius [150, 149]: [1.0, 0.0]
#   seen:  two equal, radius [150, 150]: [0.0, 0.0]
#   seen:  four, radius [150, 145, 135, 130]: [1.0, 1.0, 0.0, 0.0]
#   seen:  four, n_samples=4: [1.0, 1.0, 1.0, 1.0]
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
from spatialdata import SpatialData
from spatialdata.models import Image2DModel

logging.disable(logging.INFO)
SIDE = 400


def kept(*radii, **options):
    """Share of each round section that is tissue, the sections side by side on pale glass."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    discs = np.hstack([np.hypot(x, y) < radius for radius in radii])
    image = np.full((3, *discs.shape), 240, dtype="uint8")
    image[:, discs] = rng.normal([[180], [110], [170]], 12, (3, discs.sum())).clip(0, 255)
    slide = SpatialData(images={"he": Image2DModel.parse(image, dims=("c", "y", "x"), c_coords=["r", "g", "b"])})
    mask = sq.experimental.im.detect_tissue(slide, "he", inplace=False, **options) > 0
    found = np.hsplit(mask & discs, len(radii)), np.hsplit(discs, len(radii))
    return [round(float(tissue.sum() / disc.sum()), 2) for tissue, disc in zip(*found)]


print("squidpy", version("squidpy"))
print("guess: each section is tissue, 1.0 of it")
cases = {"one": [150], "two": [150, 149], "two equal": [150, 150], "four": [150, 145, 135, 130]}
results = {name: kept(*radii) for name, radii in cases.items()}
for name, radii in cases.items():
    print(f"seen:  {name}, radius {radii}: {results[name]}")
told = kept(*cases["four"], n_samples=4)
print(f"seen:  four, n_samples=4: {told}")
assert results["one"] == [1.0] and told == [1.0] * 4
assert results["two"] == [1.0, 0.0] and results["two equal"] == [0.0, 0.0]
assert results["four"] == [1.0, 1.0, 0.0, 0.0]
PY
