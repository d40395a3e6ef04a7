"""Does another stain tell which penalty another patient needs? Held-out r by penalty, as scanned and in other stains.

    python benchmarks/stain_shift.py --data DIR --out benchmarks/results/accuracy/stain_shift.md [--cache DIR]

``DIR`` holds ``her2st/`` (the repository almaan/her2st) and ``gene_panels/her_hvg_cut_1000.txt``. For each training
side of the splits between the two patients, ridge regressions into 8 components are fitted without one section, or
without one band of B4, which is alone. They read handcrafted features at three scales, and are scored on what was held
out: as it is, and in six drawn stains. The best penalty by such validation stands beside the r that each penalty has on
the other patient, which no choice may see: the question is whether the first could have found the second.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from torch_geometric.data import Data

import nh2st_graph as ng
from nh2st_graph.config import load_config
from nh2st_graph.metrics import pearson
from nh2st_graph.models._closed_form import described_spots
from nh2st_graph.nn import Description, RidgeSpots, fit_component_ridge
from nh2st_graph.train import Preparation

HERE = Path(__file__).resolve().parent
PATIENT_C = ("C3", "C4", "C5", "C6")
SIDES = {"C to B": (PATIENT_C, ("B4",)), "B to C": (("B4",), PATIENT_C)}
KERNELS = {"linear": 0.0, "Gaussian, 0.05": 0.05, "Gaussian, 0.2": 0.2}
PENALTIES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
VIEWS = 6


def score(train: RidgeSpots, tests: Sequence[tuple[Tensor, Tensor]], sharpness: float, penalty: float) -> list[float]:
    """Fit one ridge regression; give the mean r of each test, a pair of descriptions and targets."""
    fit = fit_component_ridge(train, sharpness=[sharpness], n_components=[8], penalties=[penalty], by_component=False)
    return [float(np.mean(pearson(fit.ridge(described).numpy(), y.numpy()))) for described, y in tests]


def measure(train: Sequence[Data], tests: Sequence[Data], sharpness: float) -> dict[str, list[float]]:
    """Give r for every penalty: held out as it is, in other stains, and on the other patient."""
    describe = Description.fit([each.x for each in train])
    joined = described_spots(describe, train)  # the sections as they are, and then each of their views
    n_spots = sum(len(each.y) for each in train)
    own, *views = joined.described.split(n_spots)
    spots = RidgeSpots(*(part[:n_spots] for part in joined))
    y, folds = spots.targets, spots.folds
    others = [(describe(each.x, each.edge_index), each.y.double()) for each in tests]
    found: dict[str, list[float]] = {"held out": [], "held out, other stain": [], "other patient": []}
    for penalty in PENALTIES:
        rows = []
        for fold in folds.unique():
            out = folds == fold
            kept = RidgeSpots(*(part[~out] for part in spots))
            rows.append(score(kept, [(each[out], y[out]) for each in (own, *views)], sharpness, penalty))
        mean = np.mean(rows, axis=0)
        found["held out"].append(mean[0])
        found["held out, other stain"].append(float(mean[1:].mean()))
        found["other patient"].append(float(np.mean(score(spots, others, sharpness, penalty))))
    return found


def main() -> None:
    """Measure both sides and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st and gene_panels")
    parser.add_argument("--out", type=Path, required=True, help="the table")
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    options = parser.parse_args()
    config = load_config(HERE.parent / "configs" / "her2st_mini.yaml").change(
        {
            "data.train": [],
            "data.test": [],
            "data.panel": str(options.data / "gene_panels" / "her_hvg_cut_1000.txt"),
            "features.encoders": [["handcrafted", um] for um in (112, 224, 448)],
            "features.stain_views": VIEWS,
            "features.cache": None if options.cache is None else str(options.cache),
            "train.progress": False,
        }
    )
    sections = ng.read.sections("her2st", options.data / "her2st", ("B4", *PATIENT_C))
    lines = [
        "# Does another stain tell which penalty another patient needs?",
        "",
        "By `python benchmarks/stain_shift.py`. Mean r; the best of a row is bold. Penalties are in units of the "
        f"number of spots. Six stains of strength {config.features.stain_jitter} (HED, Reinhard, Macenko).",
        "",
        f"| training side | kernel | scored on | {' | '.join(f'{each:g}' for each in PENALTIES)} |",
        "| --- | --- | --- |" + " ---: |" * len(PENALTIES),
    ]
    for side, (train, tests) in SIDES.items():
        learned = Preparation.learn(
            config, {n: sections[n] for n in train}, {n: sections[n] for n in tests}, checked=True
        )
        graphs = [[each.measured for each in part] for part in (learned.train, learned.tests)]
        for kernel, sharpness in KERNELS.items():
            for scored, values in measure(graphs[0], graphs[1], sharpness).items():
                best = int(np.argmax(values))
                cells = [f"**{r:.4f}**" if i == best else f"{r:.4f}" for i, r in enumerate(values)]
                lines.append(f"| {side} | {kernel} | {scored} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
