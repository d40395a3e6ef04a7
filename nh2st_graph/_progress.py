"""What a person sees while work goes on: bars, a spinner, and log lines, on one console that keeps them apart."""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = ["LogHandler", "PhaseHandler", "bars", "be_quiet", "console", "is_quiet", "phase", "phases"]

#: Its records say what is being done now. They are shown if a :class:`PhaseHandler` listens.
phases = logging.getLogger("nh2st_graph.phase")
phases.propagate = False

#: Whether only warnings and errors are shown.
_quiet = False

#: What a console reads of the environment when it is made.
_ENVIRONMENT = ("TERM", "COLORTERM", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


def console() -> Console:
    """Give the console of standard error. Bars and log lines of another console would be drawn over its bars."""
    return _console(tuple(os.environ.get(name) for name in _ENVIRONMENT))


@cache
def _console(environment: tuple[str | None, ...]) -> Console:
    """Make a console for an environment, which it reads only now."""
    del environment
    return Console(stderr=True)


def phase(text: str = "", *, brief: bool = False) -> None:
    """Say what is being done now.

    Parameters
    ----------
    text
        Such as ``"reading sections"``; empty where it is over.
    brief
        It takes a moment: show it on a terminal, where it goes away again, and leave no line elsewhere.
    """
    if not _quiet:
        phases.log(logging.DEBUG if brief else logging.INFO, "%s", text)


def be_quiet(quiet: bool) -> None:
    """Show neither bars, nor what is being done, nor messages, until it is taken back; warnings are shown."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether only warnings and errors are shown."""
    return _quiet


def bars(*columns: ProgressColumn, shown: bool = True) -> Progress:
    """Make bars that say what is done, how much of it, and the time left. They go away at their end.

    Parameters
    ----------
    columns
        More columns, after the numbers.
    shown
        False shows none; so does any place that is no terminal.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("left"),
        console=console(),
        disable=not (shown and console().is_terminal and not _quiet),
        transient=True,
    )


class LogHandler(logging.Handler):
    """Show each record in one line, above the bars that are on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        try:
            if _quiet and record.levelno < logging.WARNING:
                return
            console().print(self.format(record), markup=False, highlight=False, emoji=False, soft_wrap=True)
        except Exception:  # as every handler does: a log line that cannot be shown stops no work
            self.handleError(record)


class PhaseHandler(logging.Handler):
    """Show what is being done: a spinner on a terminal, a line for each phase elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None
        self._said = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a phase, or take the spinner away."""
        text = record.getMessage()
        if not text:
            self._stop()
        elif not console().is_terminal:
            if text != self._said and record.levelno > logging.DEBUG:
                console().print(f"{text} ...", markup=False, highlight=False, soft_wrap=True)
        elif self._live is None:
            # What goes into a file or pipe is the command's output, which this console must not take.
            self._live = Live(
                Spinner("dots", Text(text)), console=console(), transient=True, redirect_stdout=sys.stdout.isatty()
            )
            self._live.start(refresh=True)
        else:
            self._live.update(Spinner("dots", Text(text)), refresh=True)
        self._said = text

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        """Take the spinner away."""
        self._stop()
        super().close()
