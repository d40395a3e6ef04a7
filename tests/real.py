"""Real sections, cut down until a run on them takes seconds."""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from pathlib import Path

import pandas as pd
from PIL import Image

#: The scans of HER2ST are decoded at a quarter of their resolution, 2.8 um per pixel, which is four times as quick.
SHRINK = 4
#: A fifth of the 15,000 genes is kept, the same of each section, and those that the README names: files are read five
#: times as quick.
EVERY, NAMED = 5, {b"GNAS", b"ERBB2", b"FASN"}
#: Patches around the outer spots of a crop stay whole: half of 224 um, in pixels of the scan, and a little.
MARGIN_PX = 180


def crop(source: Path, target: Path, name: str) -> None:
    """Cut a section down to the 7 x 7 positions of the array around its middle, in the same layout."""
    spots = pd.read_csv(source / "ST-spotfiles" / f"{name}_selection.tsv", sep="\t")
    near = (spots[["x", "y"]] - spots[["x", "y"]].median().round()).abs().max(axis=1) <= 3
    spots = spots[near]
    left, top = (spots[["pixel_x", "pixel_y"]].min().astype(int) - MARGIN_PX) // SHRINK
    right, bottom = (spots[["pixel_x", "pixel_y"]].max().astype(int) + MARGIN_PX) // SHRINK
    spots = spots.assign(pixel_x=spots["pixel_x"] / SHRINK - left, pixel_y=spots["pixel_y"] / SHRINK - top)
    head, *rows = gzip.decompress((source / "ST-cnts" / f"{name}.tsv.gz").read_bytes()).splitlines(keepends=True)
    kept = {f"{x}x{y}".encode() for x, y in zip(spots["x"], spots["y"], strict=True)}
    genes = head.rstrip().split(b"\t")
    columns = [i for i, gene in enumerate(genes) if i == 0 or gene in NAMED or zlib.crc32(gene) % EVERY == 0]
    wanted = [head, *(row for row in rows if row.partition(b"\t")[0] in kept)]
    counts = b"".join(b"\t".join(map(row.rstrip().split(b"\t").__getitem__, columns)) + b"\n" for row in wanted)
    image = target / "ST-imgs" / name[0] / name / f"{name}.jpg"
    for folder in (target / "ST-spotfiles", target / "ST-cnts", image.parent):
        folder.mkdir(parents=True, exist_ok=True)
    spots.to_csv(target / "ST-spotfiles" / f"{name}_selection.tsv", sep="\t", index=False)
    (target / "ST-cnts" / f"{name}.tsv.gz").write_bytes(gzip.compress(counts, compresslevel=1))
    (scan,) = (source / "ST-imgs" / name[0] / name).glob("*.jpg")
    with Image.open(scan) as whole:
        whole.draft("RGB", (whole.width // SHRINK, whole.height // SHRINK))
        whole.crop((left, top, right, bottom)).save(image, quality=90)


def shrink_visium(source: Path, target: Path, pixels: int = 500) -> None:
    """Copy a Space Ranger folder, its ``hires`` image ``pixels`` wide, the full one twice as wide and not there."""
    shutil.copytree(source, target)
    spatial = target / "spatial"
    factors = json.loads((spatial / "scalefactors_json.json").read_text())
    with Image.open(spatial / "tissue_hires_image.png") as hires:
        scale = 2 * pixels / hires.width * factors["tissue_hires_scalef"]
        hires.resize((pixels, pixels * hires.height // hires.width)).save(spatial / "tissue_hires_image.png")
    factors = {name: value * (scale if "diameter" in name else 1 / scale) for name, value in factors.items()}
    factors["tissue_hires_scalef"] = 0.5
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors))
    positions = pd.read_csv(spatial / "tissue_positions_list.csv", header=None)
    positions[[4, 5]] *= scale
    positions.to_csv(spatial / "tissue_positions_list.csv", header=False, index=False)
