"""Show what the seed does to a benchmark: mean r of each method with each seed, and their range.

    python benchmarks/seeds.py benchmarks/results/her2st_mini [...]

The script reads ``scores.csv`` of each folder, averages over test sections, and writes ``seeds.md`` beside it. It
leaves out methods with one seed, since they draw nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd


def by_seed(scores: pd.DataFrame) -> pd.DataFrame:
    """Compute mean r over test sections: a row per split and method, a column per seed, and their range."""
    table = scores.pivot_table(index=["split", "method"], columns="seed", values="pcc_mean", sort=False).dropna()
    table.columns = [f"seed {seed}" for seed in table.columns]
    return table.assign(range=table.max(axis=1) - table.min(axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="Folder with a benchmark's scores.csv.")
    for folder in parser.parse_args().folders:
        table = by_seed(pd.read_csv(folder / "scores.csv"))
        lines = ["# Mean r by seed", ""]
        for split, part in table.groupby("split", sort=False):
            names = ["method", *part.columns]
            lines += [f"## {split}", "", f"| {' | '.join(names)} |", f"| --- |{' ---: |' * len(part.columns)}"]
            for (_, method), row in part.iterrows():
                lines.append(f"| {method} | {' | '.join(f'{value:.3f}' for value in row)} |")
            lines.append("")
        (folder / "seeds.md").write_text("\n".join(lines), encoding="utf-8")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
