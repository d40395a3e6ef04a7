"""Helpers of all readers: wanted names, images in a folder, names of sections, dropped spots."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st_graph._errors import DataError, ImageError, nearest, setting
from nh2st_graph.section import Key

logger = logging.getLogger("nh2st_graph")

#: Endings of image files.
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".btf"})


def wanted_names(names: str | Sequence[str] | None, known: Iterable[str], root: Path) -> list[str]:
    """List the sections to read: all known ones in order, or the given ones, if all of them are known."""
    known = sorted(known)
    if not known:
        raise DataError(f"no sections found in {root}; check {setting('data.root')} and {setting('data.format')}")
    if names is None:
        return known
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in known:
            raise DataError(f"no section {name!r} in {root}; {nearest(str(name), known)}")
    return wanted


def h5ad_files(root: Path) -> dict[str, Path]:
    """Find one h5ad file, or those in a folder, by their names without the ending."""
    paths = [root] if root.is_file() else [path for path in root.glob("*.h5ad") if not path.name.startswith(".")]
    return {path.stem: path for path in paths}


def check_exists(path: Path, argument: str = "root") -> None:
    """Refuse a path that does not exist; the error names the argument that gave it."""
    if not path.exists():
        raise DataError(f"{path} does not exist; check {setting('data.root', argument=argument)}")


def image_in(folder: Path) -> Path | None:
    """Find the one image in a folder; None without one. Several are an error."""
    if not folder.is_dir():
        return None
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))
    if len(found) > 1:
        shown = ", ".join(p.name for p in found)
        raise ImageError(f"{folder} holds {len(found)} images ({shown}); leave only the full-resolution one")
    return found[0] if found else None


def image_of(folder: Path, named: str | None) -> Path | None:
    """Find a section's image: the named one, relative to the section's folder, else the one in the folder, if any."""
    return image_in(folder) if named is None else folder / named


def name_of(adata: AnnData, column: str, given: str | None, default: str | None) -> str:
    """Name a section or patient in ``obs``: by the given name, the one in ``obs``, or the default."""
    there = list(adata.obs[column].astype(str).unique()) if column in adata.obs else []
    if len(there) > 1:
        raise DataError(
            f"obs['{column}'] names {len(there)} ({', '.join(sorted(there)[:5])}); "
            "split the AnnData: it holds one section of one patient"
        )
    name = given or next(iter(there), default)
    if name is None:
        raise DataError(f"the {column} has no name; give {column}='NAME', or set adata.obs['{column}']")
    adata.obs[column] = pd.Categorical([name] * adata.n_obs, categories=[name])
    return name


def folder_above(path: Path) -> Path:
    """Return the folder above the folder of one section; Space Ranger's ``outs`` does not count."""
    path = path.resolve()
    return (path.parent if path.name == "outs" else path).parent


def in_array_order(adata: AnnData) -> AnnData:
    """Sort spots by array row, then column, so the order of rows in files does not matter."""
    order = np.lexsort((adata.obs[Key.obs.array_col], adata.obs[Key.obs.array_row]))
    return adata[order].copy()


def report_dropped(adata: AnnData, section: str, dropped: Mapping[str, int]) -> None:
    """Write the number of spots left out, by reason, to ``uns``, and log it if there are any."""
    adata.uns[Key.uns.dropped] = dict(dropped)
    some = [f"{count} ({reason.replace('_', ' ')})" for reason, count in dropped.items() if count]
    if some:
        logger.warning("section %r: kept %d spots, dropped %s", section, adata.n_obs, ", ".join(some))
