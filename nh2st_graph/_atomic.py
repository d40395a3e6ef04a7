"""Write files atomically, and find the cache folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ENVIRONMENT", "cache_root", "write_text", "written_aside"]

#: Environment variable that names the cache folder, in place of the user's cache directory.
ENVIRONMENT = "NH2ST_GRAPH_CACHE"


def cache_root() -> Path:
    """Find the cache folder: the one that the environment names, or the user's."""
    import pooch

    return Path(os.environ.get(ENVIRONMENT) or pooch.os_cache("nh2st_graph")).expanduser()


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
