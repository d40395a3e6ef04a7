"""What is shown while the runs of a study are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from nh2st_graph import study
from nh2st_graph._errors import ConfigError
from nh2st_graph.cli._interrupted import interruptible
from nh2st_graph.study import Outcome, PlannedRun, Study

__all__ = ["Options", "carry_out", "numbers", "watched"]

T = TypeVar("T")


def numbers(text: str | None) -> list[int] | None:
    """Read the value of ``--seeds``; None where it was not given.

    Raises
    ------
    ConfigError
        If it is no list of whole numbers.
    """
    if text is None:
        return None
    try:
        return [int(word) for word in text.strip("[]").split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r}; expected whole numbers with commas between, such as 0,1,2") from None


class Options(NamedTuple):
    """What the commands that do many runs have in common."""

    overrides: list[str]
    seeds: str | None
    only: list[str]
    jobs: int | None
    resume: bool


def carry_out(
    read: Callable[..., Study], run: Callable[..., T], path: Path, out: Path, options: Options
) -> tuple[Study, T]:
    """Read a file that asks for many runs, and do them.

    Parameters
    ----------
    read, run
        Of :mod:`nh2st_graph.study`: for studies, or for benchmarks.
    path, out, options
        The file, the folder, and the rest of the command line.

    Returns
    -------
    What was asked for, and what came out.
    """
    plan = read(path, options.overrides, seeds=numbers(options.seeds))

    def work(watch: study.Watch) -> T:
        return run(plan, out, jobs=options.jobs, only=options.only, resume=options.resume, watch=watch)

    return plan, watched(plan, out, options.only, work)


def watched(plan: Study, out: Path, only: Sequence[str], work: Callable[[study.Watch], T]) -> T:
    """Do the runs of a study, and show how it goes.

    Parameters
    ----------
    plan, out, only
        What is done.
    work
        Does it, telling what it is given of every beginning and end.

    Raises
    ------
    typer.Exit
        With code 130 where it was interrupted.
    """
    left = sum(not study.is_finished(run.folder) for run in plan.runs(out, only))
    with interruptible(), _Display(left, Console(stderr=True)) as display:
        return work(display)


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
