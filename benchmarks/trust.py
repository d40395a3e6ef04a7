"""Check what a prediction says of itself against sections that its model never saw.

    python benchmarks/trust.py --data DIR [--cache DIR] [--only NAME ...] [--tiny]

``DIR`` holds ``her2st/`` (the repository almaan/her2st) and ``gene_panels/her_hvg_cut_1000.txt``. The default model is
trained on each split of ``her2st_mini``, on a single section, and on synthetic tissue. On the test sections it measures

- how much lies within the intervals of 50, 80 and 90 %, over all genes and spots,
- how many of the genes that are called reliable have a positive r given depth (log of all counts), and of the others,
- the share of false calls of high and low spots at a stated rate of 10 %,
- the gain in mean r of the mean of the folds' models over the final one.

Nothing of a test section reaches the model. Tables go to ``benchmarks/results/trust``.
"""

from __future__ import annotations

import argparse
import logging
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

import nh2st_graph as ng
from nh2st_graph.confidence import OF_KNOWN
from nh2st_graph.config import Config, load_config
from nh2st_graph.metrics import partial_pearson, pearson
from nh2st_graph.section import Key, library_size, targets
from nh2st_graph.train import FittedModel, image_only, predict_graph

HERE = Path(__file__).resolve().parent
PATIENT_C = ("C3", "C4", "C5", "C6")
LEVELS = (0.5, 0.8, 0.9)
RATE = 0.1


class Split(NamedTuple):
    """Training and test sections, and what the split asks."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    kind: str


WITHIN, ONE, ACROSS = "within a patient", "within a patient, one training section", "to another patient"
SPLITS = {
    **{f"C without {test}": Split(tuple(c for c in PATIENT_C if c != test), (test,), WITHIN) for test in PATIENT_C},
    "C3 alone": Split(("C3",), ("C4", "C5", "C6"), ONE),
    "C to B": Split(PATIENT_C, ("B4",), ACROSS),
    "B to C": Split(("B4",), PATIENT_C, ACROSS),
}
SYNTHETIC = {f"synthetic {seed}": seed for seed in range(3)}


def her2st(data: Path, cached: Path | None, tiny: bool) -> tuple[Mapping[str, AnnData], Config]:
    """Read the sections and the configuration of ``her2st_mini`` with the published panel."""
    config = load_config(HERE.parent / "configs" / "her2st_mini.yaml").change(
        {
            "data.panel": str(data / "gene_panels" / "her_hvg_cut_1000.txt"),
            "features.cache": None if cached is None else str(cached),
            "train.progress": False,
            **({"train.max_epochs": 2} if tiny else {}),
        }
    )
    return ng.read.sections("her2st", data / "her2st", ("B4", *PATIENT_C)), config


def synthetic(seed: int, folder: Path, tiny: bool) -> tuple[Mapping[str, AnnData], Config]:
    """Make synthetic tissue, and the configuration of the demo."""
    config = load_config(HERE.parent / "configs" / "demo.yaml").change(
        {"train.progress": False, "features.cache": str(folder / "cache"), **({"train.max_epochs": 2} if tiny else {})}
    )
    made = ng.datasets.synthetic_tissue(4, seed, folder=folder, n_interaction=20)
    return made, config


def measure(name: str, split: Split, sections: Mapping[str, AnnData], config: Config) -> list[dict[str, Any]]:
    """Train on a split, and compare what predictions of its test sections say with what was measured there."""
    model = ng.tl.fit({each: sections[each] for each in split.train}, config)
    return [{"split": name, "kind": split.kind, **compare(model, sections[each], each)} for each in split.test]


def compare(model: FittedModel, section: AnnData, name: str) -> dict[str, Any]:
    """Compare one test section; genes that training barely measured are left out."""
    observed = targets(section, model.genes, **model.config.data.target)
    prediction = ng.tl.predict(section, model)[observed.index]
    there = ~np.isnan(np.asarray(prediction.X)).any(axis=0)
    prediction, observed = prediction[:, there].copy(), observed.loc[:, there]
    truth, depth = observed.to_numpy(), np.log1p(library_size(section))
    row: dict[str, Any] = {"section": name, "genes": int(there.sum())}
    prepared = model.preparation.prepare(section)
    assert model.confidence is not None
    evidence = model.confidence.of(prediction.uns["nh2st_prediction"]["evidence"])
    calibration, about = evidence.calibration, evidence.coverage(0.9)
    row |= {"unit": about.unit, "n_units": about.n_units, "guaranteed": about.guaranteed}
    everything = np.full((len(observed), len(model.genes)), np.nan, dtype=np.float32)
    everything[:, there] = prediction.X
    for level in LEVELS:
        low, high = (side[:, there] for side in calibration.intervals(np.nan_to_num(everything), level))
        inside = (truth >= low) & (truth <= high)
        row |= {f"coverage {level}": inside.mean(), f"width {level}": (high - low).mean()}
        row |= {f"lowest {level}": np.quantile(inside.mean(axis=0), 0.05)}
    r = partial_pearson(prediction.X, truth, depth)
    for label, column in (("reliable", prediction.var[Key.var.reliable]), ("within", within(model)[there])):
        chosen = np.asarray(column, dtype=bool)
        row |= {label: int(chosen.sum()), f"{label}, positive": share(r[chosen] > 0), f"{label}, r": share(r[chosen])}
        row |= {f"not {label}, positive": share(r[~chosen] > 0), f"not {label}, r": share(r[~chosen])}
    row |= calls(prediction, truth)
    graph = image_only(prepared.graph)
    spread = [predict_graph(each, graph) for each in model.folds]
    order = prepared.section.obs_names.get_indexer(observed.index)
    mean = np.mean(spread, axis=0)[order][:, there]
    row["mean of folds"] = pearson(mean, truth).mean() - pearson(prediction.X, truth).mean()
    return row


def within(model: FittedModel) -> np.ndarray:
    """Say which genes are reliable for slides of training patients, whatever the test section's."""
    assert model.confidence is not None
    return model.confidence.of(OF_KNOWN).genes[Key.var.reliable].to_numpy(dtype=bool)


def share(values: np.ndarray) -> float:
    """Average what there is."""
    return float(np.mean(values)) if len(values) else float("nan")


def calls(prediction: AnnData, truth: np.ndarray) -> dict[str, Any]:
    """Call each gene's high and low spots, and count the false ones: none where none is called."""
    logging.getLogger("nh2st_graph").setLevel(logging.ERROR)
    cuts = prediction.var[Key.var.cut].to_numpy()
    false: dict[str, list[float]] = {"high": [], "low": []}
    spots: dict[str, list[int]] = {"high": [], "low": []}
    for place, gene in enumerate(prediction.var_names):
        word = ng.tl.call(prediction, gene, RATE, unreliable=True).to_numpy()
        for side, wrong in (("high", truth[:, place] <= cuts[place]), ("low", truth[:, place] >= cuts[place])):
            chosen = word == side
            spots[side].append(int(chosen.sum()))
            false[side].append(float(wrong[chosen].mean()) if chosen.any() else 0.0)
    found: dict[str, Any] = {}
    for side in false:
        found |= {f"false {side}": np.mean(false[side]), f"called {side}": np.mean(spots[side])}
        found |= {f"genes called {side}": int(np.sum(np.asarray(spots[side]) > 0))}
    return found


def as_text(rows: pd.DataFrame) -> str:
    """Write the tables."""
    lines = [
        "# What predictions say of themselves, against sections that their models never saw",
        "",
        f"By `python benchmarks/trust.py`, Python {platform.python_version()}, seed 0. Panel of 785 genes (70 on "
        "synthetic tissue), not smoothed. Genes that were detected in fewer than ten training spots are NaN, and left "
        "out.",
        "",
        "## Intervals: share of measured values within, over all genes and spots",
        "",
        "Aim: 0.87 to 0.95 at 0.9. *Lowest*: the gene at the 5th percentile. *Guaranteed*: what so few units alone "
        "guarantee in another of their kind; sections of one patient guarantee nothing in another patient, nor bands "
        "of one section in another section.",
        "",
        "| split | test | units | 0.5 | 0.8 | **0.9** | lowest | width | guaranteed |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows.to_dict("records"):
        covered = [f"{row[f'coverage {level}']:.3f}" for level in LEVELS]
        lines.append(
            f"| {row['split']} ({row['kind']}) | {row['section']} | {row['n_units']} {row['unit']}s | {covered[0]} | "
            f"{covered[1]} | **{covered[2]}** | {row['lowest 0.9']:.2f} | {row['width 0.9']:.2f} | "
            f"{row['guaranteed']:.2f} |"
        )
    lines += [
        "",
        "## Reliable genes: share with a positive r given depth on the test section",
        "",
        "Aim: 0.90. *For its own patient* is the verdict for slides of training patients; to another patient, it is "
        "shown to say how little it would hold there.",
        "",
        "| split | test | reliable | positive | others positive | r of reliable | r of others | for its own patient | "
        "positive |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows.to_dict("records"):
        cells = [_number(row[key]) for key in ("reliable, positive", "not reliable, positive")]
        cells += [_number(row[key]) for key in ("reliable, r", "not reliable, r")]
        lines.append(
            f"| {row['split']} ({row['kind']}) | {row['section']} | {row['reliable']} | {' | '.join(cells)} | "
            f"{row['within']} | {_number(row['within, positive'])} |"
        )
    lines += [
        "",
        f"## Calls of high and low spots at a rate of {RATE}",
        "",
        "Share of false calls, averaged over all genes (none where none is called), reliable or not "
        "(`unreliable=True`).",
        "",
        "| split | test | false high | genes | spots a gene | false low | genes | spots a gene | mean of folds, r |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows.to_dict("records"):
        cells = [
            f"{row[f'false {side}']:.3f} | {row[f'genes called {side}']} | {row[f'called {side}']:.1f}"
            for side in ("high", "low")
        ]
        lines.append(
            f"| {row['split']} ({row['kind']}) | {row['section']} | {' | '.join(cells)} | {row['mean of folds']:+.4f} |"
        )
    lines += ["", "*Mean of folds*: mean r of the mean of the folds' models, less that of the final model.", ""]
    return "\n".join(lines)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def main() -> None:
    """Run all splits, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st and gene_panels")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "trust", help="folder of the tables")
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*SPLITS, *SYNTHETIC], help="some splits")
    parser.add_argument("--tiny", action="store_true", help="two epochs, to try the script")
    options = parser.parse_args()
    logging.getLogger("nh2st_graph").setLevel(logging.ERROR)
    wanted, rows = options.only or [*SPLITS, *SYNTHETIC], []
    real = her2st(options.data, options.cache, options.tiny) if any(name in SPLITS for name in wanted) else None
    for name in wanted:
        if name in SPLITS:
            assert real is not None
            rows += measure(name, SPLITS[name], *real)
        else:
            with tempfile.TemporaryDirectory() as folder:
                made = synthetic(SYNTHETIC[name], Path(folder), options.tiny)
                rows += measure(name, Split(("S1", "S2", "S3"), ("S4",), "synthetic tissue"), *made)
        print(name, flush=True)
    table = pd.DataFrame(rows)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "trust.md").write_text(as_text(table), encoding="utf-8")
    table.to_csv(options.results / "trust.csv", index=False, float_format="%.5f")
    print(as_text(table))


if __name__ == "__main__":
    main()
