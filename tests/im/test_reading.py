from __future__ import annotations

import threading
from contextlib import closing

import pytest

from nh2st_graph.im._reading import read_ahead

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(autouse=True)
def _no_thread_stays():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("ahead", [0, 1, 2, 9])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_gives_the_items_in_their_order(n, ahead):
    assert list(read_ahead(iter(range(n)), ahead)) == list(range(n))


def test_one_other_thread_makes_them():
    threads = set(read_ahead(threading.get_ident() for _ in range(5)))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_reads_while_the_caller_works_and_not_far_ahead():
    made, room = [], threading.Semaphore(0)

    def items():
        for i in range(10):
            made.append(i)
            room.release()
            yield i

    with closing(read_ahead(items(), 2)) as found:
        assert next(found) == 0
        for _ in range(4):  # the first, two that wait, and one that waits for room
            assert room.acquire(timeout=5)
        assert made == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [ValueError("of the reader"), KeyboardInterrupt()])
def test_an_error_of_the_reader_reaches_the_caller_after_what_was_read(error):
    def items():
        yield 1
        raise error

    found = read_ahead(items())
    assert next(found) == 1
    with pytest.raises(type(error)) as caught:
        next(found)
    assert caught.value is error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_of_the_caller_ends_the_reader(error):
    made = []

    def items():
        for i in range(1000):
            made.append(i)
            yield i

    def work():
        with closing(read_ahead(items())) as found:
            for i in found:
                if i == 3:
                    raise error

    with pytest.raises(error):
        work()
    assert len(made) < 10
