"""Benchmarks on the command line."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from nh2st_graph import study
from nh2st_graph.cli._runs import Options, carry_out
from nh2st_graph.study import BenchmarkResult

__all__ = ["run_benchmark"]


def run_benchmark(path: Path, out: Path, options: Options) -> None:
    """Run a benchmark, show how it goes, and print its leaderboard.

    Raises
    ------
    typer.Exit
        With code 1 where a run failed, and 130 where the benchmark was interrupted.
    """
    plan, result = carry_out(study.read_benchmark, study.run_benchmark, path, out, options)
    _print(plan, result)
    if result.failures:
        raise typer.Exit(1)


def _print(plan: study.Study, result: BenchmarkResult) -> None:
    from nh2st_graph.cli._tables import print_cells, print_paths

    console = Console()
    for split, part in result.board.groupby("split", sort=False):
        # A difference stands beside its score, which its header need not name.
        text = study.leaderboard_cells(part).rename(columns=lambda column: column.rpartition(": ")[2])
        styles = list(part["role"].map({"method": "bold", "baseline": "", "reference": "dim"}))
        print_cells(console, text, styles, f"{plan.name}: {split}")
        for sentence in result.verdicts[str(split)]:
            console.print(f"- {sentence}", highlight=False, markup=False)
    console.print(study.explain_leaderboard(result.board), style="dim", highlight=False, markup=False)
    for run, reason in result.failures.items():
        console.print(f"failed: {run}: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
    print_paths(result.written)
