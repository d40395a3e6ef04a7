"""Studies: variants of a configuration compared over folds and seeds.

A study file names a base, what each variant changes, folds and seeds. Every combination becomes a run folder as
``train`` writes it, and the scores become one table with paired intervals. A study from :func:`read_study` compares its
variants with the base (an ablation); one from :func:`read_benchmark` ranks them, and compares them with the best
baseline. :func:`run_study` runs both.
"""

from __future__ import annotations

import warnings
from typing import Any

from nh2st_graph._errors import RenamedWarning
from nh2st_graph.study._file import BenchmarkFile, StudyFile, read_benchmark, read_study
from nh2st_graph.study._folder import check_folder
from nh2st_graph.study._folds import FoldEntry
from nh2st_graph.study._plan import Fold, PlannedRun, Study, Variant
from nh2st_graph.study._results import Results, StudyResult
from nh2st_graph.study._run import run_study
from nh2st_graph.study._text import cells
from nh2st_graph.study._workers import Outcome, Watch

__all__ = [
    "BenchmarkFile",
    "Fold",
    "FoldEntry",
    "Outcome",
    "PlannedRun",
    "Results",
    "Study",
    "StudyFile",
    "StudyResult",
    "Variant",
    "Watch",
    "cells",
    "check_folder",
    "read_benchmark",
    "read_study",
    "run_study",
]

_RENAMED = {"BenchmarkResult": "StudyResult", "SplitEntry": "FoldEntry", "run_benchmark": "run_study"}


def __getattr__(name: str) -> Any:
    """Find an earlier name, which is there until version 0.2."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"study.{name} is now study.{_RENAMED[name]}", RenamedWarning, stacklevel=2)
    return globals()[_RENAMED[name]]
