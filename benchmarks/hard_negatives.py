"""Measure what contrast and hard negatives bring: held-out retrieval, and r of predictions, on three splits.

    python benchmarks/hard_negatives.py --data DIR --out FOLDER [--cache DIR] [--seeds 1] [--tiny]

``DIR`` is that of ``accuracy.py``. Each of :data:`CONTRASTS` is trained on each split, with the network alone and with
its closed form. ``FOLDER`` keeps what is done, so that the script continues; the tables go to
``benchmarks/results/accuracy``. Retrieval is within each test section, from a spot's image to its genes: whether they
are among the ten nearest of all, and the share of the 32 spots with the nearest counts that are less alike (chance:
0.5), which depth alone cannot tell.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import platform
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from accuracy import HANDCRAFTED, HEADINGS, HERE, SPLITS, expression, on, sections
from anndata import AnnData
from torch.nn import functional as F

import nh2st_graph as ng
from nh2st_graph.config import load_config
from nh2st_graph.metrics import paired_bootstrap, partial_pearson, pearson
from nh2st_graph.nn import nearest_values_apart, partner_rank
from nh2st_graph.section import Key, panel_counts, targets

CONTRASTS = {
    "none": {"contrast": "none"},
    "batch": {"negatives": "batch"},
    "depth": {"negatives": "depth"},
}
MODELS = {"network alone": {"closed_form": False}, "with closed form": {"closed_form": True}}
SCORES = {"r": "r", "given depth": "r given depth", "found": "own genes in ten", "above": "less alike at depth"}
PAIRS = (("batch", "none"), ("depth", "none"), ("depth", "batch"))
SAME_DEPTH = 32


class Task(NamedTuple):
    """One run: model, contrast, split, number of its training set, and seed."""

    model: str
    contrast: str
    split: str
    number: int
    seed: int

    @property
    def file(self) -> str:
        """Name of its file of scores."""
        return "--".join(str(each) for each in self).replace(" ", "_") + ".csv"


def retrieval(section: AnnData, model: ng.tl.FittedModel, depth: np.ndarray) -> pd.DataFrame:
    """Score each spot of a held-out section, with the mean cosine of both scales as similarity."""
    ng.tl.embed(section, model)
    # The two scales are side by side.
    image, gene = (
        F.normalize(torch.as_tensor(section.obsm[key]).unflatten(1, (2, -1)), dim=2).flatten(1)
        for key in (Key.obsm.embed_image, Key.obsm.embed_gene)
    )
    everyone = torch.arange(len(image))
    near = nearest_values_apart(torch.as_tensor(depth), everyone, SAME_DEPTH, torch.empty(2, 0, dtype=torch.int64))
    similarity = image @ gene.T
    above = (similarity.gather(1, near) < similarity.diagonal().unsqueeze(1)).double().mean(dim=1)
    found = (partner_rank(image, gene) <= 10).double()
    return pd.DataFrame({"what": section.obs_names, "found": found.numpy(), "above": above.numpy()})


def measure(task: Task, options: argparse.Namespace) -> pd.DataFrame:
    """Train once, and score each test section: genes, then spots."""
    logging.getLogger("nh2st_graph").setLevel(logging.ERROR)
    train, tests = SPLITS[task.split][task.number]
    config = load_config(HERE.parent / "configs" / "her2st_mini.yaml").change(
        {
            "data.train": [],
            "data.test": [],
            "data.panel": str(options.data / "gene_panels" / "her_hvg_cut_1000.txt"),
            "features.cache": None if options.cache is None else str(options.cache),
            "train.progress": False,
            "evaluate.baselines": False,
            "evaluate.figures": False,
            "seed": task.seed,
            **({"train.max_epochs": 2} if options.tiny else {}),
            **on(HANDCRAFTED, **MODELS[task.model], **CONTRASTS[task.contrast]),
        }
    )
    there = sections(options.data)
    model = ng.tl.fit({each: there[each] for each in train}, config)
    parts = []
    for each in tests:
        observed = targets(there[each], model.genes, normalize="panel")
        predicted = expression(model, there[each]).loc[observed.index, observed.columns]
        depth = np.log1p(panel_counts(there[each], model.genes).to_numpy().sum(axis=1))
        scores = {"r": pearson(predicted, observed), "given depth": partial_pearson(predicted, observed, depth)}
        parts.append(pd.DataFrame({"section": each, "what": observed.columns, **scores}))
        if task.contrast != "none":
            parts.append(retrieval(there[each].copy(), model, depth).assign(section=each))
    factor = getattr(model.module, "chosen", {}).get("correction", {})
    return pd.concat(parts).assign(
        **task._asdict(), correction=factor.get("known" if task.split == "loso" else "new", np.nan)
    )


def wide(scores: pd.DataFrame, model: str, contrast: str, split: str, score: str) -> pd.DataFrame:
    """Give a score by section and by gene or spot, averaged over seeds."""
    own = scores[(scores["model"] == model) & (scores["contrast"] == contrast) & (scores["split"] == split)]
    return own.dropna(subset=score).pivot_table(index="section", columns="what", values=score)


def mean(scores: pd.DataFrame, model: str, contrast: str, split: str, score: str) -> str:
    """Write a mean over sections and their genes or spots."""
    own = wide(scores, model, contrast, split, score)
    return f"{own.stack().mean():.4f}" if len(own) else "-"


def difference(scores: pd.DataFrame, model: str, pair: tuple[str, str], split: str, score: str) -> str:
    """Write the difference of two contrasts with its interval."""
    first, second = (wide(scores, model, each, split, score) for each in pair)
    if first.empty or second.empty:
        return "-"
    found = paired_bootstrap(first, second)
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def as_text(scores: pd.DataFrame, chance: dict[str, float]) -> str:
    """Write the tables."""
    seeds = scores["seed"].nunique()
    by_chance = ", ".join(f"{HEADINGS[split]} {share:.3f}" for split, share in chance.items())
    lines = [
        "# Contrast and hard negatives",
        "",
        f"By `python benchmarks/hard_negatives.py --seeds {seeds}`, Python {platform.python_version()}. Sections of "
        f"`her2st_mini`, panel of 785 genes, not smoothed, handcrafted features; seeds: {seeds}, from 0. Negatives: "
        "none (no contrast), those of the batch (the default), or the 32 spots of other "
        "training sections with the nearest counts (`depth`; from B to C there is one training section, and they are "
        "spots of itself that are no neighbours). *r given depth*: given the log of the panel's counts. *Own genes in "
        "ten*: share of the test section's spots whose own genes are among the ten nearest of their image (by chance: "
        f"{by_chance}). *Less alike at depth*: share of the 32 spots with the nearest counts whose genes are less "
        "alike than the own ones (by chance: 0.5). Differences are paired over sections and genes (or spots), with "
        "95 % intervals, which do not cover the choice of the seed, and with one test section (C to B) cover that of "
        "genes or spots only. *Correction added*: the share of the network's correction of its closed form that "
        "held-out training sections allow; at 0 a contrast cannot change r.",
    ]
    for model, split in itertools.product(MODELS, SPLITS):
        own = scores[(scores["model"] == model) & (scores["split"] == split)]
        if set(own["contrast"]) != {*CONTRASTS} or own["number"].nunique() != len(SPLITS[split]):
            continue
        lines += ["", f"## {model[0].upper()}{model[1:]}, {HEADINGS[split]}", ""]
        lines += [f"| negatives | {' | '.join(SCORES.values())} | correction added |", "| --- |" + " ---: |" * 5]
        for contrast in CONTRASTS:
            cells = [mean(scores, model, contrast, split, score) for score in SCORES]
            factor = own.loc[own["contrast"] == contrast, "correction"].mean()
            lines.append(f"| {contrast} | {' | '.join(cells)} | {'all' if np.isnan(factor) else f'{factor:.2f}'} |")
        for pair in PAIRS:
            cells = [difference(scores, model, pair, split, score) for score in SCORES]
            lines.append(f"| {' - '.join(pair)} | {' | '.join(cells)} | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is not done yet, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st and gene_panels")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is done")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "accuracy", help="folder of the tables")
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--contrasts", nargs="+", choices=list(CONTRASTS), default=list(CONTRASTS))
    parser.add_argument("--tiny", action="store_true", help="two epochs, to try the script")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [(split, number) for split, pairs in SPLITS.items() for number in range(len(pairs))]
    for seed, model in itertools.product(range(options.seeds), options.models):
        for run, contrast in itertools.product(runs, options.contrasts):
            task = Task(model, contrast, *run, seed)
            path = options.out / task.file
            if not path.exists():
                found = measure(task, options)
                found.to_csv(path.with_suffix(".part"), index=False)
                path.with_suffix(".part").replace(path)
                print(*task, *(f"{score} {found[score].mean():.4f}" for score in SCORES if score in found), flush=True)
    scores = pd.concat([pd.read_csv(path) for path in sorted(options.out.glob("*.csv"))])
    there = sections(options.data)
    chance = {
        split: float(np.mean([10 / there[each].n_obs for _, tests in pairs for each in tests]))
        for split, pairs in SPLITS.items()
    }
    (options.results / "hard_negatives.md").write_text(as_text(scores, chance), encoding="utf-8")


if __name__ == "__main__":
    main()
