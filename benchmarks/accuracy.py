"""Measure every attempt at accuracy on the splits of ``her2st_mini``: features, closed form, graph, contrast.

    python benchmarks/accuracy.py --data DIR --out FOLDER [--jobs 2] [--cache DIR] [--only NAME ...] [--tiny]

``DIR`` holds ``her2st/`` (the repository almaan/her2st) and ``gene_panels/her_hvg_cut_1000.txt``. Each entry of
:data:`ATTEMPTS` is trained on each split of :data:`SPLITS`, with each of its seeds. ``FOLDER`` keeps what is done (each
gene's r), so that the script continues; the tables go to ``benchmarks/results/accuracy``, where rows of attempts that
``FOLDER`` does not hold stay as they are.

A difference between two attempts is paired over sections and genes, with a 95 % bootstrap interval
(:func:`nh2st_graph.metrics.paired_bootstrap`); seeds are averaged first.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import platform
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch_geometric.utils import add_self_loops, scatter

import nh2st_graph as ng
from nh2st_graph.config import load_config
from nh2st_graph.metrics import paired_bootstrap, partial_pearson, pearson
from nh2st_graph.section import library_size, panel_counts, targets
from nh2st_graph.tl._predict import predict_prepared
from nh2st_graph.train import FittedModel

HERE = Path(__file__).resolve().parent
PATIENT_C = ("C3", "C4", "C5", "C6")
#: Splits of the protocol: training and test sections.
SPLITS = {
    "loso": [(tuple(each for each in PATIENT_C if each != test), (test,)) for test in PATIENT_C],
    "C_to_B": [(PATIENT_C, ("B4",))],
    "B_to_C": [(("B4",), PATIENT_C)],
}
HEADINGS = {"loso": "C3 to C6, each from the other three", "C_to_B": "C to B", "B_to_C": "B to C"}

SCALES = (112, 224, 448)
OLD = [["squidpy:summary+texture+histogram", 224]]
HANDCRAFTED = [["handcrafted", um] for um in SCALES]
EFFICIENTNET = [["efficientnet-lite0", um] for um in SCALES]
BOTH = [*HANDCRAFTED, *EFFICIENTNET]


class Attempt(NamedTuple):
    """What was tried: settings, why, what it is compared with, whether it was kept, the number of seeds, smoothing."""

    settings: dict[str, Any]
    why: str
    against: str | None = None
    kept: str = ""
    seeds: int = 1
    smoothed: bool = False


def on(encoders: list[list[Any]], **model: Any) -> dict[str, Any]:
    """Settings of a model on some features."""
    return {"features.encoders": encoders, **{f"model.{key}": value for key, value in model.items()}}


ALONE = {"closed_form": False}
NETWORK, DEFAULT, WITHOUT = "network alone, handcrafted", "NH2ST-Graph", "NH2ST-Graph without [imagenet]"
ONE_RING, ALL_ENCODERS = "one ring, handcrafted", "all encoders, also for new patients"
#: What the closed form of an earlier commit gave. It is not run again here: its rows stay as they are.
EARLIER = {
    ONE_RING: "3d9daa5",
    "one ring, handcrafted and pretrained": "3d9daa5",
    "closed form, earlier features": "3d9daa5",
    "every spot counts alike": "3d9daa5",
    "4 components": "3d9daa5",
    "without neighbours": "3d9daa5",
    "two rings": "3d9daa5",
    "three stains": "3d9daa5",
    ALL_ENCODERS: "98b1574",
}

ATTEMPTS: dict[str, Attempt] = {
    "ridge": Attempt(on(BOTH, name="ridge"), "baseline on the default's features"),
    "ridge with neighbours": Attempt(on(BOTH, name="ridge_neighbours"), "baseline on the default's features"),
    "kNN": Attempt(on(BOTH, name="knn"), "baseline on the default's features"),
    "mean colour + ridge": Attempt(
        {"features.encoder": "pixels:1", "features.patch_um": 112, "model.name": "ridge"}, "three numbers a spot"
    ),
    "reduced-rank ridge": Attempt(on(BOTH, name="reduced_rank_ridge"), "few components, one penalty by folds"),
    "kernel ridge": Attempt(on(BOTH, name="kernel_ridge"), "the same with a Gaussian kernel"),
    "reduced-rank ridge, handcrafted": Attempt(on(HANDCRAFTED, name="reduced_rank_ridge"), "without [imagenet]"),
    "kernel ridge, handcrafted": Attempt(on(HANDCRAFTED, name="kernel_ridge"), "without [imagenet]"),
    "reduced-rank ridge, earlier features": Attempt(on(OLD, name="reduced_rank_ridge"), "on what was the default"),
    "kernel ridge, earlier features": Attempt(on(OLD, name="kernel_ridge"), "on what was the default"),
    "network alone, earlier features": Attempt(on(OLD, **ALONE), "the default of before", kept="no"),
    NETWORK: Attempt(on(HANDCRAFTED, **ALONE), "richer features", "network alone, earlier features", "no"),
    "closed form, earlier features": Attempt(on(OLD), "start from ridge", "network alone, earlier features", "yes"),
    ONE_RING: Attempt(on(HANDCRAFTED), "richer features for the closed form", "closed form, earlier features", "no", 3),
    "one ring, handcrafted and pretrained": Attempt(on(BOTH), "and pretrained ones", ONE_RING, "no", 3),
    WITHOUT: Attempt(on(HANDCRAFTED), "new patients: means over five rings", ONE_RING, "yes", 3),
    ALL_ENCODERS: Attempt(on(BOTH), "and pretrained features", WITHOUT, "no", 3),
    DEFAULT: Attempt(
        on(BOTH), "new patients: without an encoder that held-out tissue is better without", ALL_ENCODERS, "yes", 3
    ),
    "graph without neighbours": Attempt(
        on(HANDCRAFTED, neighbours=False), "what neighbours are worth, new patients' rings too", WITHOUT, "no"
    ),
    "graph of two rings": Attempt(
        {**on(HANDCRAFTED), "graph.n_rings": 2}, "a wider mean; for new patients five such rings", WITHOUT, "no"
    ),
    "graph of three rings": Attempt({**on(HANDCRAFTED), "graph.n_rings": 3}, "the same, wider", WITHOUT, "no"),
    "smoothed predictions": Attempt(
        on(HANDCRAFTED), "a control: the mean of a spot's prediction and its neighbours'", WITHOUT, "no", smoothed=True
    ),
    "every spot counts alike": Attempt(on(HANDCRAFTED, depth_power=0), "depth_power: 0", ONE_RING, "no"),
    "4 components": Attempt(on(HANDCRAFTED, n_components=4), "fewer components", ONE_RING, "no"),
    "without neighbours": Attempt(on(HANDCRAFTED, neighbours=False), "what neighbours are worth", ONE_RING, "no"),
    "two rings": Attempt({**on(HANDCRAFTED), "graph.n_rings": 2}, "a wider mean over neighbours", ONE_RING, "no"),
    "three stains": Attempt(
        {**on(HANDCRAFTED), "features.stain_views": 3}, "training sections in other stains", ONE_RING, "no"
    ),
    "network alone, mean of neighbours": Attempt(
        on(HANDCRAFTED, **ALONE, operator="sage", edge_features="none"), "attention against the mean", NETWORK, "no"
    ),
    "network alone, without neighbours": Attempt(
        on(HANDCRAFTED, **ALONE, neighbours=False), "what the neighbour branch is worth", NETWORK, "no"
    ),
    "network alone, no contrast": Attempt(
        on(HANDCRAFTED, **ALONE, contrast="none"), "what the contrast brings to prediction", NETWORK, "no"
    ),
}

_TITLE, _BASELINES = "# Every attempt at accuracy", "## NH2ST-Graph against each baseline"
_FACTORS = "## How much of the network's correction was added"

Sections = Mapping[str, AnnData]
Task = tuple[str, str, int, int]


@cache
def sections(data: Path) -> dict[str, AnnData]:
    """Read the sections once a process."""
    return ng.read.sections("her2st", data / "her2st", ("B4", *PATIENT_C))


def expression(model: FittedModel, section: AnnData, smoothed: bool = False) -> pd.DataFrame:
    """Predict as scores count it: all genes, also those that training barely measured, which users get as NaN."""
    prepared = model.preparation.prepare(section)
    predicted = predict_prepared(model, prepared).to_df()
    if not smoothed:
        return predicted
    n_spots = len(predicted)
    sender, receiver = add_self_loops(prepared.graph.edge_index, num_nodes=n_spots)[0]
    values = torch.from_numpy(predicted.to_numpy())
    means = scatter(values[sender], receiver, dim_size=n_spots, reduce="mean")
    return pd.DataFrame(means.numpy(), predicted.index, predicted.columns)


def measure(task: Task, data: Path, folder: Path, cached: Path | None, tiny: bool) -> str:
    """Train and score one attempt on one split; keep each gene's r, given nothing and given depth."""
    logging.getLogger("nh2st_graph").setLevel(logging.ERROR)
    name, split, number, seed = task
    train, tests = SPLITS[split][number]
    panel = data / "gene_panels" / "her_hvg_cut_1000.txt"
    quiet = {"train.progress": False, "evaluate.baselines": False, "evaluate.figures": False, "seed": seed}
    quiet |= {"train.max_epochs": 2} if tiny else {}
    config = load_config(HERE.parent / "configs" / "her2st_mini.yaml").change(
        {
            "data.train": [],
            "data.test": [],
            "data.panel": str(panel),
            "features.cache": None if cached is None else str(cached),
            **quiet,
            **ATTEMPTS[name].settings,
        }
    )
    there = sections(data)
    model = ng.tl.fit({each: there[each] for each in train}, config)
    rows = []
    for each in tests:
        observed = targets(there[each], model.genes, normalize="panel")
        predicted = expression(model, there[each], ATTEMPTS[name].smoothed).loc[observed.index, observed.columns]
        depth = np.log1p(library_size(there[each]))
        panel_depth = np.log1p(panel_counts(there[each], model.genes).to_numpy().sum(axis=1))
        scores = {
            "r": pearson(predicted, observed),
            "given depth": partial_pearson(predicted, observed, depth),
            "given panel depth": partial_pearson(predicted, observed, panel_depth),
        }
        rows.append(pd.DataFrame({"section": each, "gene": observed.columns, **scores}))
    chosen = getattr(model.module, "chosen", {}).get("correction", {})
    found = pd.concat(rows).assign(
        attempt=name, split=split, seed=seed, correction=chosen.get("known" if split == "loso" else "new")
    )
    aside = folder / f"{_file(task)}.part"
    found.to_csv(aside, index=False)
    aside.replace(folder / f"{_file(task)}.csv")
    return f"{name}: {split} {'+'.join(tests)}, seed {seed}: r {found['r'].mean():.4f}"


def _file(task: Task) -> str:
    return "--".join(str(each) for each in task).replace("/", "_")


def per_gene(scores: pd.DataFrame, score: str) -> pd.DataFrame:
    """Average a score over seeds, sections x genes."""
    return scores.pivot_table(index="section", columns="gene", values=score, dropna=False)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Average over genes and sections: one row for each attempt, split and seed."""
    names = ["r", "given depth", "given panel depth", "correction"]
    return scores.groupby(["attempt", "split", "seed"], sort=False)[names].mean().reset_index()


def difference(scores: pd.DataFrame, a: str, b: str, split: str) -> str:
    """Compare the mean r of two attempts on a split, as text with the interval."""
    parts = [
        per_gene(scores[(scores["attempt"] == each) & (scores["split"] == split)], "r").fillna(0.0) for each in (a, b)
    ]
    found = paired_bootstrap(*parts)
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def rows_of(page: str, heading: str) -> dict[str, list[str]]:
    """Give the rows of one table of the page, by attempt."""
    found: dict[str, list[str]] = {}
    for line in page.partition(heading)[2].partition("\n## ")[0].splitlines():
        name = line.removeprefix("| ").partition(" | ")[0]
        if line.startswith("| ") and not name.startswith("---"):
            found.setdefault(name, []).append(line)
    return found


def as_text(scores: pd.DataFrame, before: str) -> str:
    """Write the table of attempts; rows of what was not measured now are those of the page of ``before``."""
    means = summary(scores)
    there, compared, factors = (rows_of(before, heading) for heading in (_TITLE, _BASELINES, _FACTORS))
    done = [name for name in ATTEMPTS if name in set(means["attempt"])]
    earlier = [
        f"{', '.join(n for n in EARLIER if EARLIER[n] == commit)}: at {commit}"
        for commit in sorted({*EARLIER.values()})
    ]
    lines = [
        _TITLE,
        "",
        f"By `python benchmarks/accuracy.py`, Python {platform.python_version()}. Sections of `her2st_mini`, panel of "
        "785 genes, not smoothed. Mean r over genes and sections; in brackets r given the log of the panel's counts, "
        "then given the log of all counts. Means over seeds. Differences of mean r are paired over sections and genes, "
        "with 95 % intervals; with one test section (C to B) they cover the choice of genes only. The closed form of "
        f"these rows is an earlier one: {'; '.join(earlier)}.",
        "",
        f"| attempt | why | seeds | {' | '.join(HEADINGS.values())} | kept |",
        "| --- | --- | ---: |" + " --- |" * (len(HEADINGS) + 1),
    ]
    for name in ATTEMPTS:
        if name not in done:
            lines += there.get(name, [])
            continue
        attempt, own = ATTEMPTS[name], means[means["attempt"] == name]
        cells = []
        for split in SPLITS:
            each = own[own["split"] == split].mean(numeric_only=True)
            text = f"{each['r']:.4f} ({each['given panel depth']:.4f}, {each['given depth']:.4f})"
            if attempt.against in done:
                text += f"<br>{difference(scores, name, str(attempt.against), split)}"
            cells.append(text)
        versus = f"; against *{attempt.against}*" if attempt.against in done else ""
        lines.append(
            f"| {name} | {attempt.why}{versus} | {own['seed'].nunique()} | {' | '.join(cells)} | {attempt.kept} |"
        )
    lines += ["", _BASELINES, "", f"| | {' | '.join(HEADINGS.values())} |", "| --- |" + " --- |" * len(HEADINGS)]
    for model, against in itertools.product((DEFAULT, WITHOUT), ATTEMPTS):
        pair = f"{model} - {against}"
        if ATTEMPTS[against].settings.get("model.name") is None:
            continue
        if model in done and against in done:
            cells = [difference(scores, model, against, split) for split in SPLITS]
            lines.append(f"| {pair} | {' | '.join(cells)} |")
        else:
            lines += compared.get(pair, [])
    lines += ["", _FACTORS, "", "| attempt | split | seed | factor |", "| --- | --- | ---: | ---: |"]
    known = means.dropna(subset="correction")
    for name in ATTEMPTS:
        own = known[known["attempt"] == name]
        lines += [f"| {name} | {HEADINGS[row.split]} | {row.seed} | {row.correction:.2f} |" for row in own.itertuples()]
        lines += [] if name in done else factors.get(name, [])
    return "\n".join(lines) + "\n"


def tasks(names: Iterable[str]) -> list[Task]:
    """List all runs of some attempts."""
    return [
        (name, split, number, seed)
        for name in names
        for seed in range(ATTEMPTS[name].seeds)
        for split, pairs in SPLITS.items()
        for number in range(len(pairs))
    ]


def main() -> None:
    """Run what is not done yet, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st and gene_panels")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is done")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "accuracy", help="folder of the tables")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(ATTEMPTS), help="some attempts")
    parser.add_argument("--tiny", action="store_true", help="two epochs, to try the script")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = tasks(options.only or ATTEMPTS)
    left = [task for task in wanted if not (options.out / f"{_file(task)}.csv").exists() and task[0] not in EARLIER]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(measure, t, options.data, options.out, options.cache, options.tiny) for t in left]
        for run in runs:
            print(run.result(), flush=True)
    done = [options.out / f"{_file(task)}.csv" for task in tasks(ATTEMPTS)]
    scores = pd.concat([pd.read_csv(path) for path in done if path.exists()])
    options.results.mkdir(parents=True, exist_ok=True)
    page, table = options.results / "attempts.md", options.results / "scores.csv"
    page.write_text(as_text(scores, page.read_text(encoding="utf-8") if page.exists() else ""), encoding="utf-8")
    found = summary(scores)
    if table.exists():
        before = pd.read_csv(table)
        found = pd.concat([found, before[~before["attempt"].isin(found["attempt"])]])
    order = found["attempt"].map({name: place for place, name in enumerate(ATTEMPTS)})
    found.iloc[order.argsort(kind="stable")].to_csv(table, index=False, float_format="%.5f")


if __name__ == "__main__":
    main()
