"""What a whole slide costs: peak memory, and patches per second, from a tiled pyramidal TIFF to features and graph.

    python benchmarks/whole_slide.py [--side 100000] [--encoder timm:resnet18@random] [--pitch-um 100] [--limit 0]

The slide is written first, where it is not there: blocks of synthetic tissue in an ellipse on glass, 0.25 um per pixel,
JPEG tiles of 512 px, halved until 1000 px. Memory is the resident set of this process, while it lays out spots, while
it encodes them, and while it builds the graph. Written to ``benchmarks/results/whole_slide.md``.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tifffile import TiffWriter

from nh2st_graph import gr, im
from nh2st_graph.study._memory import peak_memory

RESULT = Path(__file__).resolve().parent / "results" / "whole_slide.md"
MICRONS_PER_PIXEL = 0.25
TILE = 512
SMALLEST = 1000
GLASS = np.array([243, 242, 244], dtype=np.uint8)
N_TEXTURES = 32


def textures(halvings: int) -> NDArray[np.uint8]:
    """Squares of stroma with nuclei, ``(N_TEXTURES, TILE, TILE, 3)``, as a level of so many halvings shows them."""
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(N_TEXTURES):
        nuclei = gaussian_filter(rng.normal(size=(TILE, TILE)), max(12 / 2**halvings, 0.6), mode="wrap")
        fibres = gaussian_filter(rng.normal(size=(TILE, TILE)), [2, 30], mode="wrap")
        dark = (nuclei > 1.2 * nuclei.std())[..., None]
        squares.append(np.where(dark, [110, 70, 140], [215, 150, 190] + 15 * (fibres / fibres.std())[..., None]))
    return np.clip(squares, 0, 255).astype(np.uint8)


def tiles(side: int, halvings: int) -> Iterator[NDArray[np.uint8]]:
    """The tiles of a level, row by row, each made when it is asked for."""
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


def measure(path: Path, encoder: str, pitch_um: float, limit: int) -> list[tuple[str, float, float, int]]:
    """Each step's name, seconds, peak memory in GB, and how many spots it was about."""
    steps: list[tuple[str, float, float, int]] = []

    def step(name: str, adata: AnnData | None) -> AnnData:
        start = time.perf_counter()
        with peak_memory() as peak:
            if name == "spots":
                adata = im.virtual_spots(path, pitch_um=pitch_um, spot_um=0.55 * pitch_um)
            elif name == "features":
                im.features(adata, encoder, cache=False)
            else:
                gr.spatial_graph(adata)
        assert adata is not None
        steps.append((name, time.perf_counter() - start, peak.megabytes / 1e3, adata.n_obs))
        print(f"{name}: {adata.n_obs} spots, {steps[-1][1]:.1f} s, {steps[-1][2]:.2f} GB")
        return adata

    adata = step("spots", None)
    if limit:
        adata = adata[:limit].copy()
    step("graph", step("features", adata))
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=100_000, help="Side of the slide in pixels.")
    parser.add_argument("--encoder", default="timm:resnet18@random")
    parser.add_argument("--pitch-um", type=float, default=100.0)
    parser.add_argument("--limit", type=int, default=0, help="Encode so many spots only; 0: all.")
    parser.add_argument("--folder", type=Path, default=Path("slides"), help="Where the slide is written.")
    given = parser.parse_args()
    logging.getLogger("nh2st_graph").addHandler(logging.StreamHandler())
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / f"slide_{given.side}.tif"
    if not path.exists():
        start = time.perf_counter()
        write_slide(path, given.side)
        print(f"{path}: {path.stat().st_size / 1e9:.2f} GB, written in {time.perf_counter() - start:.0f} s")
    steps = measure(path, given.encoder, given.pitch_um, given.limit)
    lines = [
        f"# A slide of {given.side} x {given.side} px",
        "",
        f"{path.stat().st_size / 1e9:.2f} GB of JPEG tiles at {MICRONS_PER_PIXEL} um per pixel, "
        f"{given.side**2 * 3 / 1e9:.1f} GB decoded; `{given.encoder}`, spots {given.pitch_um:g} um apart.",
        "",
        "| step | spots | seconds | spots per second | peak memory, GB |",
        "| --- | ---: | ---: | ---: | ---: |",
        *[f"| {name} | {n} | {s:.1f} | {n / s:.1f} | {gb:.2f} |" for name, s, gb, n in steps],
    ]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
