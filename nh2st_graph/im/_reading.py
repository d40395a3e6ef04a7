"""Read ahead: a thread makes the next items while the caller works on the last."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextvars import copy_context
from queue import Empty, Queue
from threading import Event, Thread
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")


class _End:
    """Follows the last item, with the error that stopped the reader if there was one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def read_ahead(items: Iterable[T], ahead: int = 2) -> Generator[T]:
    """Give the items of an iterable, which one other thread makes.

    That thread alone runs the iterable. It is over when this iterator is: after the last item, after an error of the
    reader, which is raised here, and when the caller closes the iterator, as after an error of its own or Ctrl-C.

    Parameters
    ----------
    items
        What to read.
    ahead
        Largest number of items that wait; one more is being made. With 0 there is no thread.
    """
    if ahead < 1:
        yield from items
        return
    waiting: Queue[T | _End] = Queue(maxsize=ahead)
    stop = Event()

    def read() -> None:
        try:
            for item in items:
                waiting.put(item)
                if stop.is_set():
                    return
        except BaseException as error:
            waiting.put(_End(error))
        else:
            waiting.put(_End())

    reader = Thread(target=copy_context().run, args=(read,), name="read-ahead", daemon=True)
    reader.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        # A reader that waits for room gets it, and sees then that it is to stop.
        while True:
            try:
                waiting.get_nowait()
            except Empty:
                break
        reader.join()
