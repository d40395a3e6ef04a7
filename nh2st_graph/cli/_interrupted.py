"""Handle Ctrl-C in a command that can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["interruptible"]


@contextmanager
def interruptible() -> Iterator[None]:
    """Run work that can be resumed: on Ctrl-C, say how to go on.

    Raises
    ------
    typer.Exit
        With code 130 on Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; go on with the same command and --resume", err=True)
        raise typer.Exit(130) from None
