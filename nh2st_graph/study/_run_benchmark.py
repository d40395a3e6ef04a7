"""Whole benchmarks: every method on every fold, and what comes out for the reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nh2st_graph._atomic import write_text
from nh2st_graph.study._html import write_html
from nh2st_graph.study._leaderboard import forest_table, leaderboard, markdown
from nh2st_graph.study._plan import PlannedRun, Study, slug
from nh2st_graph.study._report import draw_forest
from nh2st_graph.study._results import Results, collect, curves, references
from nh2st_graph.study._run import do_runs
from nh2st_graph.study._words import protocol, under_trained, verdict
from nh2st_graph.study._workers import Watch

__all__ = ["BenchmarkResult", "run_benchmark"]


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark left.

    Attributes
    ----------
    board
        One row for each split and method; see :func:`~nh2st_graph.study.leaderboard`.
    verdicts
        What it says, in sentences by split.
    results
        Scores of every run.
    failures
        Runs that failed, and why.
    written
        Tables, figures and the report.
    """

    board: pd.DataFrame
    verdicts: dict[str, list[str]]
    results: Results
    failures: dict[PlannedRun, str]
    written: list[Path]


def run_benchmark(
    study: Study,
    out: str | Path,
    *,
    jobs: int | None = None,
    only: Iterable[str] = (),
    resume: bool = False,
    watch: Watch | None = None,
) -> BenchmarkResult:
    """Run methods over splits and seeds, and compare them.

    Parameters
    ----------
    study
        From :func:`~nh2st_graph.study.read_benchmark`.
    out, jobs, only, resume, watch
        As in :func:`~nh2st_graph.study.run_study`. Features are computed once, by the first run that needs them.

    Returns
    -------
    What came out. ``out`` holds ``study.yaml``, ``runs/{method}/{fold}_seed{n}`` (run folders as ``train`` writes
    them, less their figures), ``scores.csv`` (one row for each run and test section), ``per_gene.csv.gz``,
    ``leaderboard.csv`` and ``.md``, ``forest.png``, ``learning_{split}.png``, ``genes_{split}.png`` and
    ``report.html``, which names no other file.

    Raises
    ------
    ConfigError, RunError
        As :func:`~nh2st_graph.study.run_study`.
    """
    out = Path(out)
    failures = do_runs(study, out, jobs=jobs, only=only, resume=resume, watch=watch)
    planned = study.runs(out)
    results = collect(study, planned)
    board = leaderboard(
        _of_methods(results.scores),
        _of_methods(results.per_gene),
        _roles(study),
        failures={(run.variant, run.fold.split): reason for run, reason in reversed(failures.items())},
        planned=Counter((run.variant, run.fold.split) for run in planned),
    )
    learned, epochs = _of_methods(curves(planned)), {v.name: v.config.train.max_epochs for v in study.variants}
    late = under_trained(learned, epochs)
    verdicts = {
        str(split): verdict(part, late.get(str(split), [])) for split, part in board.groupby("split", sort=False)
    }
    report = _Report(out, board, _of_methods(results.per_gene), learned)
    written = report.tables(study, results.scores, verdicts) + report.figures()
    page = write_html(
        out / "report.html",
        f"Benchmark {study.name}",
        board=board,
        per_gene=report.per_gene,
        curves=learned,
        protocol=protocol(study),
        epochs=epochs,
    )
    return BenchmarkResult(board, verdicts, results, failures, [page, *written])


def _of_methods(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"variant": "method"})


def _roles(study: Study) -> dict[str, str]:
    """What each row is: methods and baselines in the order of the file, then what reads the test sections."""
    from nh2st_graph.models import Baseline, find_method

    roles = {
        variant.name: "baseline" if issubclass(find_method(variant.config.model.name), Baseline) else "method"
        for variant in study.variants
    }
    return roles | dict.fromkeys(references(study).values(), "reference")


@dataclass(frozen=True)
class _Report:
    """Tables and figures of a benchmark, in its folder."""

    folder: Path
    board: pd.DataFrame
    per_gene: pd.DataFrame
    curves: pd.DataFrame

    def tables(self, study: Study, scores: pd.DataFrame, verdicts: Mapping[str, list[str]]) -> list[Path]:
        """Write the leaderboard, the scores of all runs, and those of all genes."""
        texts = {
            "leaderboard.md": markdown(self.board, study.name, verdicts),
            "leaderboard.csv": self.board.to_csv(index=False, float_format="%.6g"),
            "scores.csv": _of_methods(scores).to_csv(index=False, float_format="%.6g"),
        }
        for name, text in texts.items():
            write_text(self.folder / name, text)
        genes = self.folder / "per_gene.csv.gz"
        self.per_gene.to_csv(genes, index=False, float_format="%.5g")
        return [*(self.folder / name for name in texts), genes]

    def figures(self) -> list[Path]:
        """Draw differences from the best baseline, learning curves, and genes of the best method and baseline."""
        from nh2st_graph import pl

        written = []
        table = forest_table(self.board)
        if len(table) and table["pcc_mean_difference"].notna().any():
            draw_forest(table, self.folder / "forest.png", base="the best baseline")
            written.append(self.folder / "forest.png")
        for split, part in self.curves.groupby("split", sort=False):
            written.append(pl.save(pl.learning_curves(part), self.folder / f"learning_{slug(str(split))}.png"))
        for split, part in self.board[self.board["place"].notna()].groupby("split", sort=False):
            first = part.drop_duplicates("role").set_index("role")["method"]  # rows are in order of place
            if {"method", "baseline"} <= {*first.index}:
                genes = self.per_gene[self.per_gene["split"] == split]
                figure = pl.gene_scatter(genes, first["baseline"], first["method"]).figure
                written.append(pl.save(figure, self.folder / f"genes_{slug(str(split))}.png"))
        return written
