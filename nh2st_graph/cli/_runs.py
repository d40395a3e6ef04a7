"""Studies and benchmarks on the command line: their runs while they are done, and their tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nh2st_graph import study
from nh2st_graph._errors import ConfigError
from nh2st_graph._progress import console, is_quiet, phase, phases
from nh2st_graph.cli._facts import study_facts
from nh2st_graph.cli._output import conclude
from nh2st_graph.tl._cluster import check_scheduler

__all__ = ["run_many"]

#: Styles of rows by role; other roles are plain.
_STYLES = {"base": "bold", "method": "bold", "reference": "dim"}


def run_many(
    read: Callable[..., study.Study], path: Path, out: Path, overrides: list[str], seeds: str | None, **how: Any
) -> None:
    """Read a study file, do its runs, and print its tables.

    Parameters
    ----------
    read
        Reads the file: :func:`nh2st_graph.study.read_study` or :func:`nh2st_graph.study.read_benchmark`.
    path, out, overrides, seeds, how
        The options of the command; ``how`` are those of :func:`nh2st_graph.study.run_study`.

    Raises
    ------
    typer.Exit
        With code 1 if a run failed.
    """
    numbers = _numbers(seeds)
    study.check_jobs(how.get("jobs"))
    check_scheduler(how.get("scheduler"), how.get("jobs"))
    if "resume" in how:
        study.check_folder(out, resume=how["resume"])
    plan = read(path, overrides, seeds=numbers, only=how["only"])
    left = sum(not run.finished for run in plan.runs(out, how["only"]))
    phase("starting the runs")
    # The runs have bars or lines of their own.
    with _without_phases(), Display(left, console()) as display:
        result = study.run_study(plan, out, watch=display.tell, **how)
    phase()
    conclude(lambda: _print(result), lambda: study_facts(result))
    if result.failures:
        raise typer.Exit(1)


@contextmanager
def _without_phases() -> Iterator[None]:
    """Hide what a single run does."""
    phase()
    phases.disabled = True
    try:
        yield
    finally:
        phases.disabled = False


def _numbers(text: str | None) -> list[int] | None:
    """Read the value of ``--seeds``; None if it was not given."""
    try:
        return None if text is None else [int(word) for word in text.strip("[]").split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r}; expected whole numbers with commas between, such as 0,1,2") from None


class Display(Progress):
    """The runs under way: bars on a terminal, one line a run elsewhere."""

    def __init__(self, total: int, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or is_quiet(),
            transient=True,
        )
        self.total, self.ended = total, 0
        self.all = self.add_task("runs", total=total)
        self.bars: dict[Path, TaskID] = {}

    def tell(self, run: study.PlannedRun, outcome: study.Outcome | None) -> None:
        """Take note that a run begins or has ended; this is a :data:`nh2st_graph.study.Watch`."""
        if outcome is None:
            self.bars[run.folder] = self.add_task(f"  {run}", total=None)
            return
        self.ended += 1
        self.remove_task(self.bars.pop(run.folder))
        self.update(self.all, completed=self.ended)
        if outcome.reason is not None or (self.disable and not is_quiet()):
            line = f"done: {run}" if outcome.reason is None else f"failed: {run}: {outcome.reason}"
            _plain(self.console, f"[{self.ended}/{self.total}] {line}", soft_wrap=True)


def _print(result: study.StudyResult) -> None:
    from nh2st_graph.cli._tables import print_cells, print_paths
    from nh2st_graph.metrics import SCORES

    console, plan = Console(), result.study
    for split, part in result.table.groupby("split", sort=False):
        styles = [_STYLES.get(role, "") for role in part["role"]]
        title = f"{plan.name}: {split}" if plan.ranked or len(plan.splits) > 1 else plan.name
        text = study.cells(part)
        if plan.ranked:
            print_cells(console, text.rename(columns=_short), styles, title)
        else:
            # In two tables, and a score in one cell with its difference, so that a terminal of 80 columns holds them.
            scores = list(SCORES.values())
            for score in scores:
                text[score] += "\n" + text.pop(f"{score}: difference")
            print_cells(console, text[scores], styles, title)
            print_cells(console, text.drop(columns=scores), styles, "")
        for sentence in result.verdicts.get(str(split), []):
            _plain(console, f"- {sentence}")
    _plain(console, result.explanation, style="dim")
    if result.protocols is not None:
        for title, text in study.protocol_tables(result.protocols).items():
            print_cells(console, text.set_index(text.columns[0]), [""] * len(text), title)
        for sentence in result.protocols.notes:
            _plain(console, f"- {sentence}")
    for run, reason in result.failures.items():
        _plain(console, f"failed: {run}: {reason}", style="red", soft_wrap=True)
    for sentence in result.findings:
        _plain(console, f"{sentence[0].upper()}{sentence[1:]}.", soft_wrap=True)
    for path in result.written:
        if path.name == "report.html":
            _plain(console, f"Open {path} to see all of it.", soft_wrap=True)
    print_paths(result.written)


def _short(column: str) -> str:
    """Shorten the header of a difference, which may stand in another table than its score."""
    score, _, difference = column.rpartition(": ")
    return f"{difference}, given depth" if "given depth" in score else difference


def _plain(console: Console, text: str, **how: Any) -> None:
    """Print a text as it is: brackets in names are no styles."""
    console.print(text, markup=False, highlight=False, **how)
