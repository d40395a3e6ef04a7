"""Choose settings of the network for HER2ST on training sections only, run by run.

    python benchmarks/choose_defaults.py --root DIR --panel FILE

For each leave-one-section-out run of C3 to C6 and each candidate, the script holds out the three training sections in
turn. It judges a candidate by the mean held-out squared error at its best epoch, and shows its r. It never reads the
section that the run tests on. A candidate may become the default if the runs agree, since each run would have chosen it
without its test section. The script writes ``benchmarks/results/her2st_mini/choices.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import nh2st_graph as ng
from nh2st_graph.config import load_config

HERE = Path(__file__).resolve().parent
SECTIONS = ("C3", "C4", "C5", "C6")

#: What the candidates share: the network alone, on one scale of colour and texture.
SHARED = ["model.closed_form=false", "features.encoder=squidpy:summary+texture+histogram", "features.patch_um=224"]

#: The candidates: name, and the settings that it changes.
CANDIDATES = {
    "as configured": [],
    "patches of 112 um": ["features.patch_um=112"],
    "4 components": ["model.n_components=4"],
    "16 components": ["model.n_components=16"],
    "32 components": ["model.n_components=32"],
    "steps of 64 spots": ["train.batch_spots=64", "train.learning_rate=0.001", "train.ema_decay=0.98"],
    "no gene side": ["model.contrast=none", "model.cross_attention=none"],
    "no neighbour branch": ["model.neighbours=false"],
}


def held_out(config: ng.Config, train: list[str]) -> pd.Series:
    """Compute a candidate's held-out error and r on the training sections of a run, at its best epoch."""
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
        [
            f"data.root={options.root}",
            f"data.panel={options.panel}",
            "train.refit=false",
            "train.progress=false",
            *SHARED,
        ],
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
