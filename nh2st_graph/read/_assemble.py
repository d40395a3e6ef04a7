"""Build sections in the readers: names, spots, and the entry of the image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique

from nh2st_graph._errors import DataError, ImageError
from nh2st_graph.read._common import in_array_order, report_dropped
from nh2st_graph.read._counts import Counts
from nh2st_graph.read._resolution import Scale
from nh2st_graph.section import Key, check_section, library_entry, unknown_patient
from nh2st_graph.slide import open_slide

__all__ = ["add_names", "assemble", "existing", "in_order", "one_file"]


def assemble(
    name: str,
    patient: str | None,
    counts: Counts,
    spots: pd.DataFrame,
    image: Path,
    scale: Scale,
    dropped: Mapping[str, int],
    *,
    prefix: str = "",
) -> AnnData:
    """Build a section from counts and spots, joined by name, and check it.

    Parameters
    ----------
    name, patient
        Names of the section and its patient; None for an unknown patient.
    counts
        Counts of these spots, and maybe of others, which are left out. Gene names are made unique.
    spots
        Table of the spots, indexed by their names in ``counts``: ``pixel_x``, ``pixel_y`` and, if they are known,
        ``array_row`` and ``array_col``.
    image, scale
        The full-resolution image, its resolution, and the spot diameter.
    dropped
        Number of spots left out, by reason.
    prefix
        Prefix of the spot names.
    """
    array = [column for column in (Key.obs.array_row, Key.obs.array_col) if column in spots]
    adata = AnnData(
        X=counts.matrix[counts.spots.get_indexer(spots.index)],
        obs=add_names(spots[array].set_axis(prefix + spots.index), name, patient),
        var=pd.DataFrame(index=make_index_unique(counts.genes)),
        obsm={Key.obsm.spatial: spots[["pixel_x", "pixel_y"]].to_numpy(np.float64)},
    )
    adata = in_order(adata)
    um = scale.microns_per_pixel
    with open_slide(image) as slide:
        adata.uns[Key.uns.spatial] = {name: library_entry(image, um, scale.spot_um / um, slide.thumbnail())}
        check_section(adata, need=("genes", "image"), slide=slide)
    report_dropped(adata, name, dropped)
    return adata


def in_order(adata: AnnData) -> AnnData:
    """Sort spots by array row, then column, or by name without an array, so the order in files does not matter."""
    if {Key.obs.array_row, Key.obs.array_col} <= set(adata.obs):
        return in_array_order(adata)
    return adata[np.argsort(adata.obs_names.to_numpy(dtype=str), kind="stable")].copy()


def add_names(obs: pd.DataFrame, section: str, patient: str | None) -> pd.DataFrame:
    """Add section and patient (None: unknown) as categorical columns, before the other columns."""
    names = {Key.obs.section: section, Key.obs.patient: patient or unknown_patient(section)}
    columns = {column: pd.Categorical([name] * len(obs), categories=[name]) for column, name in names.items()}
    return pd.concat([pd.DataFrame(columns, index=obs.index), obs], axis=1)


def existing(what: str, paths: Sequence[Path], where: str) -> Path:
    """Return the first file that exists.

    Raises
    ------
    DataError
        If none exists.
    """
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        other = " (or with another ending)" if len(paths) > 1 else ""
        raise DataError(f"{where}: no {what}; {paths[0]}{other} is missing: download it")
    return found


def one_file(found: Iterable[Path], missing: str) -> Path:
    """Return the one image among the files found.

    Raises
    ------
    ImageError
        If there is none (``missing`` is the message), only a packed one, or several.
    """
    files = sorted(path for path in found if not path.name.startswith("."))
    # The same scan in two formats counts once: ST-Net converts its images.
    images = list({path.stem: path for path in reversed(files) if path.suffix != ".gz"}.values())
    if len(images) > 1:
        shown = ", ".join(path.name for path in reversed(images))
        raise ImageError(f"{missing.split(':')[0]}: {len(images)} images ({shown}); leave only one")
    if not images:
        packed = f"; {files[0]} is packed: unpack it (gunzip)" if files else ""
        raise ImageError(f"{missing}{packed}")
    return images[0]
