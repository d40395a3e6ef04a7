"""Compare scores of genes from training sections alone with what a trained model reaches on an unseen section.

    python benchmarks/predictability.py --data DIR --out FOLDER [--cache DIR]

``DIR`` holds ``her2st/`` (the repository almaan/her2st) and ``gene_panels/her_hvg_cut_1000.txt``. For each run of the
three splits of ``her2st_mini``, :func:`nh2st_graph.tl.predictability` scores the 785 genes on the training sections.
Then NH2ST-Graph is trained on them and scored on the test section; ``FOLDER`` keeps each gene's r, and may be that of
``benchmarks/accuracy.py``, so that nothing is trained again. Both are compared over genes by Spearman's correlation, as
are ExpressionCopilot's score, the noise ceiling, what measured neighbours say, and the mean count. Prints the tables,
and writes them to ``benchmarks/results/trust/predictability.md``.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import ATTEMPTS, DEFAULT, HEADINGS, SPLITS, _file, measure, sections
from numpy.typing import NDArray
from scipy.stats import rankdata

import nh2st_graph as ng
from nh2st_graph.config import load_config

HERE = Path(__file__).resolve().parent
SEED = 0
#: Scores before training, by their columns.
BEFORE = {
    "pcc_partial": "held-out r given depth",
    "low": "lower end of its interval",
    "pcc": "held-out r",
    "eps": "ExpressionCopilot's EPS",
    "ceiling": "noise ceiling",
    "pcc_partial_neighbour_mean": "neighbours' measured genes",
    "mean_counts": "mean count",
}
N_DRAWS = 500


def foretold(data: Path, cache: Path | None, train: Sequence[str]) -> tuple[pd.DataFrame, float]:
    """Score genes on training sections; also give the seconds of CPU that this took."""
    config = load_config(HERE.parent / "configs" / "her2st_mini.yaml").change(
        {
            "data.train": [],
            "data.test": [],
            "data.panel": str(data / "gene_panels" / "her_hvg_cut_1000.txt"),
            "features.cache": None if cache is None else str(cache),
            "seed": SEED,
            **ATTEMPTS[DEFAULT].settings,
        }
    )
    there = sections(data)
    start = time.process_time()
    found = ng.tl.predictability({name: there[name] for name in train}, config)
    return found.genes, time.process_time() - start


def reached(data: Path, cache: Path | None, folder: Path, split: str, number: int) -> pd.DataFrame:
    """Give each gene's mean r and r given depth on the test sections of a run, which is trained if it is not there."""
    task = (DEFAULT, split, number, SEED)
    if not (folder / f"{_file(task)}.csv").exists():
        print(measure(task, data, folder, cache, tiny=False), file=sys.stderr, flush=True)
    scores = pd.read_csv(folder / f"{_file(task)}.csv")
    return scores.groupby("gene")[["r", "given depth"]].mean()


def agreement(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Compute Spearman's correlation."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def mean_agreement(runs: Sequence[pd.DataFrame], before: str, after: str, genes: NDArray[np.int64]) -> float:
    """Average the agreement over runs, on the genes at some positions."""
    return float(np.mean([agreement(run[before].to_numpy()[genes], run[after].to_numpy()[genes]) for run in runs]))


def gain_over_eps(runs: Sequence[pd.DataFrame]) -> str:
    """Compare held-out r given depth with EPS, with a 95 % interval from draws of genes."""
    rng, n = np.random.default_rng(SEED), len(runs[0])

    def difference(genes: NDArray[np.int64]) -> float:
        ours, eps = (mean_agreement(runs, name, "given depth", genes) for name in ("pcc_partial", "eps"))
        return ours - eps

    low, high = np.quantile([difference(rng.integers(n, size=n)) for _ in range(N_DRAWS)], [0.025, 0.975])
    return f"{difference(np.arange(n)):+.3f} [{low:+.3f}, {high:+.3f}]"


def as_text(runs: Mapping[str, Sequence[pd.DataFrame]], seconds: Sequence[float]) -> str:
    """Write the tables."""
    every = np.arange(len(next(iter(runs.values()))[0]))
    heading, line = f"| | {' | '.join(HEADINGS[split] for split in runs)} |", "| --- |" + " ---: |" * len(runs)
    lines = [
        "# Which genes can be read, said before training",
        "",
        f"By `python benchmarks/predictability.py`, Python {platform.python_version()}, seed {SEED}. Sections of "
        "`her2st_mini`, 785 genes, encoders of the default. Scores are of the training sections of a run alone; what "
        "they foretell is r given depth of NH2ST-Graph on its test section.",
        "",
        "Spearman's correlation over genes, mean over runs:",
        "",
        heading,
        line,
    ]
    for name, label in BEFORE.items():
        cells = [f"{mean_agreement(each, name, 'given depth', every):.3f}" for each in runs.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    cells = [gain_over_eps(each) for each in runs.values()]
    lines.append(f"| held-out r given depth - EPS [95 % over genes] | {' | '.join(cells)} |")
    lines += ["", "The genes that were called readable, on the test section:", "", heading, line]

    def row(label: str, values: list[str]) -> None:
        lines.append(f"| {label} | {' | '.join(values)} |")

    parts = {split: [(run, run["readable"]) for run in each] for split, each in runs.items()}
    row("readable genes, mean", [f"{np.mean([of.sum() for _, of in each]):.0f}" for each in parts.values()])
    for label, pick in (("readable", lambda of: of), ("others", lambda of: ~of)):
        given = {
            split: pd.concat([run.loc[pick(of), "given depth"] for run, of in each]) for split, each in parts.items()
        }
        row(f"{label}: r given depth above 0", [f"{(each > 0).mean():.1%}" for each in given.values()])
        row(f"{label}: mean r given depth", [f"{each.mean():.3f}" for each in given.values()])
    lines += ["", f"Seconds of CPU for the scores of a run, features cached: {min(seconds):.0f} to {max(seconds):.0f}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Score, train what is not there, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of her2st and gene_panels")
    parser.add_argument("--out", type=Path, required=True, help="folder of trained models' scores by gene")
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "trust", help="folder of the tables")
    options = parser.parse_args()
    logging.getLogger("nh2st_graph").setLevel(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    seconds: dict[tuple[str, ...], float] = {}
    before: dict[tuple[str, ...], pd.DataFrame] = {}
    runs: dict[str, list[pd.DataFrame]] = {}
    for split, pairs in SPLITS.items():
        for number, (train, _) in enumerate(pairs):
            if train not in before:
                before[train], seconds[train] = foretold(options.data, options.cache, train)
            after = reached(options.data, options.cache, options.out, split, number)
            # Genes in order of their names, so that draws take the same genes of all runs.
            runs.setdefault(split, []).append(before[train].join(after).sort_index().fillna(0.0))
    text = as_text(runs, list(seconds.values()))
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "predictability.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
