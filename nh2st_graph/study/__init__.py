"""Studies: variants of a configuration compared over folds and seeds.

A study file names a base, what each variant changes, folds and seeds. Every combination becomes a run folder as
``train`` writes it, and the scores become one table with paired intervals. A study from :func:`read_study` compares its
variants with the base (an ablation); one from :func:`read_benchmark` ranks them, and compares them with the best
baseline. :func:`run_study` runs both.

Names load on first use (``__init__.pyi`` lists them), so that arguments can be checked without loading pandas.
"""

import warnings
from typing import Any

from nh2st_graph._errors import RenamedWarning, late_names

_load, __dir__, __all__ = late_names(__name__, __file__)

_RENAMED = {"BenchmarkResult": "StudyResult", "SplitEntry": "FoldEntry", "run_benchmark": "run_study"}


def __getattr__(name: str) -> Any:
    """Load a name, or find an earlier one, which is there until version 0.2."""
    if name not in _RENAMED:
        return _load(name)
    warnings.warn(f"study.{name} is now study.{_RENAMED[name]}", RenamedWarning, stacklevel=2)
    return _load(_RENAMED[name])
