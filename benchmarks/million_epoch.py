"""Measure a training epoch over the number of spots, beside an earlier checkout.

    python benchmarks/million_epoch.py --before DIR [--sizes 10000 100000 1000000] [--repeats 5] [--threads 1 2]

Each section is a square grid with eight neighbours, with 105 features a spot and a panel of 250 genes of which one in
six counts is not zero. The network has the default settings, without its closed form, and is trained as
:func:`nh2st_graph.tl.fit` trains it. The checkouts take turns, each measurement in a process of its own, of the second
epoch there. Of a section whose first epoch takes longer than ``--seconds``, steps from the 20th on are timed for as
long, and an epoch is its number of steps times their mean, with the time to draw and sort the batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from turns import in_process

N_FEATURES, N_GENES, WARM = 105, 250, 20


def section(n_spots: int, rows: bool) -> Any:
    """Make a graph; with ``rows``, values as a large section of this version holds them."""
    import numpy as np
    import torch
    from scipy import sparse
    from torch_geometric.data import Data

    side = round(n_spots**0.5)
    rng = np.random.default_rng(0)
    y, x = np.divmod(np.arange(side * side), side)
    steps = np.array([(i, j) for j in (-1, 0, 1) for i in (-1, 0, 1) if (i, j) != (0, 0)])
    to_x, to_y = x[:, None] + steps[:, 0], y[:, None] + steps[:, 1]
    there = (to_x >= 0) & (to_x < side) & (to_y >= 0) & (to_y < side)
    receiver = np.repeat(np.arange(side * side), there.sum(axis=1))
    sender = (to_y * side + to_x)[there]
    step = np.broadcast_to(steps, (*there.shape, 2))[there]
    length = np.linalg.norm(step, axis=1, keepdims=True)
    features = rng.normal(size=(side * side, N_FEATURES)).astype(np.float32)
    counts = sparse.random(side * side, N_GENES, 1 / 6, format="csr", dtype=np.float32, random_state=0)
    counts.data = 3 + counts.data
    values: dict[str, Any] = {"x": torch.from_numpy(features), "y": torch.from_numpy(counts.toarray())}
    if rows:
        from nh2st_graph.nn import LARGE, Rows

        if side * side >= LARGE:
            values = {"x": Rows(features), "y": Rows(counts)}
    return Data(
        **values,
        library=torch.full((side * side, 1), 1000.0),
        pos=torch.from_numpy(np.stack([x, y], axis=1).astype(np.float32)),
        edge_index=torch.from_numpy(np.stack([sender, receiver])),
        edge_attr=torch.from_numpy(np.hstack([length, step / length]).astype(np.float32)),
        section="S",
        num_nodes=side * side,
    )


def measure(n_spots: int, threads: int, seconds: float) -> dict[str, float]:
    """Time the steps of an epoch in this process."""
    import lightning.pytorch as L
    import torch

    import nh2st_graph.nn
    from nh2st_graph.config import Config
    from nh2st_graph.models import NH2STGraph
    from nh2st_graph.train._module import Averaging, SectionData, TrainingModule

    torch.set_num_threads(threads)
    graph = section(n_spots, hasattr(nh2st_graph.nn, "Rows"))
    config = Config()
    torch.manual_seed(0)
    model = NH2STGraph(config.model.model_copy(update={"closed_form": False}), N_FEATURES, N_GENES)
    model.set_targets(torch.from_numpy(graph.y.source[:20000].toarray()) if rows_in(graph) else graph.y[:20000])

    class Clock(L.Callback):
        begun = ready = 0.0
        times: list[float] = []  # noqa: RUF012

        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            # The first epoch of a process also loads and compiles; if it ends in time, the second one counts.
            self.times.clear()
            self.begun = time.perf_counter()

        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            self.times.append(time.perf_counter())
            trainer.should_stop = self.times[-1] - self.begun > seconds

    clock = Clock()
    trainer = L.Trainer(
        max_epochs=2,
        min_epochs=0,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[Averaging(config.train.ema_decay), clock],
        logger=False,
        accelerator="cpu",
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = SectionData([graph], [], config.train.batch_spots, model.receptive_hops, 0)
    start = time.perf_counter()
    trainer.fit(TrainingModule(model, config.train, 0), datamodule=data)
    steps = len(data.train_dataloader())
    warm = min(WARM, len(clock.times) // 2)
    step = (clock.times[-1] - clock.times[warm]) / (len(clock.times) - 1 - warm)
    first = clock.times[0] - clock.begun
    return {"epoch": step * steps + first, "step_ms": 1e3 * step, "steps": steps, "start": clock.begun - start}


def rows_in(graph: Any) -> bool:
    """Whether a graph has the values of a large section."""
    return not hasattr(graph.y, "numpy")


def main() -> None:
    """Measure in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of spots")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds to time steps for")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(int(options.one[0]), int(options.one[1]), float(options.one[2]))))
        return
    here = Path(__file__).resolve().parents[1]
    builds = {"after": here} | ({"before": options.before.resolve()} if options.before else {})
    print("| spots | threads | build | epoch, s | step, ms | steps | times as fast |\n| --- " + "| ---: " * 6 + "|")
    for n_spots in options.sizes:
        for threads in options.threads:
            names = ["before", "after"] if "before" in builds and threads == 1 else ["after"]
            found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for _ in range(options.repeats):
                for name in names:
                    found[name].append(
                        in_process(__file__, builds[name], n_spots, threads, options.seconds, threads=threads)
                    )
            median = {name: statistics.median(each["epoch"] for each in values) for name, values in found.items()}
            for name, values in found.items():
                step = statistics.median(each["step_ms"] for each in values)
                ratio = f"{median['before'] / median[name]:.1f}" if "before" in median else ""
                cells = n_spots, threads, name, f"{median[name]:.2f}", f"{step:.2f}", values[0]["steps"], ratio
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
