"""Studies: configurations compared over folds and seeds.

A study file names a base, what each variant changes, folds and seeds. Every combination becomes a run folder as
``train`` writes it, and the scores become one table with paired intervals. What a variant is does not matter here: a
part that is switched off (an ablation), a value of a grid, or another method.
"""

from __future__ import annotations

from nh2st_graph.study._benchmark import BenchmarkFile, SplitEntry, read_benchmark
from nh2st_graph.study._folder import is_finished
from nh2st_graph.study._html import write_html
from nh2st_graph.study._leaderboard import cells as leaderboard_cells
from nh2st_graph.study._leaderboard import explain_leaderboard, leaderboard
from nh2st_graph.study._plan import Fold, PlannedRun, Study, Variant, read_study
from nh2st_graph.study._report import explanation
from nh2st_graph.study._results import Results, collect
from nh2st_graph.study._run import StudyResult, run_study
from nh2st_graph.study._run_benchmark import BenchmarkResult, run_benchmark
from nh2st_graph.study._schema import StudyFile
from nh2st_graph.study._table import cells, study_table
from nh2st_graph.study._words import protocol, under_trained, verdict
from nh2st_graph.study._workers import Outcome, Watch

__all__ = [
    "BenchmarkFile",
    "BenchmarkResult",
    "Fold",
    "Outcome",
    "PlannedRun",
    "Results",
    "SplitEntry",
    "Study",
    "StudyFile",
    "StudyResult",
    "Variant",
    "Watch",
    "cells",
    "collect",
    "explain_leaderboard",
    "explanation",
    "is_finished",
    "leaderboard",
    "leaderboard_cells",
    "protocol",
    "read_benchmark",
    "read_study",
    "run_benchmark",
    "run_study",
    "study_table",
    "under_trained",
    "verdict",
    "write_html",
]
