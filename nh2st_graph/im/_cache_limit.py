"""The size of the feature cache: what is in it, its limit, and what goes first."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open

from nh2st_graph._errors import ConfigError

__all__ = ["LIMIT", "CachedFile", "cache_limit", "cached", "keep_in_use", "listed_files", "shrink_cache"]

logger = logging.getLogger(__name__)

#: Environment variable with the most bytes of the cache, in units of 1e9; and the default.
LIMIT, _DEFAULT = "NH2ST_GRAPH_CACHE_GB", 100.0

_ENDING = ".safetensors"
#: Features are named by a digest of what they are of; parts of an interrupted encoding also by their number.
_OURS = re.compile(rf"[0-9a-f]{{64}}(\.[^.]+)?{re.escape(_ENDING)}")
#: Seconds after which nobody still writes a file that did not grow.
_STALE = 3600


@dataclass(frozen=True)
class CachedFile:
    """A file of the feature cache.

    Attributes
    ----------
    size
        In bytes.
    used
        When it was last read or written, in seconds since 1970.
    section, encoder
        What it is of; the name of its first feature in place of the encoder in files of earlier versions.
    patch_um
        Side of a patch in um, as text; empty in files of earlier versions, and of several encoders.
    n_spots
        Number of spots.
    part
        Whether it is a part of a section whose encoding was interrupted, or goes on.
    """

    path: Path
    size: int
    used: float
    section: str
    encoder: str
    patch_um: str
    n_spots: int
    part: bool


def cache_limit() -> float:
    """Read the limit of the feature cache in bytes from the environment.

    Raises
    ------
    ConfigError
        If it is no number above 0.
    """
    given = os.environ.get(LIMIT)
    try:
        limit = _DEFAULT if given is None else float(given)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise ConfigError(f"{LIMIT}={given}; give a number of GB above 0, or inf for no limit")
    return limit * 1e9


def listed_files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """List the files of features in a folder, those that were not used for longest first.

    A file that is not named by a digest is somebody else's, such as a model's weights, and is left alone.
    """
    found = []
    for path in folder.glob(f"*{_ENDING}") if folder.is_dir() else ():
        if not _OURS.fullmatch(path.name):
            continue
        try:
            found.append((path, path.stat()))
        except OSError:  # another process removed it
            continue
    return sorted(found, key=lambda each: (each[1].st_mtime_ns, each[0].name))


def cached(folder: Path) -> list[CachedFile]:
    """Describe the files of features in a folder, those that were used last first."""
    return [_described(path, about) for path, about in reversed(listed_files(folder))]


def _described(path: Path, stat: os.stat_result) -> CachedFile:
    part = "." in path.stem
    try:
        with safe_open(path, framework="numpy") as file:
            about, shape = file.metadata() or {}, file.get_slice("features").get_shape()
        names = json.loads(about.get("names", "[]"))
        encoder = about.get("encoder") or ("several" if "section" in about else (names or ["unknown"])[0])
        section, n_spots, patch_um = about.get("section", "unknown"), shape[0], about.get("patch_um", "")
    except (OSError, SafetensorError, KeyError, ValueError):
        section, encoder, n_spots, patch_um = "damaged", "damaged", 0, ""
    return CachedFile(path, stat.st_size, stat.st_mtime, section, encoder, patch_um, n_spots, part)


def shrink_cache(folder: Path, limit: float, *, keep: Path | None = None) -> list[Path]:
    """Remove the files that were not used for longest, until all others together have at most ``limit`` bytes.

    Parameters
    ----------
    folder
        Folder of the files.
    limit
        Most bytes; 0 removes all.
    keep
        A file that stays. Those that a process has mapped stay too.

    Returns
    -------
    The files that were removed.
    """
    _remove_leftovers(folder)
    files = listed_files(folder)
    total, removed = sum(about.st_size for _, about in files), []
    for path, about in files:
        if total <= limit:
            break
        if path != keep and _remove(path):
            removed.append(path)
            total -= about.st_size
    if removed and keep is not None:
        logger.info(
            "feature cache %s: removed the %d files that were not used for longest, since it has a limit of %g GB "
            "(set %s for another)",
            folder,
            len(removed),
            limit / 1e9,
            LIMIT,
        )
    return removed


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written; a file that grew within the hour may still be written."""
    for path in folder.glob(f".*{_ENDING}.*.part") if folder.is_dir() else ():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE:
                path.unlink()


def _remove(path: Path) -> bool:
    """Remove a file unless a process has it mapped; say whether it is gone."""
    try:
        with path.open("rb") as file:
            _lock(file, alone=True)
            path.unlink()
    except OSError:  # in use, gone, read-only, or on a disk without locks
        return not path.exists()
    return True


def keep_in_use(path: Path, mapped: object) -> None:
    """Keep a file from being removed for its size as long as an array is mapped from it."""
    file = path.open("rb")
    try:
        _lock(file, alone=False)
    except OSError:  # on a disk without locks nothing can be removed either
        file.close()
        return
    weakref.finalize(mapped, file.close)


def _lock(file: BinaryIO, *, alone: bool) -> None:
    """Lock a file until it is closed, alone or beside others; an OSError says that it cannot be."""
    if sys.platform == "win32":  # where a mapped file cannot be removed in any case
        return
    import fcntl

    fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
