#!/usr/bin/env bash
# wsidata puts the corners of tiles into obsm["spatial"], where others put centres.
#
# Packages: wsidata 0.12.0, openslide-bin 4.0.1.2 (OpenSlide 4.0.1), openslide-python
# 1.4.7, tifffile 2026.3.3.
# Guess: obsm["spatial"] of a table of tiles holds their centres. It does in Visium's
# tables, and squidpy cuts and draws around it.
# What happens: fetch.features_anndata, which LazySlide's users call after
# feature_extraction, puts the upper left corner there. The description says "the x,y
# coordinates for each tile". All tiles are half a tile too far up and left.
# Why it matters: spots are joined to tiles by the nearest point. Three of four get the
# features of another tile.
#
# Output seen:
#   wsidata 0.12.0
#   guess: the first tile of 128 pixels is at [64.0, 64.0], and the nearest tile is the right one
#   seen:  the first tile is at [0.0, 0.0]
#   seen:  nearest tile right for 28% of the spots, 100% with the centres
#
# Exit status: 0 while the behaviour stands, otherwise not 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(
  wsidata==0.12.0 openslide-python==1.4.7 openslide-bin==4.0.1.2
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

import numpy as np
import tifffile
import wsidata
from scipy.spatial import KDTree
from wsidata.io import add_features, add_tiles

SIDE, TILE = 2048, 128
corners = np.array([(x, y) for y in range(0, SIDE, TILE) for x in range(0, SIDE, TILE)])
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
    slide = wsidata.open_wsi(file, reader="openslide", store=None)
    # As lazyslide.pp.tile_tissues and lazyslide.tl.feature_extraction store them.
    tiles = wsidata.TileSpec.from_wsidata(slide, tile_px=TILE)
    add_tiles(slide, "tiles", corners, tiles, np.zeros(len(corners), dtype=int))
    add_features(slide, "model_tiles", "tiles", np.zeros((len(corners), 4), dtype="float32"))
    table = slide.fetch.features_anndata("model_tiles")

centres = slide.shapes["tiles"].centroid.get_coordinates().to_numpy()
spots = np.random.default_rng(0).uniform(0, SIDE, (10_000, 2))
within = (spots // TILE @ [1, SIDE // TILE]).astype(int)


def right(points):
    """Share of spots whose nearest point is that of the tile that they lie in."""
    return (KDTree(points).query(spots)[1] == within).mean()


seen = table.obsm["spatial"]
print("wsidata", version("wsidata"))
print(f"guess: the first tile of {TILE} pixels is at {centres[0].tolist()}, and the nearest tile is the right one")
print(f"seen:  the first tile is at {seen[0].tolist()}")
print(f"seen:  nearest tile right for {right(seen):.0%} of the spots, {right(centres):.0%} with the centres")
assert np.array_equal(seen, corners) and np.allclose(centres - seen, TILE / 2)
assert right(seen) < 0.3 and right(centres) == 1
PY
