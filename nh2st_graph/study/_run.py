"""Whole studies: all runs of a study in a folder, and the tables of what came out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from joblib import cpu_count

from nh2st_graph._errors import ConfigError
from nh2st_graph.study._folder import is_finished, open_folder
from nh2st_graph.study._plan import PlannedRun, Study
from nh2st_graph.study._report import write_reports
from nh2st_graph.study._results import Results, collect
from nh2st_graph.study._table import study_table
from nh2st_graph.study._workers import Watch, run_all

__all__ = ["StudyResult", "do_runs", "run_study"]


@dataclass(frozen=True)
class StudyResult:
    """What a study left.

    Attributes
    ----------
    table
        One row for each split and variant; see :func:`~nh2st_graph.study.study_table`.
    results
        Scores of every run.
    failures
        Runs that failed, and why.
    written
        Tables and figure.
    """

    table: pd.DataFrame
    results: Results
    failures: dict[PlannedRun, str]
    written: list[Path]


def run_study(
    study: Study,
    out: str | Path,
    *,
    jobs: int | None = None,
    only: Iterable[str] = (),
    resume: bool = False,
    watch: Watch | None = None,
) -> StudyResult:
    """Run a study, and compare its variants.

    A run that fails is reported and stops no other. A run that is finished is never done again.

    Parameters
    ----------
    study
        From :func:`~nh2st_graph.study.read_study`.
    out
        The study folder; must not exist, unless ``resume``.
    jobs
        Number of processes; one for each core where None. With 1 the runs are done in this process.
    only
        Variants to run now, beside the base; all where empty. Tables show what is there of the others.
    resume
        Go on with a study that was interrupted, or has grown: finished runs are kept, begun ones go on from their last
        checkpoint, failed ones are tried again.
    watch
        Called with each run when it begins (and None) and when it has ended (and its outcome).

    Returns
    -------
    Tables, and what failed. ``out`` holds ``study.yaml``, ``runs/{variant}/{fold}_seed{n}`` (run folders as ``train``
    writes them), ``scores.csv``, ``table.csv``, ``table.md`` and ``forest.png``.

    Raises
    ------
    ConfigError
        If ``only`` names no variant, or ``jobs`` is no positive number.
    RunError
        If the folder exists, or ``resume`` is asked for and the folder is of another study.
    """
    out = Path(out)
    failures = do_runs(study, out, jobs=jobs, only=only, resume=resume, watch=watch)
    planned = study.runs(out)
    results = collect(study, planned)
    table = study_table(study, planned, results, failures)
    return StudyResult(table, results, failures, write_reports(study, table, results, failures, out))


def do_runs(
    study: Study, out: Path, *, jobs: int | None, only: Iterable[str], resume: bool, watch: Watch | None
) -> dict[PlannedRun, str]:
    """Do those runs of a study that are left; see :func:`run_study`. Return why runs failed."""
    jobs = cpu_count() if jobs is None else jobs
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}; allowed: 1 or more")
    wanted = study.runs(out, only)
    open_folder(study, out, resume=resume)
    left = [run for run in wanted if not is_finished(run.folder)]
    outcomes = run_all(left, jobs, _silent if watch is None else watch)
    return {outcome.run: outcome.reason for outcome in outcomes if outcome.reason is not None}


def _silent(run: PlannedRun, outcome: object) -> None:
    """Tell nobody."""
