"""Measure what the handcrafted features cost beside the default, from the file of the image to the features.

    python benchmarks/handcrafted.py --root DIR [--sections C6 B4] [--repeats 5] [--out FILE]

The ways take turns, and each is compared with the default of the same turn. The cache is off, so that a way opens and
hashes the image, cuts the patches and encodes them. ``pixels:112`` shows what all of it costs but for the encoder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from anndata import AnnData

import nh2st_graph as ng

COLOUR = "squidpy:summary+texture+histogram"
SCALES = (112.0, 224.0, 448.0)

#: What is encoded: names of encoders, each with the side of its patch in um.
WAYS: dict[str, list[tuple[str, float]]] = {
    f"`{COLOUR}`, 224 um": [(COLOUR, 224.0)],
    "`handcrafted`, 224 um": [("handcrafted", 224.0)],
    "`handcrafted`, 112, 224 and 448 um": [("handcrafted", um) for um in SCALES],
    "`pixels:112`, 224 um": [("pixels:112", 224.0)],
    "`pixels:112`, 112, 224 and 448 um": [("pixels:112", um) for um in SCALES],
}


class Cost(NamedTuple):
    """Cost of one run, in seconds; the CPU time is that of all threads."""

    seconds: float
    cpu_seconds: float


def encode(section: AnnData, blocks: Sequence[tuple[str, float]]) -> None:
    """Compute features, without the cache."""
    ng.im.features(section, blocks, cache=False, check_placement=False, progress=False, copy=True)


def measure(section: AnnData, repeats: int) -> dict[str, list[Cost]]:
    """Measure each way in turns, after one turn that warms up."""
    costs: dict[str, list[Cost]] = {name: [] for name in WAYS}
    for turn in range(repeats + 1):
        for name, blocks in WAYS.items():
            start, cpu = time.perf_counter(), time.process_time()
            encode(section, blocks)
            cost = Cost(time.perf_counter() - start, time.process_time() - cpu)
            if turn:
                costs[name].append(cost)
            print(f"{turn} {name}: {cost.seconds:.2f} s, {cost.cpu_seconds:.2f} s of CPU", flush=True)
    return costs


def report(costs: Mapping[str, Mapping[str, Sequence[Cost]]], spots: Mapping[str, int], repeats: int) -> str:
    """Format the result as Markdown."""
    rows = []
    for section, ways in costs.items():
        base = next(iter(ways.values()))
        for name, runs in ways.items():
            ratios = [run.seconds / other.seconds for run, other in zip(runs, base, strict=True)]
            ratio_cpu = statistics.median(
                run.cpu_seconds / other.cpu_seconds for run, other in zip(runs, base, strict=True)
            )
            rows.append(
                f"| {section} ({spots[section]} spots) | {name} | {statistics.median(r.seconds for r in runs):.2f} "
                f"| {statistics.median(r.cpu_seconds for r in runs):.2f} | **{statistics.median(ratios):.2f}** "
                f"| {min(ratios):.2f} to {max(ratios):.2f} | {ratio_cpu:.2f} |"
            )
    return "\n".join(
        [
            "# Handcrafted features beside the default",
            "",
            f"    python benchmarks/handcrafted.py --root DIR --sections {' '.join(costs)} --repeats {repeats}",
            "",
            f"From the file of the image to features, without the cache, on {os.cpu_count()} shared cores. The ways "
            f"took turns; medians of {repeats}. Ratios are to the default of the same turn, of seconds (with their "
            "range) and of CPU time.",
            "",
            "| section | way | s | CPU s | ratio | range | ratio of CPU |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Measure each section, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the sections of HER2ST")
    parser.add_argument("--sections", nargs="+", default=["C6", "B4"], help="names of sections")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    sections = ng.read.sections("her2st", options.root, options.sections)
    costs = {name: measure(section, options.repeats) for name, section in sections.items()}
    text = report(costs, {name: section.n_obs for name, section in sections.items()}, options.repeats)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
