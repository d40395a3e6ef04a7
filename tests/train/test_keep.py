"""Ctrl-C and SIGTERM while an epoch is going on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from nh2st_graph.train._keep import Signals

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


class EndedError(Exception):
    """What the handler of the caller raises."""


def end(number: int, _: object) -> None:
    raise EndedError(number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@BOTH
def test_the_first_waits_until_it_is_let_through(number):
    signals = Signals()
    signals.begin()
    assert not signals.waiting
    signal.raise_signal(number)
    signals.look()
    assert signals.waiting
    with pytest.raises(EndedError, match=str(int(number))):
        signals.let_through()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == [end, end]
    assert not signals.waiting


@BOTH
def test_the_second_counts_at_once(number):
    signals = Signals()
    signals.begin()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(EndedError):
        signal.raise_signal(number)
    with pytest.raises(EndedError):
        signal.raise_signal(number)


def test_it_waits_for_some_seconds_only(caplog):
    signals = Signals(seconds=0)
    signals.begin()
    signals.look()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(EndedError):
        signals.look()


def test_what_it_waits_for_is_said_once(caplog):
    signals = Signals(seconds=60)
    signals.begin()
    signal.raise_signal(signal.SIGINT)
    with caplog.at_level("INFO", "nh2st_graph"):
        signals.look()
        signals.look()
    assert [each.getMessage() for each in caplog.records] == [
        "finishing the epoch, for 60 s at most; Ctrl-C again ends it now"
    ]
    signals.end()


def test_one_of_another_process_is_as_ctrl_c():
    signals = Signals()
    signals.begin()
    with pytest.raises(KeyboardInterrupt):
        signals.let_through()
    assert signal.getsignal(signal.SIGINT) is end


def test_what_is_ignored_or_ends_the_process_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Signals().begin()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_handlers_that_were_set_later_stay():
    signals = Signals()
    signals.begin()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals.end()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is end


def test_in_a_thread_nothing_is_held_back():
    thread = threading.Thread(target=Signals().begin)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is end
    with suppress(EndedError):
        signal.raise_signal(signal.SIGINT)
