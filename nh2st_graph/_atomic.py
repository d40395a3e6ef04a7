"""Write files atomically, and find the cache folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ENVIRONMENT", "cache_root", "write_text", "written_aside"]

#: Environment variable with a cache folder, instead of the user's.
ENVIRONMENT = "NH2ST_GRAPH_CACHE"


def cache_root() -> Path:
    """Find the cache folder: the one in the environment variable, or that of the user."""
    import pooch

    return Path(os.environ.get(ENVIRONMENT) or pooch.os_cache("nh2st_graph")).expanduser()


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Write a file or folder to a temporary path beside it, and rename it at the end of the block.

    The path thus has the old content or the new, never a part of it. A block that fails or is interrupted leaves
    nothing. A folder cannot replace another: remove the old one at the end of the block.

    Yields
    ------
    The path to write to.
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
    """Write a text file in UTF-8, atomically."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
