"""Files that are complete under their names, or not there."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["write_text", "written_aside"]


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Write a file or folder beside its place, and rename it when the block is over.

    A name thus shows the old content or the new, never a part. Nothing is left of a block that fails or is interrupted.
    A folder takes the place of none: an older one is to be removed at the end of the block.

    Yields
    ------
    Where to write.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield aside
        aside.replace(path)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, as :func:`written_aside` does."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
