"""What Ctrl-C does to a command that can go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["interruptible"]


@contextmanager
def interruptible() -> Iterator[None]:
    """Do work that goes on where an interruption stopped it.

    Raises
    ------
    typer.Exit
        With code 130 where it was interrupted, which is said.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; go on with the same command and --resume", err=True)
        raise typer.Exit(130) from None
