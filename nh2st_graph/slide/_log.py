"""Log: each warning once, and what tifffile logs of a file of ours in our words."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["say_once", "tifffile_said"]

logger = logging.getLogger("nh2st_graph")


@cache
def say_once(text: str) -> None:
    """Warn of what was not said before."""
    logger.warning(text)


@contextmanager
def tifffile_said() -> Iterator[list[str]]:
    """Collect warnings and errors that tifffile logs in this thread while the block runs, instead of logging them.

    Yields
    ------
    The messages so far, each in one line.
    """
    said: list[str] = []
    thread = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        if record.thread != thread or record.levelno < logging.WARNING:
            return True
        said.append(re.sub(r"^<tifffile\.[^>]*> ", "", " ".join(record.getMessage().split())))
        return False

    log = logging.getLogger("tifffile")
    log.addFilter(keep)
    try:
        yield said
    finally:
        log.removeFilter(keep)
