"""Scores on HER2ST sections under three splits, from the package's own command.

    python benchmarks/her2st_mini.py --root DIR --panel FILE [--splits loso C_to_B B_to_C] [--seeds 0 1 2]

Each run is ``nh2st-graph train configs/her2st_mini.yaml ...`` in a folder of its own; runs that are finished are kept,
so that an interrupted benchmark goes on. Written to ``benchmarks/results/her2st_mini/``: ``{split}/{run}.json``, which
is each run's ``metrics.json``, and ``table.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nh2st_graph.metrics import paired_bootstrap
from nh2st_graph.tl import LABELS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "her2st_mini"
C = ("C3", "C4", "C5", "C6")


class Fold(NamedTuple):
    """One run of a split."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]


SPLITS = {
    "loso": [Fold(test, tuple(name for name in C if name != test), (test,)) for test in C],
    "C_to_B": [Fold("B4", C, ("B4",))],
    "B_to_C": [Fold("C", ("B4",), C)],
}


def run(fold: Fold, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """Train one model by the command line, unless its run folder is complete."""
    if (folder / "metrics.json").is_file():
        return
    command = [
        *(sys.executable, "-m", "nh2st_graph", "train", str(HERE.parent / "configs" / "her2st_mini.yaml")),
        *("--set", f"data.root={options.root}", "--set", f"data.panel={options.panel}"),
        *("--set", f"data.train=[{','.join(fold.train)}]", "--set", f"data.test=[{','.join(fold.test)}]"),
        *("--set", f"seed={seed}", "--out", str(folder)),
        *[word for each in options.set for word in ("--set", each)],
    ]
    subprocess.run([*command, "--resume"] if (folder / "config.yaml").is_file() else command, check=True)


def rows(metrics: dict[str, Any]) -> pd.DataFrame:
    """Scores of every method on every section of a run, one row each."""
    methods = {"model": metrics, **metrics["floors"], **metrics["references"]}
    return pd.DataFrame(
        [
            {"method": method, "section": section, **scores}
            for method, each in methods.items()
            for section, scores in each["sections"].items()
        ]
    )


def difference(per_gene: pd.DataFrame, floor: str) -> str:
    """The model's gain over a floor, paired over sections and genes, with a 95 % bootstrap interval."""
    mean = per_gene.groupby(["section", "gene"])[["pcc", f"pcc_{floor}"]].mean().unstack("gene")
    gain = paired_bootstrap(mean["pcc"], mean[f"pcc_{floor}"])
    return f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def summarise(split: str, scores: pd.DataFrame, per_gene: pd.DataFrame) -> str:
    """One split as a Markdown section."""
    columns = ["pcc_mean", "pcc_partial", "pcc_heg50", "pcc_hpg50", "mse", "mae"]
    by_section = scores.groupby(["method", "section"])[columns].mean(numeric_only=True)
    mean, spread = by_section.groupby("method").mean(), by_section.groupby("method").std()
    lines = [
        f"## {split}",
        "",
        "| | mean r | mean r given depth | 50 highest expressed | 50 best on held-out | MSE | MAE |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method, label in LABELS.items():
        cells = []
        for column in columns:
            value, deviation = mean.loc[method, column], spread.loc[method, column]
            shown = "" if pd.isna(value) else f"{value:.4f}"
            cells.append(shown if pd.isna(deviation) or not shown else f"{shown} ± {deviation:.3f}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", "Mean r by section:", "", "| | " + " | ".join(sorted(scores["section"].unique())) + " |"]
    table = by_section["pcc_mean"].unstack("section")
    partial = by_section["pcc_partial"].unstack("section")
    lines.append("| --- |" + " --- |" * table.shape[1])
    for method in ("model", "ridge", "ridge_neighbours", "depth_oracle"):
        cells = [f"{r:.4f} ({p:.4f})" for r, p in zip(table.loc[method], partial.loc[method], strict=True)]
        lines.append(f"| {LABELS[method]} | " + " | ".join(cells) + " |")
    lines += ["", "In brackets: given depth. Gain in mean r with its 95 % interval (sections and genes resampled):", ""]
    lines += [f"- over {LABELS[floor]}: {difference(per_gene, floor)}" for floor in ("ridge", "ridge_neighbours")]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the splits and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the HER2ST sections")
    parser.add_argument("--panel", type=Path, required=True, help="file of gene symbols")
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=list(SPLITS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/her2st_mini"), help="folder for the run folders")
    parser.add_argument("--set", action="append", default=[], help="configuration keys to change")
    options = parser.parse_args()
    text = [
        "# HER2ST, five sections, 785 genes\n",
        f"Command: `python benchmarks/her2st_mini.py --root DIR --panel {options.panel.name} --splits "
        f"{' '.join(options.splits)} --seeds {' '.join(map(str, options.seeds))}`. Means over sections "
        "(and seeds), ± the standard deviation over sections.\n",
    ]
    for split in options.splits:
        scores, per_gene = [], []
        for fold in SPLITS[split]:
            for seed in options.seeds:
                name = f"{fold.name}_seed{seed}"
                folder = options.runs / split / name
                run(fold, seed, folder, options)
                target = RESULTS / split / f"{name}.json"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / "metrics.json", target)
                scores.append(rows(json.loads(target.read_text())))
                per_gene.append(pd.read_csv(folder / "metrics_per_gene.csv"))
        text.append(summarise(split, pd.concat(scores), pd.concat(per_gene)))
    (RESULTS / "table.md").write_text("\n".join(text), encoding="utf-8")
    print((RESULTS / "table.md").read_text())


if __name__ == "__main__":
    main()
