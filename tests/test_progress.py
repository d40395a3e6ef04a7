"""Bars, spinner and log lines share a console, and none breaks another."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console
from rich.progress import Progress

from nh2st_graph import _progress
from nh2st_graph._progress import LogHandler, PhaseHandler, console, phase, phases


@pytest.fixture
def terminal(monkeypatch) -> io.StringIO:
    """Make the console of the package one of a terminal, and give what it shows."""
    shown = io.StringIO()
    made = Console(file=shown, force_terminal=True, width=60, color_system=None)
    monkeypatch.setattr(_progress, "console", lambda: made)
    return shown


@pytest.fixture
def spoken() -> PhaseHandler:
    handler, before = PhaseHandler(), phases.level
    phases.setLevel(logging.DEBUG)
    phases.addHandler(handler)
    yield handler
    phases.removeHandler(handler)
    phases.setLevel(before)
    handler.close()


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("nh2st_graph", logging.WARNING, __file__, 1, text, (), None)


def test_there_is_one_console_of_an_environment(monkeypatch):
    first = console()
    assert console() is first
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert console() is not first
    assert console().is_terminal


def test_a_log_line_stands_above_the_bars(terminal):
    with Progress(console=_progress.console(), transient=True, auto_refresh=False) as bars:
        bars.add_task("train fold1", total=2)
        bars.refresh()
        LogHandler().emit(record("section 'C3': kept 180 spots, dropped 2 [positions without counts]"))
        bars.refresh()
    # The bar's line is taken away before the log line is written, and drawn again below it.
    lines = [line.split("\x1b[2K")[-1] for line in terminal.getvalue().splitlines()]
    assert "section 'C3': kept 180 spots, dropped 2 [positions without counts]" in lines
    assert not [line for line in lines if "train fold1" in line and "section" in line]


def test_a_log_line_of_any_length_is_one_line(capsys):
    LogHandler().emit(record("a" * 500))
    assert capsys.readouterr().err == "a" * 500 + "\n"


def test_phases_are_lines_where_there_is_no_terminal(spoken, capsys):
    phase("checking", brief=True)
    phase("reading sections")
    phase("reading sections")
    phase("training")
    phase()
    assert capsys.readouterr().err == "reading sections ...\ntraining ...\n"


def test_phases_are_a_spinner_on_a_terminal(spoken, terminal):
    phase("checking", brief=True)
    assert "checking" in terminal.getvalue()
    phase("training")
    with Progress(console=_progress.console(), transient=True) as bars:  # a bar stands below the spinner
        bars.add_task("train fold1", total=2)
        bars.refresh()
        assert "train fold1" in terminal.getvalue()
    phase()
    assert "training" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # the cursor is back, and the line is gone
    assert not _progress.console()._live_stack


def test_nothing_is_said_in_python(capsys):
    phase("reading sections")
    assert capsys.readouterr() == ("", "")
