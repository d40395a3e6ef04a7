#!/usr/bin/env bash
# squidpy's Reinhard turns a slide white where image and reference differ in type.
#
# Packages: squidpy 1.8.2 (squidpy.experimental.im), spatialdata 0.7.3.
# Guess: a colour is a colour. A reference of 8 bits serves an image of floats in 0 to
# 1, or of 16 bits, or it is refused.
# What happens: a StainReference of Reinhard holds means of the numbers as they were
# stored, and not their type. Each image alone is checked against the range of its own
# type, the pair is not. The result is cut to the range of the image: white for floats,
# black for 16 bits. No warning comes, and type and shape are right.
# Why it matters: the reference is fitted once and serves a cohort, and the images of a
# cohort come from several readers. Spots on a white slide all have the same features.
#
# Output seen:
#   squidpy 1.8.2
#   guess: mean colour of the tissue [180, 110, 170] for each type
#   seen:  reference of uint8, image of uint8: [180, 110, 170], as parts of 255
#   seen:  reference of uint8, image of float32: [255, 255, 255], as parts of 255
#   seen:  reference of uint8, image of uint16: [1, 0, 1], as parts of 255
#   seen:  0 warnings
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
import warnings
from importlib.metadata import version

import numpy as np
import squidpy as sq
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel

logging.disable(logging.INFO)
SIDE = 128
inside = np.zeros((SIDE, SIDE), dtype="int32")
inside[16:-16, 16:-16] = 1
types = {"uint8": 1, "float32": 1 / 255, "uint16": 257}
rng = np.random.default_rng(0)


def tissue(colour):
    image = np.full((3, SIDE, SIDE), 240.0)
    image[:, inside > 0] = rng.normal(np.array(colour)[:, None], 15, (3, inside.sum()))
    return image.clip(0, 255).round()


reference, other = tissue((180, 110, 170)), tissue((200, 150, 190))
elements = {"reference": reference.astype("uint8")} | {
    kind: (other * unit).astype(kind) for kind, unit in types.items()
}
slide = SpatialData(
    images={
        name: Image2DModel.parse(image, dims=("c", "y", "x"), c_coords=["r", "g", "b"])
        for name, image in elements.items()
    },
    labels={f"{name}_tissue": Labels2DModel.parse(inside, dims=("y", "x")) for name in elements},
)
im = sq.experimental.im
fitted = im.fit_stain_reference(slide, "reference", method="reinhard")
print("squidpy", version("squidpy"))
print("guess: mean colour of the tissue [180, 110, 170] for each type")
colours, told = {}, 0
for kind, unit in types.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = np.asarray(im.normalize_stains(slide, kind, fitted, inplace=False))
    told += sum(issubclass(warning.category, UserWarning) for warning in caught)
    colours[kind] = (result[:, inside > 0].mean(axis=1) / unit).round().astype(int).tolist()
    print(f"seen:  reference of uint8, image of {kind}: {colours[kind]}, as parts of 255")
print(f"seen:  {told} warnings")
assert np.abs(np.array(colours["uint8"]) - (180, 110, 170)).max() < 3
assert colours["float32"] == [255, 255, 255] and max(colours["uint16"]) <= 1 and not told
PY
