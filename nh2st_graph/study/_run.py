"""Run a study, and compare its variants."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from nh2st_graph._files import on_disk, owned
from nh2st_graph.study._folder import holds_study, open_folder
from nh2st_graph.study._hest import is_task
from nh2st_graph.study._plan import PlannedRun, Study, check_jobs
from nh2st_graph.study._protocols import Protocols, compare_protocols
from nh2st_graph.study._report import tabulated, write_reports
from nh2st_graph.study._results import StudyResult, collect, references, seen_sections
from nh2st_graph.study._table import compare
from nh2st_graph.study._words import explain, findings, under_trained, verdict
from nh2st_graph.study._workers import Outcome, Watch, run_all
from nh2st_graph.tl._cluster import check_scheduler

__all__ = ["run_study"]


def run_study(
    study: Study,
    out: str | Path,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    only: Iterable[str] = (),
    resume: bool = False,
    watch: Watch | None = None,
) -> StudyResult:
    """Run a study, and compare its variants.

    A run that fails is reported and stops no other. A run that is finished is never done again. Image features are
    computed once, by the first run that needs them.

    Parameters
    ----------
    study
        From :func:`~nh2st_graph.study.read_study` or :func:`~nh2st_graph.study.read_benchmark`.
    out
        The study folder. It must not exist, unless ``resume``.
    jobs
        Number of processes; one for each core where None. With 1 the runs are done in this process.
    scheduler
        Address of a Dask scheduler (``tcp://host:8786``, or the file that it wrote): its workers do the runs in place
        of processes of this machine. All must have this package, and see the same files under the same paths.
    only
        Variants to run now, beside the reference; all where empty. Tables also show earlier runs of the others.
    resume
        Go on with a study that was interrupted, or has grown: finished runs are kept, runs that began go on from their
        last checkpoint, and failed ones are tried again.
    watch
        Called with each run when it begins (and None), and when it has ended (and its outcome).

    Returns
    -------
    The tables, and what failed. ``out`` holds ``study.yaml``, ``runs/{variant}/{fold}_seed{n}`` (run folders as
    :func:`~nh2st_graph.tl.train_run` writes them; those of a benchmark without figures), tables and figures.

    Raises
    ------
    ConfigError
        If ``only`` names no variant, ``jobs`` is not positive, or ``scheduler`` is no address.
    RunError
        If there is no scheduler; if the folder exists, or with ``resume`` is the folder of another study; or if another
        process works in it.
    """
    check_jobs(jobs)
    check_scheduler(scheduler, jobs)
    out, jobs = Path(out), _cores() if jobs is None else jobs
    wanted, every = study.runs(out, only), study.runs(out)
    with ExitStack() as stack:
        stack.enter_context(on_disk(out))
        if resume and holds_study(out):
            stack.enter_context(owned(out, "study folder"))
        open_folder(study, out, resume=resume)
        stack.enter_context(owned(out, "study folder"))
        # First, so that a folder that is not complete is told before hours of training; runs take the features from
        # the cache.
        protocols = compare_protocols(study) if study.ranked and is_task(study.config) else None
        # What was never asked for has no place in the tables. What an earlier call had there stays, failed or not.
        shown = tabulated(study, out) | {run.variant for run in [*wanted, *(run for run in every if run.finished)]}
        planned = [run for run in every if run.variant in shown]
        left = [run for run in wanted if not run.finished]
        seen = seen_sections([run for run in planned if run.finished])
        outcomes = run_all(left, jobs, watch, seen, scheduler)
        return _tabulated(study, planned, outcomes, out, protocols)


def _tabulated(
    study: Study,
    planned: Sequence[PlannedRun],
    outcomes: Sequence[Outcome],
    out: Path,
    protocols: Protocols | None = None,
) -> StudyResult:
    """Compare the variants by the finished runs, and write the reports."""
    failures = {outcome.run: outcome.reason for outcome in outcomes if outcome.reason is not None}
    results, below = collect(study, planned), references(study).values()
    shown = {run.variant for run in planned}
    table = compare(
        results.scores,
        results.per_gene,
        {variant.name: variant.role for variant in study.variants if variant.name in shown}
        | dict.fromkeys(below, "reference"),
        reference=study.reference,
        planned=Counter((run.variant, run.fold.split) for run in planned),
        reasons={(run.variant, run.fold.split): failures[run] for run in reversed(planned) if run in failures},
        kinds=not study.ranked and study.config.data.format == "synthetic",
    )
    verdicts: dict[str, list[str]] = {}
    if study.ranked:
        late = under_trained(study, results.curves)
        for split, part in table.groupby("split", sort=False):
            verdicts[str(split)] = verdict(part, late.get(str(split), []))
    beside = None if protocols is None else protocols.beside(table)
    explained, found = explain(study, results.scores), findings(table, study.reference)
    result = StudyResult(study, table, explained, verdicts, results, failures, found, protocols=beside)
    return replace(result, written=write_reports(result, out))


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
