"""Compare what training costs in two checkouts: peak memory, wall-clock time and CPU time.

    python benchmarks/cost_of_training.py BEFORE AFTER --data DIR [--repeats 5] [--out FILE]

Each checkout has its own ``.venv``. ``nh2st-graph train`` trains on C3, C4 and C5 and tests on C6, as in the README,
with ``configs/her2st_mini.yaml`` of the checkout. The checkouts take turns, so that a machine that gets busier slows
both. One short run of each comes first: it fills the cache of image features that all runs share, and compiles Python's
bytecode. ``DIR`` holds ``her2st/`` (the repository almaan/her2st).

Memory is the largest resident set of the training process, with all its libraries, as the kernel counts it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """Cost of one run."""

    memory_mb: float
    seconds: float
    cpu_seconds: float


#: Name and number format of each part of a cost, in tables.
SHOWN = {
    "memory_mb": ("peak memory, MB", ".0f"),
    "seconds": ("wall-clock time, s", ".1f"),
    "cpu_seconds": ("CPU time, s", ".1f"),
}


def train(checkout: Path, out: Path, data: Path, cache: Path, changes: Sequence[str] = ()) -> Cost:
    """Train in a separate process, and measure it."""
    settings = [
        f"data.root={data / 'her2st'}",
        "data.train=[C3,C4,C5]",
        "data.test=[C6]",
        f"features.cache={cache}",
        "train.progress=false",
        *changes,
    ]
    command = [str(checkout / ".venv" / "bin" / "python"), "-m", "nh2st_graph", "train", "configs/her2st_mini.yaml"]
    command += [part for setting in settings for part in ("--set", setting)] + ["--out", str(out)]
    # Python is to keep what it compiles, or each run would compile all libraries again.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=said, stderr=subprocess.STDOUT)
        # Unlike process.wait(), this also returns the kernel's counts for this one process.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}\nexit code {process.returncode}\n{said.read()}")
    # Linux counts in units of 1024 bytes, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    return Cost(usage.ru_maxrss * unit / 1e6, seconds, usage.ru_utime + usage.ru_stime)


def revision(checkout: Path) -> str:
    """Name the commit of a checkout, marked if files differ from it."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()


def report(costs: Mapping[str, Sequence[Cost]], revisions: Mapping[str, str], repeats: int) -> str:
    """Format the result as Markdown."""
    rows, singles = [], []
    for part, (label, digits) in SHOWN.items():
        values = {name: [getattr(cost, part) for cost in each] for name, each in costs.items()}
        before, after = (statistics.median(values[name]) for name in ("before", "after"))
        rows.append(f"| {label} | {before:{digits}} | {after:{digits}} | **{after / before:.3f}** |")
        for name, each in values.items():
            singles.append(f"| {label}, {name} | {' | '.join(format(value, digits) for value in each)} |")
    return "\n".join(
        [
            "# What training costs, before and after",
            "",
            f"    python benchmarks/cost_of_training.py BEFORE AFTER --data DIR --repeats {repeats}",
            "",
            "`nh2st-graph train configs/her2st_mini.yaml` on C3, C4 and C5 of HER2ST, tested on C6; features are "
            f"cached. Before is `{revisions['before']}`, after is `{revisions['after']}`. The checkouts took turns; "
            f"{os.cpu_count()} cores. Medians of {repeats}:",
            "",
            "| | before | after | after / before |",
            "| --- | ---: | ---: | ---: |",
            *rows,
            "",
            "Run by run:",
            "",
            f"| | {' | '.join(str(i + 1) for i in range(repeats))} |",
            f"| --- |{' ---: |' * repeats}",
            *singles,
            "",
        ]
    )


def main() -> None:
    """Train in both checkouts in turn, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout with its .venv")
    parser.add_argument("after", type=Path, help="another")
    parser.add_argument("--data", type=Path, required=True, help="folder with her2st/")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each checkout")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    checkouts = {"before": options.before.resolve(), "after": options.after.resolve()}
    data = options.data.resolve()
    costs: dict[str, list[Cost]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, checkout in checkouts.items():
            print(f"{name}: warm-up", flush=True)
            train(checkout, work / f"warm_{name}", data, work / "cache", ["train.max_epochs=1"])
        for i in range(options.repeats):
            for name, checkout in checkouts.items():
                cost = train(checkout, work / f"{name}_{i}", data, work / "cache")
                costs[name].append(cost)
                print(f"{name} {i + 1}: {cost.memory_mb:.0f} MB, {cost.seconds:.1f} s", flush=True)
    text = report(costs, {name: revision(each) for name, each in checkouts.items()}, options.repeats)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
