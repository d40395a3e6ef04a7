"""Compare batches of spots from anywhere with batches that are pieces of tissue, on the splits of ``her2st_mini``.

    python benchmarks/pieces.py --data DIR [--cache DIR] [--seeds 3]

Large sections are trained on in pieces. Those of ``her2st_mini`` are small, so that both kinds of batches can be tried
on them, with 128 spots each. The network is trained alone (``model.closed_form: false``) on handcrafted features; all
else is as in ``benchmarks/accuracy.py``, whose splits these are.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import HANDCRAFTED, HEADINGS, HERE, SPLITS, expression, on, sections

import nh2st_graph as ng
from nh2st_graph.config import load_config
from nh2st_graph.metrics import partial_pearson, pearson
from nh2st_graph.section import panel_counts, targets
from nh2st_graph.train import _module
from nh2st_graph.train._batches import SpotBatches


class InPieces(SpotBatches):
    """Batches of any section in pieces."""

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings, large=1)  # type: ignore[arg-type]


KINDS = {"from anywhere": SpotBatches, "pieces": InPieces}


def main() -> None:
    """Train and score both kinds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st and gene_panels")
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.getLogger("nh2st_graph").setLevel(logging.ERROR)
    there, rows = sections(options.data), []
    base = load_config(HERE.parent / "configs" / "her2st_mini.yaml").change(
        {
            "data.train": [],
            "data.test": [],
            "data.panel": str(options.data / "gene_panels" / "her_hvg_cut_1000.txt"),
            "features.cache": None if options.cache is None else str(options.cache),
            "train.progress": False,
            "train.batch_spots": 128,
            **on(HANDCRAFTED, closed_form=False),
        }
    )
    for seed in range(options.seeds):
        for split, pairs in SPLITS.items():
            for train, tests in pairs:
                for kind, batches in KINDS.items():
                    _module.SpotBatches = batches  # type: ignore[misc]
                    model = ng.tl.fit({name: there[name] for name in train}, base.change({"seed": seed}))
                    for name in tests:
                        observed = targets(there[name], model.genes, normalize="panel")
                        predicted = expression(model, there[name]).loc[observed.index, observed.columns]
                        depth = np.log1p(panel_counts(there[name], model.genes).to_numpy().sum(axis=1))
                        scores = pearson(predicted, observed).mean(), partial_pearson(predicted, observed, depth).mean()
                        rows.append((kind, split, seed, name, *scores))
                        print(*rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=["batches", "split", "seed", "section", "r", "given depth"])
    seeds = table.groupby(["batches", "split", "seed"])[["r", "given depth"]].mean()
    print("\n| batches | split | r | by seed | given panel depth | by seed |\n| --- | --- | ---: | --- | ---: | --- |")
    for kind in KINDS:
        for split in SPLITS:
            own = seeds.loc[kind, split]
            cells = [
                text for name in own for text in (f"{own[name].mean():.4f}", ", ".join(own[name].map("{:.4f}".format)))
            ]
            print(f"| {kind} | {HEADINGS[split]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
