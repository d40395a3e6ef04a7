"""Studies on the command line: progress while they run, and the table at the end."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import pandas as pd
import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from nh2st_graph import study
from nh2st_graph._errors import ConfigError
from nh2st_graph.study import Outcome, PlannedRun, StudyResult

__all__ = ["run_ablate"]


def run_ablate(
    path: Path,
    out: Path,
    overrides: list[str],
    *,
    seeds: str | None = None,
    only: list[str] | None = None,
    jobs: int | None = None,
    resume: bool = False,
) -> None:
    """Run a study, show how it goes, and print its table.

    Raises
    ------
    typer.Exit
        With code 1 where a run failed, and 130 where the study was interrupted.
    """
    plan = study.read_study(path, overrides, seeds=None if seeds is None else _numbers(seeds))
    only = only or []
    left = sum(not study.is_finished(run.folder) for run in plan.runs(out, only))
    try:
        with _Display(left, Console(stderr=True)) as display:
            result = study.run_study(plan, out, jobs=jobs, only=only, resume=resume, watch=display)
    except KeyboardInterrupt:
        typer.echo("interrupted; go on with the same command and --resume", err=True)
        raise typer.Exit(130) from None
    _print(plan, result)
    if result.failures:
        raise typer.Exit(1)


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.strip("[]").split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r}; expected whole numbers with commas between, such as 0,1,2") from None


class _Display:
    """What is running: bars on a terminal, one line a run elsewhere. Called as :data:`nh2st_graph.study.Watch`."""

    def __init__(self, total: int, console: Console) -> None:
        self.console, self.total, self.ended = console, total, 0
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.all = self.progress.add_task("runs", total=total)
        self.bars: dict[Path, TaskID] = {}

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, run: PlannedRun, outcome: Outcome | None) -> None:
        """Take note that a run begins or has ended."""
        if outcome is None:
            if run.folder not in self.bars:
                self.bars[run.folder] = self.progress.add_task(f"  {run}", total=None)
            return
        self.ended += 1
        self.progress.remove_task(self.bars.pop(run.folder))
        self.progress.update(self.all, completed=self.ended)
        if outcome.reason is not None:
            self._say(f"failed: {run}: {outcome.reason}")
        elif not self.console.is_terminal:
            self._say(f"done: {run}")

    def _say(self, line: str) -> None:
        self.console.print(f"[{self.ended}/{self.total}] {line}", markup=False, highlight=False, soft_wrap=True)


def _print(plan: study.Study, result: StudyResult) -> None:
    from nh2st_graph.cli._tables import print_paths

    console = Console()
    for split, part in result.table.groupby("split", sort=False):
        text, title = study.cells(part), plan.name if len(plan.splits) == 1 else f"{plan.name}: {split}"
        styles = list(part["role"].map({"base": "bold", "variant": "", "reference": "dim"}))
        # In two tables, and a score in one cell with its difference, so that a terminal of 80 columns holds them.
        scores = ["mean r", "mean r given depth"]
        for score in scores:
            text[score] += "\n" + text.pop(f"{score}: difference")
        _print_table(console, text[scores], styles, title)
        rest = text.drop(columns=scores)
        _print_table(console, rest.rename(columns=lambda column: column.replace(" ", "\n")), styles, "")
    console.print(study.explanation(plan), style="dim", highlight=False)
    for run, reason in result.failures.items():
        console.print(f"failed: {run}: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
    print_paths(result.written)


def _print_table(console: Console, text: pd.DataFrame, styles: list[str], title: str) -> None:
    shown = Table(title=title or None, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    shown.add_column("")
    for column in text.columns:
        shown.add_column(column, justify="right", no_wrap=True)
    for (name, row), style in zip(text.iterrows(), styles, strict=True):
        shown.add_row(Text(str(name)), *(Text(cell.rstrip()) for cell in row), style=style)
    console.print(shown)
