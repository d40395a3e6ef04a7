"""Measure ``nh2st-graph train`` and ``predict`` on a Visium HD section from its files, end to end.

    python benchmarks/million_train.py [--bins 1000000] [--folder DIR] [--epochs 2] [--threads auto] [--test]
        [--before DIR]

The section is :func:`nh2st_graph.datasets.synthetic_hd`; 255 features a bin are drawn and written to the cache, as in
``benchmarks/reading.py``. Training chooses a panel of 250 genes, fits the closed form, trains three folds and then all
bins, for ``--epochs`` epochs each, and saves the model; prediction writes an ``.h5ad``. Each command is a process of
its own, whose largest resident set is read from the kernel.

With ``--test``, ``train`` alone is run, and scores a second such section beside all baselines, with figures and report;
with ``--before``, an earlier checkout does the same after it.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from reading import ENCODER, PATCH_UM, SECTION, write_cache

from nh2st_graph.datasets import synthetic_hd

#: The section that is scored.
TEST = "H2"


def run(*command: str, package: Path | None = None) -> tuple[float, float, float]:
    """Run a command of this package, or of a checkout; give wall-clock and CPU seconds, and peak memory in GB."""
    start = time.perf_counter()
    environment = os.environ | ({} if package is None else {"PYTHONPATH": str(package.resolve())})
    process = subprocess.Popen([sys.executable, "-m", "nh2st_graph", *command], env=environment, cwd=package)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed")
    unit = 1 if platform.system() == "Darwin" else 1024
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e9


def main() -> None:
    """Make the files, run the commands, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bins", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the section is, or is made; kept")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--test", action="store_true", help="score a second section")
    parser.add_argument("--before", type=Path, help="an earlier checkout, for --test")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary) / "section").resolve()
        names = [SECTION, *([TEST] if options.test else [])]
        synthetic_hd(options.bins, folder, n_sections=len(names))
        if len(list((folder / "cache").glob("*.safetensors"))) < len(names):
            for name in names:
                write_cache(folder, name)
        data = {"format": "visium_hd", "root": str(folder), "options": {"bin_um": 8}}
        config = {
            "data": {**data, "train": [SECTION], "test": names[1:]},
            "features": {"encoder": ENCODER, "patch_um": PATCH_UM, "cache": str(folder / "cache")},
            "train": {"max_epochs": options.epochs, "threads": options.threads, "device": "cpu", "progress": False},
            "evaluate": {"figures": options.test},
        }
        file, out, prepared = Path(temporary) / "config.yaml", Path(temporary) / "run", f"{temporary}/prepared"
        file.write_text(yaml.safe_dump(config))
        print(f"\n{options.bins:,} bins, {options.epochs} epochs, {os.cpu_count()} cores, threads: {options.threads}\n")
        print("| command | wall-clock, s | CPU, s | peak memory, GB |\n| --- | ---: | ---: | ---: |")
        if options.test:
            for name, package in {"train and score": None, "before": options.before}.items():
                if name != "before" or package is not None:
                    measured = run("train", str(file), "--out", f"{out}_{name[0]}", package=package)
                    print(f"| {name} | {' | '.join(f'{value:.2f}' for value in measured)} |", flush=True)
            return
        commands = {
            "train": ("train", str(file), "--out", str(out)),
            "prepare": ("prepare", "visium_hd", str(folder), "--out", prepared, "--option", "bin_um=8"),
            "predict": (
                *("predict", str(out), f"{prepared}/{SECTION}.h5ad", "--out", f"{temporary}/predicted.h5ad"),
                *("--cache", str(folder / "cache")),
            ),
        }
        for name, command in commands.items():
            print(f"| {name} | {' | '.join(f'{value:.2f}' for value in run(*command))} |", flush=True)


if __name__ == "__main__":
    main()
