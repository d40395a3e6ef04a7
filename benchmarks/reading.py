"""Measure reading and preparing a section of Visium HD, beside other readers and an earlier checkout.

    python benchmarks/reading.py [--bins 1000000] [--before DIR] [--folder DIR] [--repeats 1]

The section is :func:`nh2st_graph.datasets.synthetic_hd`. Its features are drawn, 255 a spot, and written to the cache
under their key. The tasks take turns, each in a process of its own, so that a table has wall time, processor time, and
the largest memory above what the libraries take once they are imported.

- **read**: counts, positions and images to one AnnData. squidpy's reader knows no parquet, so positions are joined by
  pandas; spatialdata-io also makes a square of each bin. It is left out where it is not installed.
- **read and write**: ``nh2st-graph prepare visium_hd``, which also checks that the bins lie on tissue.
- **prepare**: features from the cache, the spatial graph, and checks (:meth:`Preparation.prepare`).
- **digest**: the content of a section, as a run keeps it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

ENCODER, PATCH_UM, SECTION = "handcrafted", 112, "H1"


def bins_of(folder: Path) -> Path:
    """Folder of the bins of 8 um."""
    return folder / SECTION / "outs" / "binned_outputs" / "square_008um"


def read(folder: Path, section: str = SECTION) -> Any:
    """Read a section."""
    from nh2st_graph.read import visium_hd_section

    return visium_hd_section(folder / section, 8)


def preparation(folder: Path, genes: list[str]) -> Any:
    """Make a preparation whose features are cached."""
    from nh2st_graph.config import Config
    from nh2st_graph.train import Preparation
    from nh2st_graph.train._standardize import Standardizer

    features = {"encoder": ENCODER, "patch_um": PATCH_UM, "cache": str(folder / "cache")}
    config = Config.parse({"features": features, "train": {"device": "cpu"}})
    return Preparation.of(config, genes, Standardizer())


def task_read(folder: Path) -> Callable[[], object]:
    return lambda: read(folder)


def task_squidpy(folder: Path) -> Callable[[], object]:
    import pandas as pd
    import squidpy as sq

    def work() -> object:
        adata = sq.read.visium(bins_of(folder), library_id=SECTION, load_images=False)
        places = pd.read_parquet(bins_of(folder) / "spatial" / "tissue_positions.parquet").set_index("barcode")
        adata.obs = adata.obs.join(places)
        adata.obsm["spatial"] = adata.obs[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
        return adata

    return work


def task_spatialdata_io(folder: Path) -> Callable[[], object]:
    from spatialdata_io import visium_hd

    outs, image = folder / SECTION / "outs", folder / SECTION / "tissue_image.tif"
    return lambda: visium_hd(outs, SECTION, bin_size=8, load_segmentations_only=False, fullres_image_file=image)


def task_write(folder: Path) -> Callable[[], object]:
    from nh2st_graph.cli._prepare import Options, run_prepare

    out = Path(tempfile.mkdtemp(dir=folder)) / "out"
    return lambda: run_prepare("visium_hd", folder, out, Options([SECTION], ["bin_um=8"], True, False, []))


def task_prepare(folder: Path) -> Callable[[], object]:
    section = read(folder)
    made = preparation(folder, list(section.var_names[:250]))
    return lambda: made.prepare(section, ["genes"])


def task_digest(folder: Path) -> Callable[[], object]:
    from nh2st_graph.section import section_digest

    section = read(folder)
    return lambda: section_digest(section)


#: Readers of other packages.
OTHERS = {"squidpy", "spatialdata-io"}

#: What is measured, by name.
TASKS = {
    "read": task_read,
    "squidpy": task_squidpy,
    "spatialdata-io": task_spatialdata_io,
    "read and write": task_write,
    "prepare": task_prepare,
    "digest": task_digest,
}


def write_cache(folder: Path, name: str = SECTION) -> None:
    """Draw the features of a section, and write them where the package looks for them."""
    import numpy as np

    from nh2st_graph.im._blocks import make_blocks
    from nh2st_graph.im._cache import FeatureBlock, FeatureCache
    from nh2st_graph.im._features import feature_keys
    from nh2st_graph.section import open_image

    section, blocks = read(folder, name), make_blocks(ENCODER, PATCH_UM, 1, "cpu")
    with open_image(section) as slide:
        asked = [(block.encoder.input_size, block.fingerprint, block.patch_um) for block in blocks]
        (key,) = feature_keys(section, slide, slide.content_hash, asked)
    names = list(blocks[0].encoder.feature_names)
    values = np.random.default_rng(0).standard_normal((section.n_obs, len(names)), dtype=np.float32)
    FeatureCache(folder / "cache").write(key, FeatureBlock(sorted(section.obs_names), names, values))


def measure(task: str, folder: Path) -> dict[str, float]:
    """Run a task in this process."""
    import psutil
    import squidpy  # noqa: F401 - imports are not measured
    import torch  # noqa: F401

    process, work = psutil.Process(), TASKS[task](folder)
    before = process.memory_info().rss
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    wall, cpu = time.perf_counter(), time.process_time()
    kept = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024
    del kept
    return {"wall": wall, "cpu": cpu, "peak": peak / 1e9, "before": before / 1e9}


def in_process(checkout: Path, *arguments: str) -> dict[str, float]:
    """Run this script in a separate process, with the package of a checkout."""
    path = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr)
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def make_folder(folder: Path, n_bins: int) -> None:
    """Write the section and its features, unless they are there."""
    from nh2st_graph.datasets import synthetic_hd

    begun = time.perf_counter()
    synthetic_hd(n_bins, folder)
    if not (folder / "cache").exists():
        in_process(Path(__file__).resolve().parents[1], "--cache", str(folder))
    print(f"Folder of {n_bins:,} bins and their features: {time.perf_counter() - begun:.0f} s\n", flush=True)


def rows(before: Path | None) -> list[tuple[str, str, Path]]:
    """List the tasks, who does them, and with which checkout."""
    here = Path(__file__).resolve().parents[1]
    builds = {"this build": here} | ({"before": before.resolve()} if before else {})
    others = [("squidpy", f"squidpy {version('squidpy')} and pandas", here)]
    try:
        others += [("spatialdata-io", f"spatialdata-io {version('spatialdata-io')}", here)]
    except PackageNotFoundError:
        print("spatialdata-io is not installed, and left out\n")
    read, *more = ([(task, *build) for build in builds.items()] for task in TASKS if task not in OTHERS)
    return [*read, *others, *(row for rows in more for row in rows)]


def run(folder: Path, options: argparse.Namespace) -> None:
    """Measure in turns, and print the table."""
    make_folder(folder, options.bins)
    tasks = rows(options.before)
    found: dict[tuple[str, str], list[dict[str, float]]] = {(task, who): [] for task, who, _ in tasks}
    for _ in range(options.repeats):
        for task, who, checkout in tasks:
            found[task, who].append(in_process(checkout, "--one", task, str(folder)))
    print("| task | by | wall, s | processor, s | memory above, GB | peak, GB |\n| --- | --- " + "| ---: " * 4 + "|")
    for (task, who), values in found.items():
        wall, cpu, peak, start = (
            statistics.median(each[key] for each in values) for key in ("wall", "cpu", "peak", "before")
        )
        name = "read" if task in OTHERS else task
        print(f"| {name} | {who} | {wall:.1f} | {cpu:.1f} | {peak - start:.2f} | {peak:.2f} |")


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bins", type=int, default=1_000_000, help="number of bins")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--folder", type=Path, help="where the section is kept; by default it is temporary")
    parser.add_argument("--repeats", type=int, default=1, help="measurements of each")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one or options.cache:
        result: dict[str, float] = {}
        with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()), redirect_stderr(sys.stderr):
            if options.one:
                result = measure(options.one[0], Path(options.one[1]))
            else:
                write_cache(options.cache)
        print(json.dumps(result))
    elif options.folder:
        run(options.folder.resolve(), options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder).resolve(), options)


if __name__ == "__main__":
    main()
