"""Find spots whose patches are out of focus, blank or folded, by squidpy's quality metrics."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph._files import as_number
from nh2st_graph.im._features import on_image
from nh2st_graph.im._patches import PatchCutter, microns_per_pixel, patch_cutter, resampling
from nh2st_graph.im._stain import coarse_tissue
from nh2st_graph.read import SpatialObject, documented, given_sections
from nh2st_graph.section import Key, check_section, open_image, refuse_column
from nh2st_graph.slide import ImageSource, Slide

__all__ = ["FLAWS", "add_quality", "quality", "quality_columns"]

#: What a spot can be, the first that holds.
FLAWS = ("blank", "blurred", "folded", "good")

#: Focus is measured at 1 um per px: finer pixels hold no more of a section 5 to 16 um thick. Folds are measured at 8 um
#: per px, where single dark nuclei vanish among their surroundings. A slide that is coarser is measured as it is.
_FOCUS_UM, _FOLD_UM = 1.0, 8.0
#: Patches that are measured at a time.
_AT_ONCE = 256
#: Side of the patch whose quality is measured: a spot's own tissue in ST and Visium.
PATCH_UM = 112.0
_BICUBIC = resampling("bicubic")


@dataclass(frozen=True)
class QualityLimits:
    """What makes a spot bad; see :func:`quality`."""

    min_tissue: float = 0.0
    min_contrast: float = 8.0
    min_focus: float = 0.2
    max_folds: float = 0.15

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = 1.0 if name in {"min_tissue", "max_folds"} else math.inf
            if not 0 <= as_number(value) <= most:
                raise ConfigError(f"{setting(name, value)}; give a number from 0{' to 1' if most == 1 else ''}")


@documented
def quality(
    adata: SpatialObject,
    patch_um: float = PATCH_UM,
    *,
    min_tissue: float = 0.0,
    min_contrast: float = 8.0,
    min_focus: float = 0.2,
    max_folds: float = 0.15,
    img: ImageSource | None = None,
    layer: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    key_added: str = Key.obs.quality,
    copy: bool = False,
) -> AnnData | None:
    """Measure the quality of the patch of every spot, with ``squidpy.experimental.im.qc_image``.

    No spot is removed: ``adata[adata.obs["quality"] == "good"]`` does that.

    Parameters
    ----------
    adata
        One section with a full-resolution image and its resolution; an AnnData of several sections; or SpatialData.
    patch_um
        Side of the patch around a spot, in um on the tissue.
    min_tissue, min_contrast
        A spot with a smaller share of tissue or a lower contrast is ``blank``. The share alone would leave out fat and
        other pale tissue, which no mask finds reliably; so any is enough by default.
    min_focus
        A spot with a lower focus is ``blurred``.
    max_folds
        A spot with a larger share of folded tissue is ``folded``.
    img, layer
        As for :func:`nh2st_graph.im.features`.
    %(library_key)s
    %(table_key)s
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or the copy. The result is

    ``obs[key_added]``
        ``good``, or the first that holds of ``blank``, ``blurred`` and ``folded``.
    ``obs[f"{key_added}_tissue"]``
        Share of tissue in the patch, from 0 to 1.
    ``obs[f"{key_added}_contrast"]``
        squidpy's standard deviation of brightness, in grey levels. In five sections of HER2ST, patches of bare glass
        have at most 5, and patches of spots at least 14.
    ``obs[f"{key_added}_focus"]``
        squidpy's variance of the Laplacian over its Tenengrad energy. The ratio is of sharpness alone: contrast, stain
        and content of the patch raise or lower both. In the same sections patches have 0.30 to 0.84 at 1 um per px, and
        0.10 to 0.22 if a Gaussian of 1 um blurs them.
    ``obs[f"{key_added}_folds"]``
        squidpy's fold fraction: share of pixels that are dark and saturated, at 8 um per px. They have at
        most 0.12, and three layers of the same tissue a median of 0.21 to 0.42. Two layers of pale tissue stay below
        the limit: a fold is found where it is dark.
    ``uns[key_added]``
        ``patch_um`` and the limits.

    Raises
    ------
    ConfigError
        If a limit is no share, or the patch is smaller than a pixel or larger than the image.
    DataError
        If the section breaks the contract, or ``key_added`` is a column of it.
    ImageError
        If the image is missing, cut off, or does not cover the spots.

    Notes
    -----
    squidpy's own ``qc_outlier`` is not used: it is a rank within the image, which calls a tenth to a fifth of the tiles
    of any slide outliers, sharp or not.

    Examples
    --------
    Mark the spots of a section, and draw them on its image with squidpy:

    >>> import nh2st_graph as ng
    >>> import squidpy as sq
    >>> section = ng.read.sections("visium", "sections")["D1"]
    >>> ng.im.quality(section)
    >>> sq.pl.spatial_scatter(section, color="quality", library_id="D1")
    """
    limits = QualityLimits(min_tissue, min_contrast, min_focus, max_folds)
    refuse_column(key_added)
    given = given_sections(adata, library_key=library_key, table_key=table_key, copy=copy)
    for section in given:
        source = section if img is None else on_image(section, img, layer)
        with open_image(check_section(source, need=("image",))) as slide:
            add_quality(section, slide, patch_um, limits, source=source, key_added=key_added)
    given.write(obs=quality_columns(key_added), uns=[key_added])
    return given.table if copy else None


def quality_columns(key: str = Key.obs.quality) -> list[str]:
    """Name the columns of ``obs`` that :func:`quality` writes."""
    return [key, *(f"{key}_{part}" for part in ("tissue", "contrast", "focus", "folds"))]


def add_quality(
    section: AnnData,
    slide: Slide,
    patch_um: float = PATCH_UM,
    limits: QualityLimits | None = None,
    *,
    source: AnnData | None = None,
    key_added: str = Key.obs.quality,
) -> None:
    """Write the quality of one checked section, from its open image.

    Parameters
    ----------
    section
        The section, which is written into.
    slide
        The open image.
    source
        The section's spots on this image, if it is not the section's own image.
    patch_um, key_added
        As for :func:`quality`.
    limits
        Its limits.
    """
    limits = limits or QualityLimits()
    placed = section if source is None else source
    cutter, scale = patch_cutter(placed, patch_um, slide), microns_per_pixel(placed)
    tissue = coarse_tissue(slide, scale).fraction(cutter.centres, cutter.side)
    metrics = ("brightness_std", "var_of_laplacian", "tenengrad")
    contrast, laplacian, gradient = _measured(cutter, patch_um / max(scale, _FOCUS_UM), metrics).T
    focus = np.divide(laplacian, gradient, out=np.zeros_like(gradient), where=gradient > 0)
    (folds,) = _measured(cutter, patch_um / max(scale, _FOLD_UM), ("fold_fraction",)).T
    blank = (tissue < limits.min_tissue) | (contrast < limits.min_contrast)
    flaws = np.select([blank, focus < limits.min_focus, folds > limits.max_folds], FLAWS[:3], FLAWS[3])
    values = (pd.Categorical(flaws, categories=list(FLAWS)), tissue, contrast, focus, folds)
    for name, value in zip(quality_columns(key_added), values, strict=True):
        section.obs[name] = value
    section.uns[key_added] = {"patch_um": float(patch_um), **asdict(limits)}


def _measured(cutter: PatchCutter, size_px: float, metrics: Sequence[str]) -> NDArray[np.float64]:
    """Compute metrics of squidpy for the patch of every spot, ``(n_spots, n_metrics)``."""
    size, parts = max(3, round(size_px)), []
    for start in range(0, len(cutter), _AT_ONCE):
        rows = range(start, min(start + _AT_ONCE, len(cutter)))
        parts.append(_of_patches(cutter.stack(rows, size, _BICUBIC), metrics))
    return np.concatenate(parts)


def _of_patches(patches: NDArray[np.uint8], metrics: Sequence[str]) -> NDArray[np.float64]:
    """Compute metrics of squidpy for patches, ``(n, size, size, 3)``, each a tile of one image."""
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel
    from squidpy.experimental.im import QCMetric, qc_image

    size = patches.shape[1]
    image = Image2DModel.parse(np.moveaxis(patches.reshape(-1, size, 3), -1, 0), dims=("c", "y", "x"))
    data = SpatialData(images={"patches": image})
    with _quiet():
        qc_image(
            data,
            "patches",
            metrics=[QCMetric(name) for name in metrics],
            tile_size=(size, size),
            detect_outliers=False,
            detect_tissue=False,
            progress=False,
            preview=False,
        )
    table = data.tables["qc_img_patches"]
    return np.asarray(table[:, [f"qc_{name}" for name in metrics]].X, dtype=np.float64)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what squidpy says of every image."""
    logger = logging.getLogger("spatialdata._logging")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
