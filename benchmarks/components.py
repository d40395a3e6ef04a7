"""Measure the components of expression over the number of spots, beside an earlier checkout.

    python benchmarks/components.py --before DIR [--sizes 10000 100000 1000000] [--repeats 3] [--threads 1]

Targets are logarithms of sparse counts of 250 genes, of which one in six is not zero and which follow a few programmes.
The earlier checkout decomposes all spots by their singular values; this one does so below 50,000 spots, and beyond sums
the Gram matrix over blocks of spots, of a tensor or of the rows of a sparse matrix. The checkouts take turns, each
measurement in a process of its own. Memory is the peak beyond the targets. The error is the largest number in the
difference of the projectors on the components, against those of the earlier checkout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from turns import in_process

N_GENES, N_COMPONENTS = 250, 8


def targets(n_spots: int) -> Any:
    """Make a sparse matrix of targets, float32."""
    import numpy as np
    from scipy import sparse

    rng = np.random.default_rng(0)
    programmes = rng.normal(size=(10, N_GENES)) * 1.5 ** -np.arange(10)[:, None]
    parts = []
    for start in range(0, n_spots, 50_000):
        rate = np.exp(rng.normal(size=(min(50_000, n_spots - start), 10)) @ programmes * 0.5 - 2.2)
        parts.append(sparse.csr_matrix(np.log1p(40 * rng.poisson(rate)).astype(np.float32)))
    return sparse.vstack(parts, format="csr")


def memory(kind: str) -> float:
    """Give the memory that this process holds (``VmRSS``) or has held at most (``VmHWM``), GB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(lines[kind].split()[0]) / 1e6


def measure(n_spots: int, threads: int, kind: str, out: Path) -> dict[str, float]:
    """Find the components in this process, and write their loadings."""
    import numpy as np
    import torch

    from nh2st_graph.nn import ComponentDecoder

    torch.set_num_threads(threads)
    values: Any = targets(n_spots)
    if kind == "sparse":
        from nh2st_graph.nn import Rows

        values = Rows(values)
    else:
        values = torch.from_numpy(values.toarray())
    decoder = ComponentDecoder(8, 1, N_GENES, N_COMPONENTS)
    decoder.set_targets(values[:500])  # libraries load at their first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the components
    before, start = memory("VmRSS"), time.perf_counter()
    decoder.set_targets(values)
    found = {"seconds": time.perf_counter() - start, "memory": memory("VmHWM") - before}
    np.save(out, decoder.loadings.numpy())
    return found


def main() -> None:
    """Measure in turns, and print the table."""
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of spots")
    parser.add_argument("--threads", type=int, default=1, help="number of threads")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        n_spots, threads, kind, out = options.one
        print(json.dumps(measure(int(n_spots), int(threads), kind, Path(out))))
        return
    here = Path(__file__).resolve().parents[1]
    builds = {"after, dense": (here, "dense"), "after, sparse": (here, "sparse")}
    if options.before:
        builds = {"before": (options.before.resolve(), "dense"), **builds}
    print("| spots | build | s | times as fast | GB beyond the targets | error of the projector |")
    print("| ---: | --- " + "| ---: " * 4 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for n_spots in options.sizes:
            found: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
            projectors = {}
            for _ in range(options.repeats):
                for name, (checkout, kind) in builds.items():
                    out = Path(folder) / "loadings.npy"
                    found[name].append(
                        in_process(__file__, checkout, n_spots, options.threads, kind, out, threads=options.threads)
                    )
                    loadings = np.load(out).astype(np.float64)
                    projectors[name] = loadings.T @ loadings
            first = next(iter(builds))
            seconds = {name: statistics.median(each["seconds"] for each in values) for name, values in found.items()}
            for name, values in found.items():
                error = np.abs(projectors[name] - projectors[first]).max()
                held = max(each["memory"] for each in values)
                ratio = f"{seconds[first] / seconds[name]:.1f}"
                cells = [str(n_spots), name, f"{seconds[name]:.3f}", ratio, f"{held:.2f}", f"{error:.0e}"]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
