"""Show what a command does and says, and end it in order on Ctrl-C and SIGTERM."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer

from nh2st_graph._progress import LogHandler, PhaseHandler, phase, phases

__all__ = ["interruptible", "shown_messages", "silent", "working"]

#: Seconds until a signal that was lost is sent again.
_SOON = 0.01


@contextmanager
def working() -> Iterator[None]:
    """Show from now on that the command works; show nothing any more after the block.

    It begins with the import of torch and the rest, which takes many seconds on a slow machine.
    """
    phase("loading PyTorch and other libraries")
    try:
        yield
    finally:
        phase()


@contextmanager
def silent() -> Iterator[None]:
    """Show errors alone, in a process beside the one that is watched."""
    phase()
    logging.disable(logging.WARNING)
    phases.disabled = True
    try:
        yield
    finally:
        phases.disabled = False
        logging.disable(logging.NOTSET)


@contextmanager
def interruptible(resumable: bool) -> Iterator[None]:
    """Run a command: on Ctrl-C or SIGTERM, let it tidy up, and say how to go on.

    Parameters
    ----------
    resumable
        Whether the command has ``--resume``.

    Raises
    ------
    typer.Exit
        With code 130 on Ctrl-C, and 143 on SIGTERM.
    """
    got: list[int] = []
    lost = _Lost(got)

    def stop(number: int, _: object) -> None:
        got.append(number)
        if not lost.over:
            raise KeyboardInterrupt

    with _handled(stop):
        try:
            with lost:
                yield
        except BaseException as error:
            lost.end()  # once more: a further signal may have kept it from its end
            # What a library was doing may turn the interruption into an error of its own.
            if not got and not isinstance(error, KeyboardInterrupt):
                raise
            phase()
            what = "ended by SIGTERM" if got[:1] == [signal.SIGTERM] else "interrupted"
            how = "go on with the same command and --resume" if resumable else "what was finished is kept"
            kept = str(error) if isinstance(error, KeyboardInterrupt) else ""
            typer.echo("; ".join(filter(None, [what, kept, how])), err=True)
            raise typer.Exit(128 + (got or [signal.SIGINT])[0]) from None


class _Lost:
    """Send a signal again whose KeyboardInterrupt was lost, until the block is over; none comes after it.

    Python ignores what is raised while it clears up an object, as h5py's objects are at every read and write, and where
    a library in C calls Python, as LLVM does while numba compiles.
    """

    def __init__(self, got: Sequence[int]) -> None:
        self.got, self.over, self.before = got, False, sys.unraisablehook
        self.again: list[threading.Timer] = []

    def __enter__(self) -> None:
        sys.unraisablehook = self.told

    def __exit__(self, *_: object) -> None:
        self.end()

    def told(self, what: sys.UnraisableHookArgs) -> None:
        """Take what Python ignores: our interruptions are sent again, all else is told as before."""
        if not (self.got and issubclass(what.exc_type, KeyboardInterrupt)):
            self.before(what)
            return
        timer = threading.Timer(_SOON, _send, (self.got[-1],))
        timer.daemon = True
        self.again.append(timer)
        timer.start()

    def end(self) -> None:
        """Wait for what is being sent, and send no more."""
        self.over = True
        sys.unraisablehook = self.before
        for timer in self.again:
            timer.cancel()
            if timer.ident is not None:  # it was started
                timer.join()


def _send(number: int) -> None:
    """Send a signal to the thread that works, which may be waiting in the system."""
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


@contextmanager
def _handled(stop: Callable[[int, object], None]) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM in the block, unless a parent process asked to ignore them."""
    numbers = [signal.SIGINT, signal.SIGTERM] if threading.current_thread() is threading.main_thread() else []
    before = {each: signal.getsignal(each) for each in numbers}
    ours = [each for each, handler in before.items() if handler not in {signal.SIG_IGN, None}]
    for each in ours:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, before[each])


@contextmanager
def shown_messages(debug: bool, as_process: bool) -> Iterator[None]:
    """Show messages of the package, one line each, and warnings of other packages; as a process also what it does."""
    handler, shown = LogHandler(), PhaseHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith("nh2st_graph"))
    root, own = logging.getLogger(), logging.getLogger("nh2st_graph")
    before = own.level
    own.setLevel(logging.DEBUG if debug else logging.INFO)
    # Some packages have their own handlers, and set their level on import.
    for noisy in ("squidpy", "spatialdata._logging", "timm"):
        logging.getLogger(noisy).addFilter(_only_warnings)
    root.addHandler(handler)
    if as_process:
        phases.setLevel(logging.DEBUG)
        phases.addHandler(shown)
    try:
        yield
    finally:
        phases.removeHandler(shown)
        shown.close()
        root.removeHandler(handler)
        own.setLevel(before)


def _only_warnings(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
