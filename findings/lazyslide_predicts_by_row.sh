#!/usr/bin/env bash
# LazySlide joins features to tiles by row, where its own tables are joined by tile_id.
#
# Packages: lazyslide 0.13.0, lazyslide-models 0.1.0, wsidata 0.12.0, torch 2.13.0.
# Guess: tables and tiles have a tile_id, which the table names as its key, and
# fetch.features_anndata joins by it. Tiles may be sorted, by a quality score for example,
# and each keeps its features.
# What happens: feature_prediction gives the model row i of the table with the corner of row i
# of the tiles, and files the result under the tile_id of row i of the tiles.
# Why it matters: after the tiles were sorted, the prediction of one tile is filed under
# another, without a word, and a model that reads positions gets those of others.
#
# Output seen:
#   lazyslide 0.13.0 wsidata 0.12.0
#   guess: sorted tiles keep their features, and each tile its prediction
#   seen:  features_anndata has the right features for 100% of the tiles
#   seen:  feature_prediction has the right prediction for 0% of the tiles
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  lazyslide==0.13.0 lazyslide-models==0.1.0 wsidata==0.12.0
  openslide-python==1.4.7 openslide-bin==4.0.1.2 torch==2.13.0
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

import lazyslide as zs
import numpy as np
import tifffile
import wsidata
from lazyslide_models import FeaturePredictionModel
from wsidata.io import add_features, add_tiles

SIDE, TILE = 1024, 128
corners = np.array([(x, y) for y in range(0, SIDE, TILE) for x in range(0, SIDE, TILE)])


class Same(FeaturePredictionModel):
    """Predict the first feature, which is the number of the tile."""

    model = None

    def predict(self, features, coords=None):
        return {"number": features[:, 0]}


with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "slide.tif"
    tifffile.imwrite(
        file,
        np.full((SIDE, SIDE, 3), 200, dtype="uint8"),
        tile=(256, 256),
        photometric="rgb",
        compression="zlib",
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )
    slide = wsidata.open_wsi(file, store=None)
    add_tiles(slide, "tiles", corners, wsidata.TileSpec.from_wsidata(slide, tile_px=TILE), np.zeros(64, dtype=int))
    number = np.arange(64, dtype="float32")
    add_features(slide, "model_tiles", "tiles", number[:, None])
    slide.shapes["tiles"] = slide.shapes["tiles"].sort_values("tile_id", ascending=False)
    zs.tl.feature_prediction(slide, Same(), "model", key_added="predicted_tiles", device="cpu", pbar=False)
    joined = slide.fetch.features_anndata("model")

predicted = slide.tables["predicted_tiles"]
kept = (joined.X[:, 0] == joined.obs["tile_id"]).mean()
right = (np.ravel(predicted.X) == predicted.obs["tile_id"]).mean()
print("lazyslide", version("lazyslide"), "wsidata", version("wsidata"))
print("guess: sorted tiles keep their features, and each tile its prediction")
print(f"seen:  features_anndata has the right features for {kept:.0%} of the tiles")
print(f"seen:  feature_prediction has the right prediction for {right:.0%} of the tiles")
assert kept == 1 and right == 0
PY
