"""Ctrl-C and SIGTERM: every command ends in order, and says how to go on."""

from __future__ import annotations

import ctypes
import signal
import sys
import time

import pytest
import typer

from nh2st_graph.cli import main
from nh2st_graph.cli._working import interruptible

BOTH = pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "SIGTERM")])


@BOTH
@pytest.mark.parametrize(
    ("words", "at", "how"),
    [
        (["info", "x"], "nh2st_graph.cli._info.run_info", "what was finished is kept"),
        (["encoders"], "nh2st_graph.cli._encoders.run_encoders", "what was finished is kept"),
        (["prepare", "visium", "x", "--out", "y"], "nh2st_graph.cli._prepare.run_prepare", "--resume"),
        (["benchmark", "x", "--out", "y"], "nh2st_graph.cli._runs.run_many", "--resume"),
        (["evaluate", "x"], "nh2st_graph.tl.check_evaluation", "what was finished is kept"),
        (["predictability", "x", "--out", "y"], "nh2st_graph._files.check_place", "what was finished is kept"),
    ],
)
def test_a_command_ends_in_order(monkeypatch, capsys, number, word, words, at, how):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(at, lambda *_, **__: signal.raise_signal(number))
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 128 + number
    (said,) = capsys.readouterr().err.splitlines()
    assert word in said
    assert how in said
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_library_that_makes_an_error_of_it(capsys):
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("partially initialised") from None

    with pytest.raises(typer.Exit) as end, interruptible(True):
        work()
    assert end.value.exit_code == 143
    assert "--resume" in capsys.readouterr().err


@BOTH
def test_an_interruption_that_gets_lost_in_a_library_in_c(capfd, number, word):
    """As where LLVM calls numba: Python prints the exception of a callback, and goes on."""
    callback = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(number))
    before = sys.unraisablehook

    def work() -> None:
        callback()
        time.sleep(5)
        raise AssertionError("it goes on")

    with pytest.raises(typer.Exit) as end, interruptible(True):
        work()
    assert end.value.exit_code == 128 + number
    (said,) = capfd.readouterr().err.splitlines()
    assert word in said
    assert sys.unraisablehook is before


class SignalsLast:
    """Is interrupted while Python clears it up, some times."""

    def __init__(self, number: int, times: int) -> None:
        self.number, self.times = number, times

    def __del__(self) -> None:
        if self.times:
            SignalsLast(self.number, self.times - 1)
        signal.raise_signal(self.number)


@BOTH
@pytest.mark.parametrize("times", [0, 2])
def test_one_that_python_ignores_is_sent_again(capsys, number, word, times):
    hook = sys.unraisablehook

    def work() -> None:
        SignalsLast(number, times)
        time.sleep(60)

    with pytest.raises(typer.Exit) as end, interruptible(True):
        work()
    assert end.value.exit_code == 128 + number
    assert word in capsys.readouterr().err
    assert sys.unraisablehook is hook


@BOTH
def test_none_comes_after_the_command(capsys, number, word):
    def work() -> None:
        SignalsLast(number, 20)
        time.sleep(60)

    late: list[int] = []
    before = signal.signal(number, lambda got, _: late.append(got))
    try:
        for _ in range(5):
            with pytest.raises(typer.Exit), interruptible(True):
                work()
            time.sleep(0.03)
    finally:
        signal.signal(number, before)
    assert not late
    assert word in capsys.readouterr().err


def test_other_errors_that_python_ignores_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Fails:
        def __del__(self) -> None:
            raise ValueError

    with interruptible(True):
        Fails()
    assert len(told) == 1


def test_errors_stay_errors():
    with pytest.raises(ValueError, match="mine"), interruptible(True):
        raise ValueError("mine")


def test_what_a_parent_asked_to_ignore_is_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible(True):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
