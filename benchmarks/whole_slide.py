"""Measure peak memory and spots per second of a whole slide, from a tiled pyramidal TIFF to predicted expression.

    python benchmarks/whole_slide.py [--side 100000] [--encoder timm:resnet18@random] [--pitch-um 100]

The script first writes the slide if it is missing: blocks of synthetic tissue in an ellipse on glass, 0.25 um per
pixel, JPEG tiles of 512 px, halved until 1000 px. It trains a model for one epoch on synthetic sections, since the cost
of a slide does not depend on what the model learned. Memory is the resident set of this process, with all its
libraries. It is measured in three steps: laying out spots, encoding them, and ``predict_run`` from the file to h5ad and
SpatialData, with those features in its cache. The script writes ``benchmarks/results/whole_slide.md``. The exit code is
1 if memory exceeds 4 GB.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tifffile import TiffWriter

from nh2st_graph import Config, im, tl
from nh2st_graph.study._memory import peak_memory

RESULT = Path(__file__).resolve().parent / "results" / "whole_slide.md"
MICRONS_PER_PIXEL = 0.25
TILE = 512
SMALLEST = 1000
GLASS = np.array([243, 242, 244], dtype=np.uint8)
N_TEXTURES = 32
#: Largest memory allowed for a slide of any size.
BOUND_GB = 4.0


def textures(halvings: int) -> NDArray[np.uint8]:
    """Draw squares of stroma with nuclei, ``(N_TEXTURES, TILE, TILE, 3)``, at a level after so many halvings."""
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(N_TEXTURES):
        nuclei = gaussian_filter(rng.normal(size=(TILE, TILE)), max(12 / 2**halvings, 0.6), mode="wrap")
        fibres = gaussian_filter(rng.normal(size=(TILE, TILE)), [2, 30], mode="wrap")
        dark = (nuclei > 1.2 * nuclei.std())[..., None]
        squares.append(np.where(dark, [110, 70, 140], [215, 150, 190] + 15 * (fibres / fibres.std())[..., None]))
    return np.clip(squares, 0, 255).astype(np.uint8)


def tiles(side: int, halvings: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the tiles of a level, row by row."""
    squares = textures(halvings)
    glass = np.broadcast_to(GLASS, (TILE, TILE, 3))
    count = -(-side // TILE)
    place = (np.arange(TILE) + 0.5) / side
    for row in range(count):
        for column in range(count):
            x = (column * TILE / side + place - 0.5) / 0.42
            y = (row * TILE / side + place - 0.5)[:, None] / 0.33
            square = squares[(7 * row + 13 * column) % N_TEXTURES]
            yield np.where((x**2 + y**2 < 1)[..., None], square, glass)


def write_slide(path: Path, side: int) -> None:
    """Write the pyramid, one tile in memory at a time."""
    sides = [side]
    while sides[-1] > 2 * SMALLEST:
        sides.append(sides[-1] // 2)
    options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 80}}
    aside = path.with_suffix(".part")
    with TiffWriter(aside, bigtiff=True) as file:
        for level, length in enumerate(sides):
            more = {"subfiletype": 1} if level else {"subifds": len(sides) - 1}
            file.write(
                tiles(length, level),
                shape=(length, length, 3),
                dtype=np.uint8,
                resolution=(1e4 / MICRONS_PER_PIXEL / 2**level,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
                **options,
                **more,
            )
    aside.rename(path)


def train(folder: Path, encoder: str) -> Path:
    """Train a model with this encoder; the cache of slide features lies beside it."""
    values = {
        "data": {
            "format": "synthetic",
            "train": ["S1", "S2"],
            "test": [],
            "synthetic": {"n_sections": 2, "n_rows": 12, "n_cols": 12},
        },
        "features": {"encoder": encoder, "cache": str(folder / "cache")},
        "train": {"max_epochs": 1, "refit": False},
    }
    return tl.train_run(Config.parse(values), folder / "run").folder


class Steps(list[tuple[str, float, float]]):
    """Name, seconds, and peak memory in GB of each step."""

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Measure the block."""
        start = time.perf_counter()
        with peak_memory() as peak:
            yield
        self.append((name, time.perf_counter() - start, peak.megabytes / 1e3))
        print("{}: {:.1f} s, {:.2f} GB".format(*self[-1]))


def measure(slide: Path, run: Path, out: Path, pitch_um: float) -> tuple[Steps, int]:
    """Predict the slide; return the steps and the number of spots."""
    model, steps = tl.load(run), Steps()
    lattice = {"pitch_um": pitch_um, "spot_um": 0.55 * pitch_um}
    features = model.config.features
    with steps.measured("spots"):
        section = tl.slide_section(slide, model, **lattice)
    with steps.measured("features"):
        im.features(section, features.blocks, batch_size=features.batch_size, cache=features.cache)
    with steps.measured("predict, h5ad and SpatialData"):
        tl.predict_run(run, [slide], out, spatialdata=True, **lattice)
    return steps, section.n_obs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=100_000, help="Side of the slide in pixels.")
    parser.add_argument("--encoder", default="timm:resnet18@random")
    parser.add_argument("--pitch-um", type=float, default=100.0)
    parser.add_argument("--folder", type=Path, default=Path("slides"), help="Folder for the slide.")
    parser.add_argument("--result", type=Path, default=RESULT, help="File for the table.")
    given = parser.parse_args()
    logging.getLogger("nh2st_graph").addHandler(logging.StreamHandler())
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / f"slide_{given.side}.tif"
    if not path.exists():
        start = time.perf_counter()
        write_slide(path, given.side)
        print(f"{path}: {path.stat().st_size / 1e9:.2f} GB, written in {time.perf_counter() - start:.0f} s")
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        run = train(Path(scratch), given.encoder)
        steps, n_spots = measure(path, run, Path(scratch) / "out", given.pitch_um)
    lines = [
        f"# A slide of {given.side} x {given.side} px",
        "",
        f"{path.stat().st_size / 1e9:.2f} GB of JPEG tiles at {MICRONS_PER_PIXEL} um per pixel, "
        f"{given.side**2 * 3 / 1e9:.1f} GB decoded; `{given.encoder}`, spots {given.pitch_um:g} um apart.",
        "",
        "| step | spots | seconds | spots per second | peak memory, GB |",
        "| --- | ---: | ---: | ---: | ---: |",
        *[f"| {name} | {n_spots} | {s:.1f} | {n_spots / s:.1f} | {gb:.2f} |" for name, s, gb in steps],
    ]
    given.result.parent.mkdir(parents=True, exist_ok=True)
    given.result.write_text("\n".join(lines) + "\n", encoding="utf-8")
    most = max(gigabytes for _, _, gigabytes in steps)
    if most > BOUND_GB:
        raise SystemExit(f"{most:.2f} GB, more than {BOUND_GB:g}")


if __name__ == "__main__":
    main()
