"""Leave out training spots with bad patches, and mark them where a section is predicted."""

from __future__ import annotations

import logging

from anndata import AnnData

from nh2st_graph._errors import DataError, setting
from nh2st_graph.im._quality import FLAWS, add_quality
from nh2st_graph.section import Key, copy_of, open_image, section_name

__all__ = ["good_spots", "with_quality"]

logger = logging.getLogger("nh2st_graph")

_GOOD = FLAWS[-1]


def with_quality(section: AnnData) -> AnnData:
    """Give a section with its quality in ``obs``: its own columns if it has them, else computed from its image.

    Raises
    ------
    DataError, ImageError
        If it has neither.
    """
    if Key.obs.quality in section.obs and section.obs[Key.obs.quality].notna().all():
        return section
    measured = copy_of(section)
    with open_image(measured) as slide:
        add_quality(measured, slide)
    return measured


def good_spots(section: AnnData) -> AnnData:
    """Leave out the spots of a training section whose patches are blank, blurred or folded, and say so.

    Raises
    ------
    DataError
        If no spot is left.
    """
    measured = with_quality(section)
    quality = measured.obs[Key.obs.quality].astype(str)
    good = (quality == _GOOD).to_numpy()
    if good.all():
        return measured
    name = section_name(section)
    counts = ", ".join(f"{n} {flaw}" for flaw, n in quality[~good].value_counts().items())
    if not good.any():
        raise DataError(
            f"section {name!r}: none of its {len(good)} spots is {_GOOD} ({counts}); leave the section out, or give "
            f"limits of your own to ng.im.quality, or set {setting('data.bad_spots', 'keep')}"
        )
    logger.warning("section %r: %d of %d spots are left out of training (%s)", name, (~good).sum(), len(good), counts)
    return measured[good].copy()
