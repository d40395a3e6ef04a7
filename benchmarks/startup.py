"""Measure small commands whose time is mostly start-up: time, CPU time and peak memory, beside an earlier checkout.

    python benchmarks/startup.py --before DIR --data DIR [--cache DIR] [--repeats 5] [--only fit fit_network predict]

Each runs in a process of its own, in turns of the two checkouts, with the same Python and its libraries. ``help`` shows
the help of the command line; ``fit`` is :func:`nh2st_graph.tl.fit` of one section of 3,000 spots with 105 given
features, 250 genes and one epoch; ``fit_network`` is the same without the closed form; ``predict`` loads the fitted
model and predicts the section; ``train`` is ``nh2st-graph train configs/her2st_mini.yaml`` on C3, C4 and C5 of HER2ST
(``--data``), tested on C6, with cached features. One turn of each comes first. Memory is the largest resident set.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

N_SPOTS, N_FEATURES, N_GENES = 3000, 105, 250


class Cost(NamedTuple):
    """Cost of one run."""

    seconds: float
    cpu_seconds: float
    memory_mb: float


def section() -> Any:
    """Make a section of a square array with features and counts that follow some of them."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    rng = np.random.default_rng(0)
    row, col = np.divmod(np.arange(N_SPOTS), round(N_SPOTS**0.5))
    features = rng.normal(size=(N_SPOTS, N_FEATURES)).astype(np.float32)
    weights = 0.1 * rng.normal(size=(8, N_GENES))
    rate = np.exp(features[:, :8] @ weights + rng.normal(size=N_GENES))
    spots = pd.DataFrame({"array_row": row, "array_col": col}, index=[f"s{i}" for i in range(N_SPOTS)])
    genes = pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)])
    made = AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)), obs=spots, var=genes)
    for key, value in (("section", "S"), ("patient", "p")):
        made.obs[key] = pd.Categorical([value] * N_SPOTS)
    made.obsm["spatial"] = np.stack([col, row], axis=1) * 100.0
    made.obsm["X_given"] = features
    scale = {"spot_diameter_fullres": 50.0, "tissue_hires_scalef": 1.0}
    made.uns["spatial"] = {
        "S": {"images": {}, "scalefactors": scale, "metadata": {"microns_per_pixel": 1.0, "source_image_path": ""}}
    }
    return made


def fit(out: Path, closed_form: bool) -> None:
    import nh2st_graph as ng

    settings = {"panel": f"hvg:{N_GENES}", "embeddings": "obsm:X_given", "max_epochs": 1, "progress": False}
    ng.tl.fit(section(), **settings, closed_form=closed_form).save(out)


def predict(model: Path) -> None:
    import nh2st_graph as ng

    ng.tl.predict(section(), ng.load(model, embeddings="obsm:X_given"))


def command(task: str, work: Path, options: argparse.Namespace, run: int) -> list[str]:
    """Give the command of a task."""
    if task == "help":
        return ["-m", "nh2st_graph", "--help"]
    if task != "train":
        return [__file__, "--task", task, "--work", str(work)]
    settings = [
        f"data.root={options.data.resolve() / 'her2st'}",
        "data.train=[C3,C4,C5]",
        "data.test=[C6]",
        f"features.cache={options.cache.resolve() if options.cache else work / 'cache'}",
        "train.progress=false",
    ]
    changes = [part for setting in settings for part in ("--set", setting)]
    return ["-m", "nh2st_graph", "train", "configs/her2st_mini.yaml", *changes, "--out", str(work / f"run{run}")]


def measure(checkout: Path, arguments: Sequence[str]) -> Cost:
    """Run Python in a checkout, and measure it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(checkout)
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=checkout, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        # Unlike process.wait(), this also returns the kernel's counts for this one process.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            raise SystemExit(f"{checkout}: {' '.join(arguments)}\nexit code {process.returncode}\n{said.read()}")
    # Linux counts in units of 1024 bytes, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6)


def report(costs: Mapping[str, Mapping[str, Sequence[Cost]]], repeats: int) -> str:
    """Format the result as Markdown."""
    rows = []
    for task, of_checkouts in costs.items():
        medians = {
            name: [statistics.median(each) for each in zip(*runs, strict=True)] for name, runs in of_checkouts.items()
        }
        parts = zip(*medians.values(), strict=True)
        shown = [
            " | ".join(f"{value:.{digits}f}" for value in part) for part, digits in zip(parts, (1, 1, 0), strict=True)
        ]
        rows.append(f"| {task} | {' | '.join(shown)} |")
    names = list(next(iter(costs.values())))
    columns = [f"{what}, {name}" for what in ("seconds", "CPU seconds", "peak MB") for name in names]
    return "\n".join(
        [
            f"Medians of {repeats}, in turns; {os.cpu_count()} cores:",
            "",
            f"| | {' | '.join(columns)} |",
            f"| --- |{' ---: |' * len(columns)}",
            *rows,
        ]
    )


def main() -> None:
    """Measure all tasks in both checkouts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="an earlier checkout")
    parser.add_argument("--data", type=Path, help="folder with her2st/; without it, train is left out")
    parser.add_argument("--cache", type=Path, help="folder of cached features; by default they are computed first")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["help", "fit", "fit_network", "predict", "train"])
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task == "predict":
        return predict(options.work / "model")
    if options.task:
        return fit(options.work / "model", options.task == "fit")
    here = Path(__file__).resolve().parents[1]
    checkouts = {"before": options.before.resolve(), "now": here} if options.before else {"now": here}
    tasks = [task for task in options.only if task != "train" or options.data]
    costs: dict[str, dict[str, list[Cost]]] = {task: {name: [] for name in checkouts} for task in tasks}
    with tempfile.TemporaryDirectory() as folder:
        works = {name: Path(folder) / name for name in checkouts}
        for work in works.values():
            work.mkdir()
        for run in range(options.repeats + 1):
            for task in tasks:
                for name, checkout in checkouts.items():
                    cost = measure(checkout, command(task, works[name], options, run))
                    if run:
                        costs[task][name].append(cost)
                        print(f"{task}, {name}: {cost.seconds:.1f} s, {cost.memory_mb:.0f} MB", file=sys.stderr)
    print(report(costs, options.repeats))
    return None


if __name__ == "__main__":
    main()
