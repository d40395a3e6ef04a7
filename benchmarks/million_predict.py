"""Measure the prediction of a large section from its features, beside an earlier checkout.

    python benchmarks/million_predict.py --before DIR [--size 1000000] [--repeats 5]

The section is that of ``benchmarks/million_epoch.py``: a grid with eight neighbours, 105 features a spot, 250 genes.
The model has the default settings; its closed form was fitted to 4,096 spots, and all of the network's correction is
added. Three predictions are measured: by the network alone, of a new patient, and of a training patient, whose
regression compares with 2,000 spots. Memory is the largest resident set during the prediction, above that before it,
and holds the result, 1 GB for a million spots. Each measurement is a process of its own. The checkouts take turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import threading
import time
from pathlib import Path

from million_epoch import N_FEATURES, N_GENES, section
from turns import in_process

KINDS = ("network alone", "new patient", "training patient")


def measure(n_spots: int, kind: str, threads: int) -> dict[str, float]:
    """Predict once in this process."""
    import copy

    import psutil
    import torch

    import nh2st_graph.nn
    from nh2st_graph.config import Config
    from nh2st_graph.models import NH2STGraph
    from nh2st_graph.train import image_only

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    settings = Config().model.model_copy(update={"closed_form": kind != "network alone"})
    model, small = NH2STGraph(settings, N_FEATURES, N_GENES), section(4096, False)
    small.patient = "Ada"
    model.prepare([small])
    model.memory |= {"correction": torch.ones(2)} if kind != "network alone" else {}
    model.eval()
    rows = hasattr(nh2st_graph.nn, "Rows")
    graph = image_only(section(n_spots, rows))
    graph.patient = "Ada" if kind == "training patient" else "Eve"
    with torch.no_grad():
        model.predict(image_only(copy.copy(small)))
    process, most, done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    with torch.no_grad():
        if rows:
            from nh2st_graph.train import predict_section

            torch.set_num_threads(1)
            predict_section(model, graph, threads=threads)
        else:
            model.predict(graph)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "above": (most[0] - before) / 1e9, "peak": peak / 1e9}


def main() -> None:
    """Measure in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(int(options.one[0]), options.one[1], int(options.one[2]))))
        return
    builds = {"before": options.before.resolve()} if options.before else {}
    builds["after"] = Path(__file__).resolve().parents[1]
    print(f"{options.size:,} spots, {options.threads} threads, medians of {options.repeats}\n")
    print("| prediction | build | s | memory above, GB | times as fast |\n| --- | --- | ---: | ---: | ---: |")
    for kind in options.kinds:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
        for _ in range(options.repeats):
            for name, checkout in builds.items():
                found[name].append(
                    in_process(__file__, checkout, options.size, kind, options.threads, threads=options.threads)
                )
        median = {
            name: {what: statistics.median(each[what] for each in values) for what in values[0]}
            for name, values in found.items()
        }
        for name, values in median.items():
            ratio = f"{median['before']['seconds'] / values['seconds']:.1f}" if "before" in median else ""
            print(f"| {kind} | {name} | {values['seconds']:.1f} | {values['above']:.2f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
