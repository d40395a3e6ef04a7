"""Run the demo: show what the neighbour branch and its attention find on tissue with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from nh2st_graph import tl
from nh2st_graph._errors import ConfigError, RunError
from nh2st_graph._files import write_text
from nh2st_graph._progress import phase
from nh2st_graph.cli._tables import print_findings, print_paths, print_table
from nh2st_graph.cli._working import working
from nh2st_graph.config import builtin_config

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["run_demo"]

#: Kinds of genes, and what they follow.
KINDS = {
    "own": "the spot's own image",
    "neighbour": "the mean of the neighbours' images",
    "interaction": "the neighbour with the most nuclei",
    "noise": "nothing",
}

_MODEL = "NH2ST-Graph"

#: What the two controls change. They need no baselines and figures of their own: the full model's show the same.
_CONTROL = ["evaluate.baselines=false", "evaluate.figures=false"]
_WITHOUT = ["model.neighbours=false", *_CONTROL]
_MEAN = ["model.operator=sage", "model.edge_features=none", *_CONTROL]


def run_demo(out: Path, overrides: list[str]) -> None:
    """Train NH2ST-Graph, the same with the mean over neighbours, and without neighbours; compare them gene by gene.

    Raises
    ------
    RunError, ConfigError
        If the folder exists, or the settings leave no synthetic test section.
    """
    console = Console()
    if out.exists():
        raise RunError(f"demo folder {out} exists already; remove it, or give another as --out")
    config = builtin_config("demo", overrides)
    if config.data.format != "synthetic" or not config.data.test:
        raise ConfigError(
            "the demo needs synthetic tissue and a section in data.test; use 'train' for your own sections"
        )
    tl.check_run(config, out / "full")
    phase()
    console.print(
        f"Synthetic tissue: sections {', '.join(config.data.train)} to learn from, "
        f"{', '.join(config.data.test)} to score on."
    )
    console.print("[bold]1/3[/] NH2ST-Graph")
    with working():
        full = tl.train_run(config, out / "full")
    console.print("[bold]2/3[/] the same without the neighbour branch")
    with working():
        alone = tl.train_run(config.override(_WITHOUT), out / "without_neighbours")
    console.print("[bold]3/3[/] the same with the plain mean over neighbours, without attention")
    with working():
        mean = tl.train_run(config.override(_MEAN), out / "mean_of_neighbours")
    table = by_kind(full, alone, mean)
    write_text(out / "by_kind.csv", table.to_csv(float_format="%.4f"))
    # A method a row, the model first: names of methods are short, and fit beside numbers on any terminal.
    rows = table.rename(index=KINDS).T.sort_index(key=lambda names: names != _MODEL, kind="stable")
    print_table(rows, f"Mean r on {', '.join(config.data.test)}, which no model has seen, of genes that follow")
    print_findings(full)
    print_paths([out / "by_kind.csv", *full.outputs(), alone.folder, mean.folder])


def by_kind(full: tl.Run, alone: tl.Run, mean: tl.Run) -> pd.DataFrame:
    """Average r by kind of gene: ridge without and with neighbours, the two controls, the model, and its gain."""
    import pandas as pd

    from nh2st_graph.datasets import KINDS as PREFIXES

    if full.evaluation is None or alone.evaluation is None or mean.evaluation is None:
        raise RunError("the demo needs a test section; do not change data.test")
    per_gene = full.evaluation.per_gene
    # Names of genes tell their kind: OWN01, NBR01, INT01, NOISE01.
    named = {prefix: kind for kind, prefix in PREFIXES.items()}
    kinds = per_gene.index.get_level_values("gene").str.rstrip("0123456789").map(named)
    table = pd.DataFrame(
        {
            "ridge": per_gene["pcc_ridge"],
            "ridge with neighbours": per_gene["pcc_ridge_neighbours"],
            "without neighbours": alone.evaluation.per_gene["pcc"],
            "mean of neighbours": mean.evaluation.per_gene["pcc"],
            _MODEL: per_gene["pcc"],
        }
    )
    means = table.groupby(kinds).mean().reindex(list(KINDS))
    means["gained"] = means[_MODEL] - means["without neighbours"]
    return means
