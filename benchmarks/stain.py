"""Measure what stain normalisation does across patients, and on tissue that another scanner shows.

    python benchmarks/stain.py --data DIR --out benchmarks/results/stain.md

``DIR`` holds ``her2st/`` (the repository almaan/her2st) and ``gene_panels/her_hvg_cut_1000.txt``. The splits are those
of ``configs/benchmarks/her2st_mini.yaml`` between the two patients; and synthetic tissue, where a model learns from
four sections of two patients, and is tested on two of a third as the same scanner shows them, and as two others do.
Stains differ between sections there too. Each model is ridge or the network of NH2ST-Graph, on colour and texture,
without stain normalisation and with each method, whose reference comes from the training sections.
``features.standardize: section``, the default, removes each section's mean and spread of features, and so much of the
stain; ridge is also fitted with ``train``, which does not.

The table shows mean r and r given depth over genes, averaged over test sections. ``--tiny`` tries the script in a
minute or two.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

import nh2st_graph as ng
from nh2st_graph.config import load_config

HERE = Path(__file__).resolve().parent
STAINS = ("none", "reinhard", "macenko")
C = ("C3", "C4", "C5", "C6")

#: Method, and what it changes in the default settings.
MODELS: dict[str, dict[str, Any]] = {
    "ridge, z-scores of each section": {"model": {"name": "ridge"}},
    "ridge, z-scores of training": {"model": {"name": "ridge"}, "features.standardize": "train"},
    "NH2ST-Graph": {"model.closed_form": False},
}
SCANNERS = {0: "the same scanner", 1: "scanner 1", 2: "scanner 2"}

Sections = Mapping[str, AnnData]


def her2st_splits(data: Path, tiny: bool) -> Iterator[tuple[str, Sections, Sections]]:
    """Give the splits between the two patients of HER2ST."""
    names = ("B4", *C[: 1 if tiny else None])
    sections = ng.read.sections("her2st", data / "her2st", names)
    if tiny:
        sections = {name: each[:60].copy() for name, each in sections.items()}
    b, c = ({name: each for name, each in sections.items() if name[0] == patient} for patient in "BC")
    yield "HER2ST, C to B", c, b
    yield "HER2ST, B to C", b, c


def synthetic_splits(folder: Path, tiny: bool) -> Iterator[tuple[str, Sections, Sections]]:
    """Give the same test sections as each scanner shows them."""
    side = 7 if tiny else 12
    seen = {
        scanner: ng.datasets.synthetic_tissue(
            6, seed=0, folder=folder / str(scanner), n_rows=side, n_cols=side, n_noise=0, scanner=scanner
        )
        for scanner in (list(SCANNERS)[:2] if tiny else SCANNERS)
    }
    train = {name: seen[0][name] for name in ("S1", "S2", "S3", "S4")}
    for scanner, sections in seen.items():
        yield f"synthetic, {SCANNERS[scanner]}", train, {name: sections[name] for name in ("S5", "S6")}


def measure(config: ng.Config, train: Sections, tests: Sections) -> dict[str, float]:
    """Fit a model and score it; give mean r, mean r given depth, and seconds."""
    start = time.perf_counter()
    model = ng.tl.fit(train, config, test_sections=tests)
    scores = ng.tl.evaluate(tests, model, train).table().loc["model"]
    return {"r": scores["pcc_mean"], "r given depth": scores["pcc_partial"], "seconds": time.perf_counter() - start}


def main() -> None:
    """Measure all models on all splits and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st and gene_panels")
    parser.add_argument("--out", type=Path, required=True, help="the table")
    parser.add_argument("--tiny", action="store_true", help="small sections and few epochs, to try the script")
    options = parser.parse_args()
    colour = {"features.encoder": "squidpy:summary+texture+histogram", "features.patch_um": 224}
    quiet = {
        "train.progress": False,
        "evaluate.baselines": False,
        **colour,
        **({"train.max_epochs": 2} if options.tiny else {}),
    }
    panel = str(options.data / "gene_panels" / "her_hvg_cut_1000.txt")
    real = load_config(HERE.parent / "configs" / "her2st_mini.yaml").change(
        {**quiet, "data.train": [], "data.test": [], "data.panel": panel}
    )
    drawn = ng.Config().change({**quiet, "features.patch_um": 112})  # a spot's own tissue: larger patches show others'
    rows, begun = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NH2ST_GRAPH_CACHE"] = f"{folder}/cache"
        splits = [(real, *split) for split in her2st_splits(options.data, options.tiny)]
        splits += [(drawn, *split) for split in synthetic_splits(Path(folder), options.tiny)]
        for base, split, train, tests in splits:
            for name, change in MODELS.items():
                for stain in STAINS:
                    found = measure(base.change({**change, "features.stain": stain}), train, tests)
                    rows.append({"split": split, "model": name, "stain": stain, **found})
                    print(*rows[-1].values(), sep="\t", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(as_text(pd.DataFrame(rows), time.perf_counter() - begun, options.tiny), encoding="utf-8")


def as_text(scores: pd.DataFrame, seconds: float, tiny: bool) -> str:
    """Write the scores as a table: a row for each split and model, a column for each way to bring colours together."""
    lines = [
        "# Stain normalisation across patients and scanners",
        "",
        f"Mean r (r given depth). By `python benchmarks/stain.py`{' --tiny: no result' if tiny else ''} in "
        f"{seconds / 60:.0f} minutes, with Python {platform.python_version()} on {os.cpu_count()} cores. "
        "One seed; the best of a row is bold.",
        "",
        f"| split | model | {' | '.join(STAINS)} |",
        "| --- | --- |" + " ---: |" * len(STAINS),
    ]
    for (split, model), part in scores.groupby(["split", "model"], sort=False):
        by_stain = part.set_index("stain")
        best = by_stain["r"].idxmax()
        cells = []
        for stain in STAINS:
            r, given_depth = by_stain.loc[stain, ["r", "r given depth"]]
            cells.append(f"**{r:.3f}** ({given_depth:.3f})" if stain == best else f"{r:.3f} ({given_depth:.3f})")
        lines.append(f"| {split} | {model} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
