#!/usr/bin/env bash
# torchstain's Reinhard normalisation paints a blank tile black.
#
# Packages: torchstain 1.4.1 (its NumPy form), numpy 2.4.6.
# Guess: a tile of bare glass comes out pale, or as it went in.
# What happens: each channel is divided by its standard deviation. In a tile of one
# colour this is 0, the result is NaN, and the cast to uint8 makes it 0. With one pixel
# of another grey the tile becomes the mean colour of the target, which is tissue.
# method="modified" makes it a light pink.
# Why it matters: spots at the border of a section have such tiles. Black is far from
# any tissue, and tissue where there is none is worse.
#
# Output seen:
#   torchstain 1.4.1
#   guess: a tile of grey 240 stays pale
#   seen:  one grey: median colour [0, 0, 0]
#   seen:  one grey and one pixel of 239: median colour [180, 110, 169]
#   seen:  one grey, method='modified': median colour [255, 215, 255]
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(torchstain==1.4.1 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv -q --python python3 "$work/venv"
  uv pip install -q --python "$work/venv/bin/python" "${packages[@]}"
else
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "${packages[@]}"
fi
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from torchstain.numpy.normalizers import NumpyReinhardNormalizer

rng = np.random.default_rng(0)
tissue = rng.normal((180, 110, 170), 20, (64, 64, 3)).clip(0, 255).astype("uint8")
blank = np.full((64, 64, 3), 240, dtype="uint8")
speck = blank.copy()
speck[0, 0] = 239


def normalised(tile, method=None):
    normaliser = NumpyReinhardNormalizer(method=method)
    normaliser.fit(tissue)
    return np.median(np.asarray(normaliser.normalize(tile)).reshape(-1, 3), axis=0).astype(int).tolist()


print("torchstain", version("torchstain"))
print("guess: a tile of grey 240 stays pale")
results = [normalised(blank), normalised(speck), normalised(blank, "modified")]
for name, colour in zip(("one grey", "one grey and one pixel of 239", "one grey, method='modified'"), results):
    print(f"seen:  {name}: median colour {colour}")
assert results[0] == [0, 0, 0]
assert abs(np.array(results[1]) - (180, 110, 170)).max() < 5
assert min(results[2]) > 200
PY
