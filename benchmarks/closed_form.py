"""Measure the closed form of NH2ST-Graph over the number of spots: fit and prediction, time and memory.

    python benchmarks/closed_form.py [--sizes 20000 100000 1000000] [--threads 1] [--before DIR]

One section is a square grid with eight neighbours, with 105 features a spot and a panel of 250 genes of which one in
six counts is not zero. From 50,000 spots on, its values are rows of a memory map and of a sparse matrix. Prediction is
that of all spots at once, of the regression for training patients (``known``) and of that for new ones (``new``). Each
measurement is a process of its own; memory is its peak beyond what it held before the fit. An earlier checkout
(``--before``) takes turns up to ``--most-before`` spots, with dense values.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from turns import in_process

N_FEATURES, N_GENES, N_COMPONENTS = 105, 250, 16


def section(n_spots: int, folder: Path) -> Any:
    """Make a graph whose expression follows a few functions of the features."""
    import numpy as np
    import torch
    from scipy import sparse
    from torch_geometric.data import Data

    import nh2st_graph.nn

    side = round(n_spots**0.5)
    n_spots = side * side
    rng = np.random.default_rng(0)
    y, x = np.divmod(np.arange(n_spots), side)
    steps = np.array([(i, j) for j in (-1, 0, 1) for i in (-1, 0, 1) if (i, j) != (0, 0)])
    to_x, to_y = x[:, None] + steps[:, 0], y[:, None] + steps[:, 1]
    there = (to_x >= 0) & (to_x < side) & (to_y >= 0) & (to_y < side)
    receiver, sender = np.repeat(np.arange(n_spots), there.sum(axis=1)), (to_y * side + to_x)[there]
    large = hasattr(nh2st_graph.nn, "LARGE") and n_spots >= nh2st_graph.nn.LARGE
    features = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (n_spots, N_FEATURES))
    programmes = rng.normal(size=(4, N_GENES))
    parts = []
    for start in range(0, n_spots, 50_000):
        rows = rng.normal(size=(min(50_000, n_spots - start), N_FEATURES)).astype(np.float32)
        features[start : start + len(rows)] = rows
        means = np.column_stack([rows[:, 0], np.sin(rows[:, 1]), rows[:, 2] * rows[:, 3], np.abs(rows[:, 4])])
        values = means @ programmes + rng.normal(scale=4, size=(len(rows), N_GENES)) - 5.5
        parts.append(sparse.csr_matrix(np.log1p(values.clip(0)).astype(np.float32)))
    counts = sparse.vstack(parts, format="csr")
    values = (nh2st_graph.nn.Rows(features), nh2st_graph.nn.Rows(counts)) if large else None
    return Data(
        x=values[0] if values else torch.from_numpy(np.array(features)),
        y=values[1] if values else torch.from_numpy(counts.toarray()),
        library=torch.from_numpy(rng.uniform(100, 1000, size=(n_spots, 1)).astype(np.float32)),
        pos=torch.from_numpy(np.stack([x, y], axis=1).astype(np.float32)),
        edge_index=torch.from_numpy(np.stack([sender, receiver])),
        section="S",
        patient="P",
        num_nodes=n_spots,
    )


def memory(kind: str) -> float:
    """Give the memory that this process holds (``VmRSS``) or has held at most (``VmHWM``), GB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(lines[kind].split()[0]) / 1e6


def measure(n_spots: int, threads: int) -> dict[str, float]:
    """Fit and predict in this process."""
    import torch

    from nh2st_graph.models._closed_form import fit_closed_form

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        graph = section(n_spots, Path(folder))
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the fit
        before = memory("VmRSS")
        start = time.perf_counter()
        fitted = fit_closed_form([graph], N_COMPONENTS, 0.5)
        found = {"fit": time.perf_counter() - start, "fit_gb": memory("VmHWM") - before}
        for name, patient in (("known", "P"), ("new", "Q")):
            graph.patient = patient
            start = time.perf_counter()
            fitted.form(graph)
            found[name] = time.perf_counter() - start
    return found


def main() -> None:
    """Measure in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 100_000, 1_000_000], help="numbers of spots")
    parser.add_argument("--threads", type=int, default=1, help="number of threads")
    parser.add_argument("--most-before", type=int, default=20_000, help="most spots for the earlier checkout")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    builds = {"after": Path(__file__).resolve().parents[1]}
    if options.before:
        builds = {"before": options.before.resolve(), **builds}
    print("| spots | build | fit, s | fit, GB beyond the data | predict known, s | predict new, s |")
    print("| ---: | --- " + "| ---: " * 4 + "|")
    for n_spots in options.sizes:
        for name, checkout in builds.items():
            if name == "before" and n_spots > options.most_before:
                continue
            found = in_process(__file__, checkout, n_spots, options.threads, threads=options.threads)
            cells = [f"{found[key]:.2f}" for key in ("fit", "fit_gb", "known", "new")]
            print("| " + " | ".join([str(n_spots), name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
