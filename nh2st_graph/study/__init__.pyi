from ._file import BenchmarkFile, StudyFile, read_benchmark, read_study
from ._folder import check_folder as check_folder
from ._folds import FoldEntry
from ._plan import Fold, PlannedRun, Study, Variant
from ._plan import check_jobs as check_jobs
from ._protocols import Protocols
from ._protocols_text import protocol_tables as protocol_tables
from ._results import Results, StudyResult
from ._run import run_study
from ._text import cells as cells
from ._workers import Outcome, Watch

__all__ = [
    "BenchmarkFile",
    "Fold",
    "FoldEntry",
    "Outcome",
    "PlannedRun",
    "Protocols",
    "Results",
    "Study",
    "StudyFile",
    "StudyResult",
    "Variant",
    "Watch",
    "read_benchmark",
    "read_study",
    "run_study",
]
