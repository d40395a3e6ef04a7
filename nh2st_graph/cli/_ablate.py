"""Ablation studies on the command line."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from nh2st_graph import study
from nh2st_graph.cli._runs import Options, carry_out
from nh2st_graph.metrics import SCORES
from nh2st_graph.study import StudyResult

__all__ = ["run_ablate"]


def run_ablate(path: Path, out: Path, options: Options) -> None:
    """Run a study, show how it goes, and print its table.

    Raises
    ------
    typer.Exit
        With code 1 where a run failed, and 130 where the study was interrupted.
    """
    plan, result = carry_out(study.read_study, study.run_study, path, out, options)
    _print(plan, result)
    if result.failures:
        raise typer.Exit(1)


def _print(plan: study.Study, result: StudyResult) -> None:
    from nh2st_graph.cli._tables import print_cells, print_paths

    console = Console()
    for split, part in result.table.groupby("split", sort=False):
        text, title = study.cells(part), plan.name if len(plan.splits) == 1 else f"{plan.name}: {split}"
        styles = list(part["role"].map({"base": "bold", "variant": "", "reference": "dim"}))
        # In two tables, and a score in one cell with its difference, so that a terminal of 80 columns holds them.
        scores = list(SCORES.values())
        for score in scores:
            text[score] += "\n" + text.pop(f"{score}: difference")
        print_cells(console, text[scores], styles, title)
        print_cells(console, text.drop(columns=scores), styles, "")
    console.print(study.explanation(plan), style="dim", highlight=False, markup=False)
    for run, reason in result.failures.items():
        console.print(f"failed: {run}: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
    print_paths(result.written)
