"""Fill in sections of which some spots or genes are measured, and adapt a model to another patient.

    python benchmarks/imputation.py --data DIR --models FOLDER [--cache DIR] [--tiny]

``DIR`` holds ``her2st/`` (the repository almaan/her2st) and ``gene_panels/her_hvg_cut_1000.txt``. Each of C3 to C6 is
filled in by a model of the other three, and B4 by a model of these four, with 10, 25 and 50 % of its spots measured, at
random, with each seed of :data:`SEEDS`. Scores are of the other spots, and of the genes that training measured well
enough for a model to predict. Rivals read what is measured of this section:

- **neighbour means**: of the measured spots within 1.5 pitches, or the next ring that has any;
- **kNN**: the nearest measured spots, as many as leave the smallest squared error when each is left out;
- **kriging**: the 16 leading components of the measured spots, each by a Gaussian process of scikit-learn (Matern 3/2
  and noise, by marginal likelihood).

Nothing here was chosen on the spots or genes that are scored: each model chooses all of it by masks of its own training
sections. ``FOLDER`` keeps the models; with them, the script takes a minute of one core. It writes
``benchmarks/results/trust/imputation.md`` and ``imputation.csv``, and prints the former.
"""

from __future__ import annotations

import argparse
import logging
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

import nh2st_graph as ng
from nh2st_graph.config import Config, load_config
from nh2st_graph.metrics import paired_bootstrap, partial_pearson, pearson
from nh2st_graph.section import panel_counts, spot_pitch, targets
from nh2st_graph.tl import FittedModel
from nh2st_graph.train import pieces

HERE = Path(__file__).resolve().parent
PATIENT_C = ("C3", "C4", "C5", "C6")
SHARES, SEEDS, GENES = (0.1, 0.25, 0.5), (0, 1, 2), (20, 100, 400)
RIVALS = ("neighbour means", "kNN", "kriging")
IMAGE, IMPUTED = "image alone", "NH2ST-Graph, imputed"
LOSO, OTHER = "C3 to C6, each from the other three", "C to B"

Floats = NDArray[np.float64]


def neighbour_means(values: Floats, pos: Floats, measured: NDArray[np.bool_]) -> Floats:
    """Average measured spots within 1.5 pitches, or within the next radius that has any."""
    away = np.linalg.norm(pos[:, None] - pos[measured], axis=2)
    radius = np.maximum(1.5, np.ceil(away.min(axis=1) - 0.5) + 0.5)
    near = away <= radius[:, None]
    return (near / near.sum(axis=1, keepdims=True)) @ values[measured]


def nearest(values: Floats, pos: Floats, measured: NDArray[np.bool_]) -> Floats:
    """Average the nearest measured spots, as many as suit these best when each is left out."""
    known, there = values[measured], pos[measured]
    between = np.linalg.norm(there[:, None] - there, axis=2)
    np.fill_diagonal(between, np.inf)
    order = np.argsort(between, axis=1, kind="stable")
    choices = [k for k in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if k < len(known)]
    k = min(choices, key=lambda k: float(np.square(known[order[:, :k]].mean(axis=1) - known).sum()))
    away = np.linalg.norm(pos[:, None] - there, axis=2)
    return known[np.argsort(away, axis=1, kind="stable")[:, :k]].mean(axis=1)


def kriging(values: Floats, pos: Floats, measured: NDArray[np.bool_], n_components: int = 16) -> Floats:
    """Predict the leading components of measured spots by a Gaussian process over positions each."""
    known = values[measured]
    left, singular, basis = np.linalg.svd(known - known.mean(axis=0), full_matrices=False)
    k = min(n_components, len(known) - 1)
    scores, filled = left[:, :k] * singular[:k], np.zeros((len(values), k))
    for i in range(k):
        kernel = ConstantKernel(0.5, (1e-3, 10)) * Matern(3, (0.5, 30), nu=1.5) + WhiteKernel(0.5, (1e-3, 10))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            process = GaussianProcessRegressor(kernel, normalize_y=True).fit(pos[measured], scores[:, i])
        filled[:, i] = process.predict(pos)
    return np.asarray(known.mean(axis=0) + filled @ basis[:k])


def fitted(
    config: Config, sections: dict[str, AnnData], train: tuple[str, ...], folder: Path, cache: Path | None
) -> FittedModel:
    """Load the model of some sections, or train and keep it."""
    place = folder / "-".join(train)
    if not (place / "model.json").is_file():
        ng.tl.fit({name: sections[name] for name in train}, config).save(place)
    return ng.load(place, cache=cache)


def rows(
    split: str, section: str, kind: str, share: float, seed: int, method: str, scored: tuple[Floats, Floats, Floats]
) -> pd.DataFrame:
    """Score a prediction: r of each gene, and given the log of the panel's counts; NaN of a gene without variance.

    A gene whose observed values are NaN is left out, too.
    """
    predicted, observed, depth = scored
    varies = observed.std(axis=0) > 0
    scores = {"r": pearson(predicted, observed), "given depth": partial_pearson(predicted, observed, depth)}
    about = {"split": split, "section": section, "kind": kind, "share": share, "seed": seed, "method": method}
    return pd.DataFrame({name: np.where(varies, each, np.nan) for name, each in scores.items()}).assign(
        **about, gene=np.arange(len(varies)), mse=np.square(predicted - observed).mean(axis=0)
    )


def of_spots(split: str, name: str, section: AnnData, model: FittedModel) -> Iterator[pd.DataFrame]:
    """Score all methods with some spots measured, and imputation with some genes measured."""
    observed = targets(section, model.genes, **model.config.data.target).to_numpy()
    depth = np.log1p(panel_counts(section, model.genes).to_numpy().sum(axis=1))
    pos = section.obsm["spatial"] / spot_pitch(section)
    image = ng.tl.predict(section, model).X.astype(np.float64)
    # Genes that training barely measured are predicted by no model, and count for no method.
    truth = np.where(np.isnan(image).any(axis=0), np.nan, observed)
    for share in SHARES:
        for seed in SEEDS:
            order = np.random.default_rng(seed).permutation(section.n_obs)
            measured = order < round(share * section.n_obs)
            found = {
                "neighbour means": neighbour_means(observed, pos, measured),
                "kNN": nearest(observed, pos, measured),
                "kriging": kriging(observed, pos, measured),
                IMAGE: image,
                IMPUTED: ng.tl.impute(section, model, measured=measured).X.astype(np.float64),
            }
            left = ~measured
            for method, filled in found.items():
                scored = filled[left], truth[left], depth[left]
                yield rows(split, name, "spots", share, seed, method, scored)
    for number in GENES:
        for seed in SEEDS:
            given = np.random.default_rng(seed).permutation(len(model.genes)) < number
            genes = list(np.array(model.genes)[given])
            filled = ng.tl.impute(section, model, measured=genes).X.astype(np.float64)
            for method, each in {IMAGE: image, IMPUTED: filled}.items():
                scored = each[:, ~given], truth[:, ~given], depth
                found = rows(split, name, "genes", number, seed, method, scored)
                yield found.assign(gene=np.flatnonzero(~given))


def of_halves(name: str, section: AnnData, model: FittedModel, told: list[dict[str, Any]]) -> Iterator[pd.DataFrame]:
    """Adapt on half of the blocks of a section, and score on the others, without and with their measured neighbours."""
    observed = targets(section, model.genes, **model.config.data.target).to_numpy()
    depth = np.log1p(panel_counts(section, model.genes).to_numpy().sum(axis=1))
    image = ng.tl.predict(section, model).X.astype(np.float64)
    # Genes that training barely measured are predicted by no model, and count for no method.
    truth = np.where(np.isnan(image).any(axis=0), np.nan, observed)
    blocks = pieces(torch.from_numpy(section.obsm["spatial"]), 8)
    for seed in SEEDS:
        measured = np.zeros(section.n_obs, dtype=bool)
        for block in np.random.default_rng(seed).permutation(8)[:4]:
            measured[blocks[block].numpy()] = True
        adapted = ng.tl.adapt(section, model, measured=measured)
        found = {
            IMAGE: image,
            "adapted on one half": ng.tl.predict(section, adapted).X,
            "imputed from one half": ng.tl.impute(section, model, measured=measured).X,
            "adapted and imputed": ng.tl.impute(section, adapted, measured=measured).X,
        }
        for method, each in found.items():
            scored = each[~measured].astype(np.float64), truth[~measured], depth[~measured]
            yield rows(OTHER, name, "half", 0.5, seed, method, scored)
        gain = adapted.origin.get("adapted")
        if gain is not None:
            told.append({"seed": seed, "said": gain["pcc_gain"], "pcc_mean": gain["pcc_mean"], "mse": gain["mse"]})


def per_gene(scores: pd.DataFrame, method: str, score: str = "r") -> pd.DataFrame:
    """Average a score over seeds, sections x genes."""
    own = scores[scores["method"] == method]
    return own.pivot_table(index="section", columns="gene", values=score, dropna=False)


def difference(scores: pd.DataFrame, a: str, b: str) -> str:
    """Compare the mean r of two methods, as text with the interval."""
    found = paired_bootstrap(per_gene(scores, a), per_gene(scores, b))
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def cell(scores: pd.DataFrame, method: str) -> str:
    """Write the means over sections, seeds and genes: r, r given depth, squared error."""
    own = scores[scores["method"] == method].groupby(["section", "seed"])[["r", "given depth", "mse"]].mean().mean()
    return f"{own['r']:.3f} ({own['given depth']:.3f}) {own['mse']:.2f}"


def table(scores: pd.DataFrame, split: str, kind: str, against: tuple[str, ...]) -> list[str]:
    """Write a row for each method, and rows of differences; the best rival is the one with the highest mean r here."""
    own = scores[(scores["split"] == split) & (scores["kind"] == kind)]
    methods = list(own["method"].unique())
    groups = dict(list(own.groupby("share")))
    heads = [f"{share:.0%} of spots" if kind == "spots" else f"{share:.0f} of 785 genes" for share in groups]
    lines = [f"| | {' | '.join(heads)} |", "| --- |" + " --- |" * len(groups)]
    lines += [f"| {name} | {' | '.join(cell(part, name) for part in groups.values())} |" for name in methods]
    if set(RIVALS) <= set(methods):
        best = {share: max(RIVALS, key=lambda r: per_gene(part, r).mean().mean()) for share, part in groups.items()}
        cells = [f"{difference(part, IMPUTED, best[share])} ({best[share]})" for share, part in groups.items()]
        lines.append(f"| imputed - best rival | {' | '.join(cells)} |")
    for other in against:
        lines.append(
            f"| imputed - {other} | {' | '.join(difference(part, IMPUTED, other) for part in groups.values())} |"
        )
    return lines


def as_text(scores: pd.DataFrame, said: list[dict[str, Any]]) -> str:
    """Write the tables."""
    lines = [
        "# Where some is measured",
        "",
        f"By `python benchmarks/imputation.py`, Python {platform.python_version()}; masks of seeds "
        f"{', '.join(map(str, SEEDS))}. Sections of `her2st_mini`, panel of 785 genes, not smoothed. Mean r over "
        "genes, sections and seeds, of spots or genes that were not measured; in brackets r given the log of the "
        "panel's counts; then the mean squared error. Differences of r are paired over sections and genes, with 95 % "
        "intervals (seeds are averaged first); of one section, they cover the choice of genes only. The best rival is "
        "the one with the highest r in the same table, chosen with hindsight. Nothing of NH2ST-Graph was chosen on "
        "what is scored.",
    ]
    for split in (LOSO, OTHER):
        lines += ["", f"## {split}", "", *table(scores, split, "spots", (IMAGE,))]
        lines += ["", "Some genes measured at every spot, scored on the others:", ""]
        lines += table(scores, split, "genes", (IMAGE,))
    half = scores[scores["kind"] == "half"]
    lines += [
        "",
        "## Another patient's section, half of it measured",
        "",
        "B4 by a model of C3 to C6. Four of eight compact blocks are measured, and the others are scored.",
        "",
        "| | r (given depth) squared error | against the image alone |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {name} | {cell(half, name)} | {difference(half, name, IMAGE)} |" for name in half["method"].unique()]
    lines += ["", "What `ng.tl.adapt` itself reported, on blocks held out of the measured half:", ""]
    lines += ["| seed | mean r before | after | difference | squared error before | after |", "| --- |" + " ---: |" * 5]
    for each in said:
        (before, after), (mean, low, high), mse = each["pcc_mean"], each["said"], each["mse"]
        change = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(f"| {each['seed']} | {before:.3f} | {after:.3f} | {change} | {mse[0]:.2f} | {mse[1]:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train what is not there yet, score, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st and gene_panels")
    parser.add_argument("--models", type=Path, required=True, help="folder of the models, which are kept")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "trust", help="folder of the tables")
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    parser.add_argument("--tiny", action="store_true", help="two epochs, to try the script")
    options = parser.parse_args()
    logging.getLogger("nh2st_graph").setLevel(logging.ERROR)
    config = load_config(HERE.parent / "configs" / "her2st_mini.yaml").change(
        {
            "data.train": [],
            "data.test": [],
            "data.panel": str(options.data / "gene_panels" / "her_hvg_cut_1000.txt"),
            "features.cache": None if options.cache is None else str(options.cache),
            "train.progress": False,
            **({"train.max_epochs": 2} if options.tiny else {}),
        }
    )
    sections = ng.read.sections("her2st", options.data / "her2st", ("B4", *PATIENT_C))
    scores, said = [], []
    for train, test in [*((tuple(c for c in PATIENT_C if c != test), test) for test in PATIENT_C), (PATIENT_C, "B4")]:
        model = fitted(config, sections, train, options.models, options.cache)
        section = model.preparation.prepare(sections[test]).section
        scores += of_spots(OTHER if test == "B4" else LOSO, test, section, model)
        if test == "B4":
            scores += of_halves(test, section, model, said)
        print(test, flush=True)
    found = pd.concat(scores)
    options.results.mkdir(parents=True, exist_ok=True)
    text = as_text(found, said)
    (options.results / "imputation.md").write_text(text, encoding="utf-8")
    about = ["split", "section", "kind", "share", "seed", "method"]
    means = found.groupby(about, sort=False)[["r", "given depth", "mse"]].mean().reset_index()
    means.to_csv(options.results / "imputation.csv", index=False, float_format="%.5f", lineterminator="\n")
    print(text)


if __name__ == "__main__":
    main()
