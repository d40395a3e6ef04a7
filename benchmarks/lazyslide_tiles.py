"""Measure memory and time of LazySlide's ``feature_prediction`` with a model of this package, by number of tiles.

    python benchmarks/lazyslide_tiles.py [--tiles 1000 8000 27225] [--features 1536] [--genes 250]

A model is trained for one epoch on drawn sections, since the cost does not depend on what it learned. For each number
of tiles, a process of its own writes a slide, lays the tiles in a square, gives them drawn features (as many as those
of UNI2-h or GigaPath), and calls ``zs.tl.feature_prediction`` on the CPU. Memory is the resident set of that process
with all its libraries: before the call, and at its peak. The prediction is compared with that of ``ng.tl.predict``. The
script prints a table, and its exit code is 1 if two predictions differ by more than 1e-5 or a peak exceeds 4 GB.
"""

from __future__ import annotations

import argparse
import math
import pickle
import tempfile
import time
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil
import tifffile
from anndata import AnnData

import nh2st_graph as ng
from nh2st_graph.study._memory import peak_memory

#: Resolution of the slide in um per px, and side and distance of tiles in its pixels.
MPP, TILE, STEP = 4.0, 28, 25
#: Most memory that is allowed, and the largest difference between the two predictions.
BOUND_GB, EQUAL = 4.0, 1e-5


class Measured(NamedTuple):
    """Of one number of tiles: memory in GB before the call and at its peak, seconds of the CPU, and the difference."""

    n_tiles: int
    before: float
    peak: float
    seconds: float
    apart: float


def drawn_section(name: str, n_features: int, n_genes: int) -> AnnData:
    """Draw a section of 400 spots with features and counts."""
    rng = np.random.default_rng(sum(map(ord, name)))
    row, column = np.indices((20, 20)).reshape(2, -1)
    section = AnnData(rng.poisson(3, (400, n_genes)).astype(np.float32))
    section.obs_names = [f"{name}_{i}" for i in range(400)]
    section.var_names = [f"G{i}" for i in range(n_genes)]
    section.obs["section"] = pd.Categorical([name] * 400)
    section.obs["patient"] = pd.Categorical([name] * 400)
    section.obsm["spatial"] = np.stack([column, row], axis=1) * STEP + 50.0
    section.obsm["embedding"] = rng.normal(size=(400, n_features)).astype(np.float32)
    return section


def measure(model: bytes, n_tiles: int) -> Measured:
    """Predict one slide; runs in a process of its own."""
    import lazyslide as zs
    import wsidata

    fitted, side = pickle.loads(model), math.isqrt(n_tiles - 1) + 1
    with tempfile.TemporaryDirectory() as folder:
        path, length = Path(folder) / "slide.tif", side * STEP + TILE
        options = {"tile": (256, 256), "compression": "deflate", "photometric": "rgb", "metadata": None}
        scale = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, np.full((length, length, 3), 200, np.uint8), **options, **scale)
        wsi = wsidata.open_wsi(path, store=None)
        corners = np.indices((side, side)).reshape(2, -1).T[:n_tiles, ::-1] * STEP
        spec = wsidata.TileSpec(TILE, TILE, STEP, STEP, mpp=MPP)
        wsidata.io.add_tiles(wsi, "tiles", corners, spec, np.zeros(n_tiles, int))
        features = np.random.default_rng(0).standard_normal((n_tiles, fitted.n_features), np.float32)
        wsidata.io.add_features(wsi, "uni2_tiles", "tiles", features)
        given, before, start = fitted.as_lazyslide(), psutil.Process().memory_info().rss, time.process_time()
        with peak_memory() as peak:
            zs.tl.feature_prediction(wsi, given, "uni2", device="cpu", pbar=False)
        seconds = time.process_time() - start
        ours = ng.tl.predict(wsi, fitted, table_key="uni2_tiles", key_added="ours", intervals=False).X
        apart = float(np.abs(wsi.tables["nh2st_graph_tiles"].X - ours).max())
    return Measured(n_tiles, before / 1e9, peak.megabytes / 1e3, seconds, apart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", default=[1000, 8000, 27225])
    parser.add_argument("--features", type=int, default=1536)
    parser.add_argument("--genes", type=int, default=250)
    given = parser.parse_args()
    sections = [drawn_section(name, given.features, given.genes) for name in ("S1", "S2")]
    settings = {"panel": f"hvg:{given.genes}", "embeddings": "obsm:embedding", "max_epochs": 1, "progress": False}
    model = pickle.dumps(ng.tl.fit(sections, **settings))
    rows = []
    for n_tiles in given.tiles:
        with get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (model, n_tiles)))
    print(f"{given.features} features, {given.genes} genes, LazySlide {version('lazyslide')}, one CPU\n")
    print("| tiles | GB before | GB at the peak | CPU seconds | largest difference |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row.n_tiles:,} | {row.before:.2f} | {row.peak:.2f} | {row.seconds:.1f} | {row.apart:.1e} |")
    raise SystemExit(int(any(row.apart > EQUAL or row.peak > BOUND_GB for row in rows)))


if __name__ == "__main__":
    main()
