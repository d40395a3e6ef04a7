#!/usr/bin/env bash
# Of a grey image of two dimensions, squidpy's maps draw the first three columns of pixels.
#
# Packages: squidpy 1.8.2, anndata 0.12.19, numpy 2.4.6.
# Guess: spatial_scatter draws a grey tissue image (height x width), as matplotlib does,
# or says that it wants channels.
# What happens: it keeps the first three entries of the last axis, as of a colour image.
# Without channels these are columns of pixels: three of them lie at the left edge, the
# rest of the tissue is missing, and nothing is said.
# Why it matters: DAPI and other one-channel images are stored like this, and the spots
# then lie on a white page.
#
# Output seen:
#   squidpy 1.8.2
#   guess: an image of 60 x 80 pixels is drawn as 60 x 80 pixels
#   seen:  with three channels: (60, 80, 3) drawn; without: (60, 3) drawn, no warning
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
MPLBACKEND=Agg "$work/venv/bin/python" -W ignore - <<'PY'
import logging
import warnings

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import squidpy as sq

logging.disable(logging.INFO)

grey = np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8)
spots = np.array([[20.0, 15.0], [40.0, 30.0], [60.0, 45.0]])


def drawn(image):
    adata = ad.AnnData(np.ones((3, 1), dtype="float32"), obsm={"spatial": spots})
    factors = {"spot_diameter_fullres": 5.0, "tissue_hires_scalef": 1.0}
    adata.uns["spatial"] = {"S": {"images": {"hires": image}, "scalefactors": factors}}
    figure, ax = plt.subplots()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sq.pl.spatial_scatter(adata, ax=ax)
    told = [each for each in said if "image" in str(each.message).lower()]
    return ax.images[0].get_array(), told


print("squidpy", sq.__version__)
print("guess: an image of 60 x 80 pixels is drawn as 60 x 80 pixels")
colour, _ = drawn(np.stack([grey] * 3, axis=2))
flat, told = drawn(grey)
print(f"seen:  with three channels: {colour.shape} drawn; without: {flat.shape} drawn, {'a' if told else 'no'} warning")
assert colour.shape == (60, 80, 3)
assert flat.shape == (60, 3) and not told, "a grey image is drawn otherwise now"
assert (np.asarray(flat) == grey[:, :3]).all()
PY
