#!/usr/bin/env bash
# Diagonal columns of squidpy's texture features at distances 1 and 2 are the same numbers.
#
# Packages: scikit-image 0.26.0, numpy 2.4.6.
# Guess: graycomatrix(image, distances=[1, 2], angles=[pi / 4]) pairs pixels that are 1 and
# 2 apart along the diagonal, so that the second column shows coarser texture.
# What happens: the step is rounded to whole pixels: 2 along the diagonal is (1.41, 1.41),
# and so (1, 1), the same pixel as for distance 1 (0.71 rounds to 1 as well). Distance 4 is
# (3, 3), 4.24 pixels. Along rows and columns all distances are what they say.
# Why it matters: squidpy.im's features_texture gives one column for each distance and angle.
# Half of the columns of two distances are repeats, and an average over angles mixes lengths,
# so that a feature called distance 2 is in part one of distance 1.
#
# Output seen:
#   scikit-image 0.26.0
#   guess: at 45 and 135 degrees, distances 1 and 2 differ as they do at 0 and 90 degrees
#   seen:  contrast at distance 1: [76.2, 111.7, 74.3, 111.6]
#   seen:  contrast at distance 2: [150.3, 111.7, 146.8, 111.6]
#   seen:  the same matrix at 0, 45, 90, 135 degrees: [False, True, False, True]
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(scikit-image==0.26.0 numpy==2.4.6 scipy==1.17.1)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import skimage
from scipy.ndimage import uniform_filter
from skimage.feature import graycomatrix, graycoprops

print("scikit-image", skimage.__version__)
print("guess: at 45 and 135 degrees, distances 1 and 2 differ as they do at 0 and 90 degrees")
noise = np.random.default_rng(0).integers(0, 32, (200, 200)).astype(float)
image = np.clip((uniform_filter(noise, 2) - 15.5) * 2 + 15.5, 0, 31).astype(np.uint8)
angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
found = graycomatrix(image, [1, 2], angles, levels=32)
for i, row in enumerate(graycoprops(found, "contrast")):
    print(f"seen:  contrast at distance {i + 1}: {[round(float(each), 1) for each in row]}")
same = [bool((found[:, :, 0, k] == found[:, :, 1, k]).all()) for k in range(4)]
print("seen:  the same matrix at 0, 45, 90, 135 degrees:", same)
assert same == [False, True, False, True]
PY
