"""Choose settings for HER2ST on training sections only, run by run.

    python benchmarks/choose_defaults.py --root DIR --panel FILE

For each leave-one-section-out run of C3 to C6 and each candidate, the three training sections are held out in turn: a
candidate is judged by the mean held-out squared error at its best epoch (and its r is shown). The section that the run
tests on is never read. A candidate may become the default where the runs agree, since each would then have chosen it
without its test section. Written to ``benchmarks/results/her2st_mini/choices.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import nh2st_graph as ng
from nh2st_graph.config import load_config

HERE = Path(__file__).resolve().parent
SECTIONS = ("C3", "C4", "C5", "C6")

#: What is compared: settings beside the base's.
CANDIDATES = {
    "as configured": [],
    "patches of 112 um": ["features.patch_um=112"],
    "4 components": ["model.rank=4"],
    "16 components": ["model.rank=16"],
    "32 components": ["model.rank=32"],
    "steps of 64 spots": ["train.batch_spots=64", "train.learning_rate=0.001", "train.average=0.98"],
    "no gene side": ["model.contrast=none", "model.cross_attention=none"],
    "no neighbour branch": ["model.neighbours=false"],
}


def held_out(config: ng.Config, train: list[str]) -> pd.Series:
    """Held-out error and r of a candidate on the training sections of a run, at the epoch that fits best."""
    sections = ng.read.her2st(config.data.root, train)
    log = ng.tl.fit(sections, config).log
    curves = ng.pl.fold_curves(log)
    return curves.loc[curves["val_loss"].idxmin(), ["epoch", "val_loss", "val_pcc"]]


def main() -> None:
    """Compare the candidates and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the HER2ST sections")
    parser.add_argument("--panel", type=Path, required=True, help="file of gene symbols")
    options = parser.parse_args()
    base = load_config(
        HERE.parent / "configs" / "her2st_mini.yaml",
        [f"data.root={options.root}", f"data.panel={options.panel}", "train.refit=false", "train.progress=false"],
    )
    head = "| test section of the run | candidate | held-out squared error | held-out r | epoch |"
    lines = [head, "| --- " * 5 + "|"]
    for test in SECTIONS:
        train = [name for name in SECTIONS if name != test]
        results = {name: held_out(base.override(change), train) for name, change in CANDIDATES.items()}
        best = min(results, key=lambda name: float(results[name]["val_loss"]))
        for name, scores in results.items():
            shown = f"**{name}**" if name == best else name
            line = f"| {test} | {shown} | {scores['val_loss']:.4f} | {scores['val_pcc']:.4f} | {scores['epoch']:.0f} |"
            lines.append(line)
            print(line, flush=True)
    target = HERE / "results" / "her2st_mini" / "choices.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("# Settings chosen on training sections\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
