"""Tabulate how well a study's networks find a spot's genes from its image, on the sections that their folds held out.

    python benchmarks/retrieval.py STUDY --out benchmarks/results/equal_features/retrieval.md

``STUDY`` is the folder of a study (``nh2st-graph benchmark`` or ``ablate``). Each row is a fold of a run at its best
epoch: the share of held-out spots with their own genes among the ten nearest of their image (``log.csv``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

SCALES = ("val_retrieval_spot", "val_retrieval_neighbourhood")


def main() -> None:
    """Read the logs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("--out", type=Path, required=True, help="the table")
    options = parser.parse_args()
    lines = ["# A spot's genes from its image, on held-out sections", ""]
    lines += [
        "By `python benchmarks/retrieval.py STUDY`: share of spots with their own genes among the ten nearest.",
        "",
    ]
    lines += ["| run | fold | epoch | spot | neighbourhood |", "| --- | --- | ---: | ---: | ---: |"]
    for path in sorted(options.study.glob("runs/*/*/log.csv")):
        log = pd.read_csv(path)
        if not {*SCALES} <= {*log.columns}:
            continue
        for stage, rows in log.dropna(subset=["val_loss", *SCALES]).groupby("stage", sort=False):
            best = rows.loc[rows["val_loss"].idxmin()]
            shares = " | ".join(f"{best[scale]:.3f}" for scale in SCALES)
            lines.append(f"| {path.parent.parent.name}/{path.parent.name} | {stage} | {best['epoch']:.0f} | {shares} |")
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
