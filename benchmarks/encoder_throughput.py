"""Measure how much of an encoder's throughput is left between a slide and its features.

    python benchmarks/encoder_throughput.py [--spots 384] [--repeats 5] [--device cpu] [--out FILE]

Three ways take turns, for each encoder: the encoder alone, on batches of patches that are in memory; a slide, with
reading and encoding in turns; and a slide whose next batches are read while one is encoded. The last two are all of
``ng.im.features`` but for its cache: open the file, hash it, cut the patches and encode them. All three must give the
same bits.

The script writes the slide: a pyramid of JPEG tiles as scanners write them (256 px, 0.25 um per px, each level a
quarter of the last), with spots 100 um apart, as on Visium. A patch of 112 um has 448 px there and is resampled to 0.5
um per px, at which most encoders of pathology were trained. Networks have random weights, which take as long as others.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import tifffile
import torch
from anndata import AnnData
from numpy.typing import NDArray
from PIL import Image

import nh2st_graph as ng
from nh2st_graph.im import Encoder, _features
from nh2st_graph.section import Key

ENCODERS = ("timm:resnet18@random", "timm:tf_efficientnet_lite0@random")
UM_PER_PX, PITCH_UM, PATCH_UM = 0.25, 100.0, 112.0
BATCH = 64

#: The ways to measure, in the order of the table.
ALONE, IN_TURNS, AHEAD = "encoder alone", "slide, in turns", "slide, read ahead"


def write_slide(path: Path, side: int) -> None:
    """Write a square slide of blurred noise with the grain of a scan."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(60, 255, (side // 16, side // 16, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    image = image + draw.integers(0, 12, image.shape, dtype=np.uint8) // 2
    options = {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 85}, "photometric": "rgb"}
    dots = (1e4 / UM_PER_PX, 1e4 / UM_PER_PX)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(image, subifds=2, resolution=dots, resolutionunit="CENTIMETER", **options)
        for factor in (4, 16):
            size = (side // factor, side // factor)
            smaller = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
            file.write(smaller, subfiletype=1, **options)


def make_section(folder: Path, n_spots: int) -> AnnData:
    """Make a section of a square array of spots, with names in no spatial order, as barcodes are."""
    across = int(np.ceil(np.sqrt(n_spots)))
    centres = np.stack(np.meshgrid(*[np.arange(1, across + 1) * PITCH_UM / UM_PER_PX] * 2), axis=-1)
    path, side = folder / "slide.tif", 256 * int(np.ceil((across + 1) * PITCH_UM / UM_PER_PX / 256))
    write_slide(path, side)
    names = np.random.default_rng(1).permutation([f"spot{i:05d}" for i in range(n_spots)])
    obs = pd.DataFrame(index=names)
    obs[Key.obs.section], obs[Key.obs.patient] = pd.Categorical(["S"] * n_spots), pd.Categorical(["P"] * n_spots)
    metadata = {Key.library.source_image: str(path), Key.library.microns_per_pixel: UM_PER_PX}
    return AnnData(
        obs=obs,
        obsm={Key.obsm.spatial: centres.reshape(-1, 2)[:n_spots]},
        uns={Key.uns.spatial: {"S": {Key.library.metadata: metadata}}},
    )


def batches_of(section: AnnData, encoder: Encoder) -> list[NDArray[np.uint8]]:
    """Cut all patches of a section, in the batches in which features are computed."""
    order = np.argsort(section.obs_names.to_numpy(dtype=str), kind="stable")
    cut = ng.im.patches(section, PATCH_UM, encoder.input_size, order, interpolation=encoder.interpolation)
    patches = np.stack(list(cut))
    return [patches[i : i + BATCH] for i in range(0, len(patches), BATCH)]


def from_slide(section: AnnData, encoder: Encoder, ahead: int) -> NDArray[np.float32]:
    """Compute the features of a section from its slide, with so many batches read ahead."""
    _features._AHEAD = ahead
    blocks = [(encoder, PATCH_UM)]
    ng.im.features(section, blocks, batch_size=BATCH, cache=False, check_placement=False, progress=False)
    order = np.argsort(section.obs_names.to_numpy(dtype=str), kind="stable")
    return np.asarray(section.obsm[Key.obsm.image])[order]


class Cost(NamedTuple):
    """Cost of one run, in seconds; the CPU time is that of all threads."""

    seconds: float
    cpu_seconds: float


def measure(section: AnnData, encoder: Encoder, repeats: int) -> dict[str, list[Cost]]:
    """Measure what each way costs, and refuse to go on if features differ."""
    batches, ahead = batches_of(section, encoder), _features._AHEAD
    ways: dict[str, Callable[[], NDArray[np.float32 | np.uint8]]] = {
        ALONE: lambda: np.concatenate([encoder.encode(batch) for batch in batches]),
        IN_TURNS: lambda: from_slide(section, encoder, 0),
        AHEAD: lambda: from_slide(section, encoder, ahead),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    expected = ways[ALONE]()  # also warms up
    for i in range(repeats):
        for name, way in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            found = way()
            costs[name].append(Cost(time.perf_counter() - start, time.process_time() - cpu))
            if not np.array_equal(found, expected):
                raise SystemExit(f"{encoder.name}: features of {name!r} differ")
        print(
            f"{encoder.name} {i + 1}: " + ", ".join(f"{n} {c[-1].seconds:.2f} s" for n, c in costs.items()), flush=True
        )
    return costs


def report(costs: Mapping[str, Mapping[str, Sequence[Cost]]], n_spots: int, repeats: int, device: str) -> str:
    """Format the result as Markdown."""
    rows = []
    for encoder, ways in costs.items():
        medians = {name: Cost(*map(statistics.median, zip(*each, strict=True))) for name, each in ways.items()}
        for name, median in medians.items():
            seconds = [cost.seconds for cost in ways[name]]
            rows.append(
                f"| `{encoder}` | {name} | {median.seconds:.2f} | {min(seconds):.2f} to {max(seconds):.2f} "
                f"| {n_spots / median.seconds:.1f} | **{medians[ALONE].seconds / median.seconds:.3f}** "
                f"| {median.cpu_seconds:.2f} |"
            )
    return "\n".join(
        [
            "# From a slide to features, beside the encoder alone",
            "",
            f"    python benchmarks/encoder_throughput.py --spots {n_spots} --repeats {repeats} --device {device}",
            "",
            f"{n_spots} patches of {PATCH_UM:g} um from a slide of {UM_PER_PX} um per px, in batches of {BATCH}; "
            f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch, {device}. The ways took turns; "
            f"medians of {repeats}, and the range. The share is the throughput relative to the encoder alone. All ways "
            "gave the same bits.",
            "",
            "| encoder | way | s | range | patches a s | share | CPU s |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Measure each encoder, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, default=384, help="spots of the section")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way")
    parser.add_argument("--device", default="cpu", help="where encoders run")
    parser.add_argument("--encoders", nargs="+", default=ENCODERS, help="names of encoders")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        section = make_section(Path(folder), options.spots)
        encoders = ng.im.make_encoders(",".join(options.encoders), options.device)
        costs = {encoder.name: measure(section, encoder, options.repeats) for encoder in encoders}
    text = report(costs, options.spots, options.repeats, options.device)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
