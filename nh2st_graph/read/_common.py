"""What every reader needs: wanted names against known ones, pictures in a folder, what was dropped."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from anndata import AnnData

from nh2st_graph._errors import DataError, ImageError, nearest
from nh2st_graph._keys import Key

logger = logging.getLogger("nh2st_graph")

_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})


def wanted_names(names: str | Sequence[str] | None, known: Iterable[str], root: Path) -> list[str]:
    """Names of the sections to read: all known ones in order, or the given ones, each checked."""
    known = sorted(known)
    if not known:
        raise DataError(f"no sections found in {root}; check the path (data.root) and the format (data.format)")
    if names is None:
        return known
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in known:
            raise DataError(f"no section {name!r} in {root}; {nearest(str(name), known)}")
    return wanted


def check_exists(path: Path) -> None:
    """Refuse a path that is not there."""
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path (data.root)")


def picture_in(folder: Path) -> Path | None:
    """Find the one picture in a folder; ``None`` where there is none, an error where there are several."""
    if not folder.is_dir():
        return None
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in _PICTURES and not p.name.startswith("."))
    if len(found) > 1:
        shown = ", ".join(p.name for p in found)
        raise ImageError(f"{folder} holds {len(found)} pictures ({shown}); leave only the full-resolution one")
    return found[0] if found else None


def in_array_order(adata: AnnData) -> AnnData:
    """Order spots by array row, then column, so that no file's row order matters."""
    order = np.lexsort((adata.obs[Key.obs.array_col], adata.obs[Key.obs.array_row]))
    return adata[order].copy()


def report_dropped(adata: AnnData, section: str, dropped: Mapping[str, int]) -> None:
    """Keep in ``uns`` how many spots were left out and why, and log it where there were any."""
    adata.uns[Key.uns.dropped] = dict(dropped)
    some = [f"{count} ({reason.replace('_', ' ')})" for reason, count in dropped.items() if count]
    if some:
        logger.warning("section %r: kept %d spots, dropped %s", section, adata.n_obs, ", ".join(some))
