"""Choose the settings of the closed form on training sections only, run by run.

    python benchmarks/choose_closed_form.py --data DIR [--cache DIR]

``DIR`` holds ``her2st/`` (the repository almaan/her2st) and ``gene_panels/her_hvg_cut_1000.txt``. For each
leave-one-section-out run of C3 to C6, the regression for training patients is fitted without one of the three training
sections, in turn, and scored on that one: the section that the run tests on is never read. Penalties are chosen inside,
on what is left. A setting may become the default if the runs agree, since each would have chosen it without its test
section. The script writes ``benchmarks/results/accuracy/choices.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data

import nh2st_graph as ng
from nh2st_graph.config import load_config
from nh2st_graph.metrics import pearson
from nh2st_graph.models._closed_form import PENALTIES, described_spots
from nh2st_graph.nn import Description, fit_component_ridge
from nh2st_graph.train import Preparation

HERE = Path(__file__).resolve().parent
SECTIONS = ("C3", "C4", "C5", "C6")

#: The candidates: what each changes.
CANDIDATES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "every spot counts alike": {"power": 0.0},
    "spots weighted by their counts": {"power": 1.0},
    "4 components": {"components": 4},
    "8 components": {"components": 8},
    "32 components": {"components": 32},
    "one penalty for all components": {"by_component": False},
    "linear": {"sharpness": [0.0]},
    "Gaussian, 0.05": {"sharpness": [0.05]},
    "Gaussian, 0.4": {"sharpness": [0.4]},
    "own features alone": {"around": False},
}


def held_out(
    train: Sequence[Data],
    test: Data,
    power: float = 0.5,
    components: int = 16,
    by_component: bool = True,
    sharpness: Sequence[float] = (0.0, 0.2),
    around: bool = True,
) -> float:
    """Fit on some sections; give the mean r over genes on another."""
    description = Description.fit([each.x for each in train], around=around)
    counts = torch.cat([each.library[:, 0] for each in train]).double()
    spots = described_spots(description, train)._replace(weights=counts**power)
    fit = fit_component_ridge(
        spots, sharpness=sharpness, n_components=[components], penalties=PENALTIES, by_component=by_component
    )
    predicted = fit.ridge(description(test.x, test.edge_index))
    return float(np.mean(pearson(predicted.numpy(), test.y.numpy())))


def main() -> None:
    """Compare the candidates and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st and gene_panels")
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    options = parser.parse_args()
    config = load_config(HERE.parent / "configs" / "her2st_mini.yaml").change(
        {
            "data.train": [],
            "data.test": [],
            "data.panel": str(options.data / "gene_panels" / "her_hvg_cut_1000.txt"),
            "features.encoders": [["handcrafted", um] for um in (112, 224, 448)],
            "features.cache": None if options.cache is None else str(options.cache),
            "train.progress": False,
        }
    )
    sections = ng.read.sections("her2st", options.data / "her2st", SECTIONS)
    graphs = {each.name: each.measured for each in Preparation.learn(config, sections, {}, checked=True).train}
    found: dict[str, list[float]] = {}
    for name, change in CANDIDATES.items():
        found[name] = []
        for test in SECTIONS:
            train = [graphs[each] for each in SECTIONS if each != test]
            scores = [held_out([g for g in train if g is not each], each, **change) for each in train]
            found[name].append(float(np.mean(scores)))
        print(name, *(f"{r:.4f}" for r in found[name]), flush=True)
    lines = [
        "# Settings of the closed form, chosen on training sections",
        "",
        "By `python benchmarks/choose_closed_form.py`. Held-out mean r within the three training sections of each run; "
        "the best of a run is bold.",
        "",
        f"| | {' | '.join(f'run that tests {each}' for each in SECTIONS)} |",
        "| --- |" + " ---: |" * len(SECTIONS),
    ]
    best = [max(column) for column in zip(*found.values(), strict=True)]
    for name, row in found.items():
        cells = [f"**{r:.4f}**" if r == top else f"{r:.4f}" for r, top in zip(row, best, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    target = HERE / "results" / "accuracy" / "choices.md"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
