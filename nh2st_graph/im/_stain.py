"""Bring the colours of patches to those of a reference, with squidpy's stain normalisation."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, ImageError, nearest, reason, setting
from nh2st_graph.read import SpatialObject, documented, given_sections
from nh2st_graph.section import check_section, full_image, open_image, section_name
from nh2st_graph.slide import Slide, TissueMask, tissue_mask

if TYPE_CHECKING:
    from squidpy.experimental.im import StainReference

__all__ = [
    "ColourMap",
    "Recolour",
    "Reference",
    "SlideColours",
    "StainChange",
    "StainMethod",
    "as_reference",
    "as_stain",
    "coarse_tissue",
    "fitted_reference",
    "normalisation",
    "patch_tissue",
    "pooled_reference",
    "stain_digest",
    "stain_reference",
    "stain_values",
    "tissue_pixels",
]

StainMethod = Literal["reinhard", "macenko"]

#: A reference, or what it is stored as.
Reference: TypeAlias = "StainReference | Mapping[str, Any]"

#: Resolution at which colours are measured. All slides are measured at the same one, since averaging over larger pixels
#: narrows the distribution of colours. A slide that is coarser is measured as it is.
_STAIN_UM = 4.0
#: Pixels of tissue that stand for a section, evenly spaced.
_SAMPLE = 2**16
#: Longest side of the image on which tissue is found.
_MASK_SIDE = 2000
#: Settings that leave the colours of training sections as they are.
_AS_THEY_ARE = f"{setting('features.stain', 'none')} and {setting('features.stain_views', 0)}"
#: Decimals that a reference keeps, so that machines whose last bits differ find the same one.
_DECIMALS = 6

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
#: What becomes of colours, ``(n, 3)``.
ColourMap: TypeAlias = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class StainChange(ABC):
    """A change of a slide's colours that starts from its own stain, and needs no reference."""

    @property
    @abstractmethod
    def method(self) -> str:
        """Name of the change, which is none of :data:`StainMethod`."""

    @abstractmethod
    def colour_map(self, colours: SlideColours) -> ColourMap:
        """Make the map from colour to colour for one slide.

        Raises
        ------
        ImageError
            If the slide has no tissue, or its stain cannot be measured.
        """


@documented
def stain_reference(
    adata: SpatialObject | Mapping[str, AnnData],
    method: StainMethod = "macenko",
    *,
    library_key: str | None = None,
    table_key: str | None = None,
) -> StainReference:
    """Fit a stain reference on the tissue of sections, with ``squidpy.experimental.im.fit_stain_reference``.

    No section is preferred: the reference is fitted on pixels of all of them together, up to 65,536 of each, evenly
    spaced over its tissue, at 4 um per px. So it depends neither on the order of sections nor on which comes first.

    Parameters
    ----------
    adata
        One section with a full-resolution image and its resolution; an AnnData of several sections; SpatialData; or
        sections by name. Fit it on training sections alone.
    method
        ``"macenko"``: the colours of haematoxylin and eosin; ``"reinhard"``: mean and standard deviation of the
        channels of Ruderman's Lab space, which also brings strengths to the reference's.
    %(library_key)s
    %(table_key)s

    Returns
    -------
    squidpy's ``StainReference``, for the argument ``stain`` of :func:`nh2st_graph.im.features`.

    Raises
    ------
    ConfigError
        If the method is unknown.
    DataError
        If a section breaks the contract.
    ImageError
        If an image is missing, has no tissue, or shows no two stains.
    """
    if isinstance(adata, Mapping):
        sections = list(adata.values())
    else:
        sections = list(given_sections(adata, library_key=library_key, table_key=table_key))
    samples: dict[str, Pixels] = {}
    for section in sections:
        with open_image(check_section(section, need=("image",))) as slide:
            samples[section_name(section)] = section_pixels(section, slide)
    return pooled_reference(samples, method)


def pooled_reference(samples: Mapping[str, Pixels], method: str) -> StainReference:
    """Fit a reference on tissue pixels of sections, by their names, as from :func:`section_pixels`."""
    if method not in get_args(StainMethod):
        raise ConfigError(f"{setting('features.stain', method)} is unknown; {nearest(method, get_args(StainMethod))}")
    # By name, so that not even the last digit depends on the order.
    pixels = np.concatenate([samples[name] for name in sorted(samples)])
    return fitted_reference(pixels, method, f"sections {', '.join(sorted(samples))}")


def fitted_reference(pixels: Pixels, method: str, where: str) -> StainReference:
    """Fit a reference on tissue pixels, ``(n, 3)``.

    Raises
    ------
    ImageError
        If the pixels, which are those of ``where``, show no two stains.
    """
    from squidpy.experimental.im import fit_stain_reference

    with _told(where, method):
        fitted = fit_stain_reference(_image(pixels, np.ones(len(pixels), dtype=bool)), _KEY, method=method)
        values = stain_values(fitted)
        rounded = {name: np.round(each, _DECIMALS) for name, each in values.items() if name != "method"}
        return as_reference({"method": method, **rounded})


class SlideColours:
    """The tissue of one slide and its colours, which are measured when they are first needed.

    Parameters
    ----------
    section, slide
        The section and its open image.
    """

    def __init__(self, section: AnnData, slide: Slide) -> None:
        self.where = f"section {section_name(section)!r}"
        self._slide, self._scale = slide, full_image(section).microns_per_pixel

    @cached_property
    def tissue(self) -> TissueMask:
        """The tissue."""
        return coarse_tissue(self._slide, self._scale)

    @cached_property
    def pixels(self) -> Pixels:
        """Pixels of the tissue, evenly spaced, ``(n, 3)``.

        Raises
        ------
        ImageError
            If there is no tissue.
        """
        return tissue_pixels(self._slide, self._scale, self.tissue, self.where)


class Recolour:
    """Bring patches of one slide to a reference: the same pixels as ``squidpy.experimental.im.normalize_stains``.

    The slide's own stain is measured once, on its tissue. Pixels off the tissue stay as they are, so that glass stays
    white. The map from colour to colour is squidpy's, or that of a change; each colour goes through it once.

    Parameters
    ----------
    colours
        The colours of the slide.
    stain
        The reference, or a change.

    Raises
    ------
    ImageError
        If the slide has no tissue, or its stain cannot be measured.
    """

    def __init__(self, colours: SlideColours, stain: Reference | StainChange) -> None:
        self.tissue = colours.tissue
        self._map = stain.colour_map(colours) if isinstance(stain, StainChange) else normalisation(stain, colours)
        self._colours = np.empty((2**24, 3), dtype=np.uint8)
        self._known = np.zeros(2**24, dtype=bool)
        # Now, so that a slide without a measurable stain is refused before its first patch.
        self._learn(_codes(colours.pixels))

    def __call__(self, patches: Pixels, centres: Floats, side: float) -> Pixels:
        """Recolour patches.

        Parameters
        ----------
        patches
            ``(n, size, size, 3)``, RGB.
        centres
            Their centres, ``(n, 2)``, x then y, in pixels of the full resolution.
        side
            Their side, in pixels of the full resolution.

        Returns
        -------
        Patches of the same shape.
        """
        codes = _codes(patches)
        self._learn(codes)
        on_tissue = patch_tissue(self.tissue, centres, side, patches.shape[1])
        return np.where(on_tissue[..., None], self._colours[codes], patches)

    def _learn(self, codes: NDArray[np.intp]) -> None:
        """Look up what becomes of colours that have not occurred yet."""
        new = np.unique(codes[~self._known[codes]])
        if len(new):
            self._colours[new] = self._map(np.stack([new >> 16, new >> 8 & 255, new & 255], axis=-1).astype(np.uint8))
            self._known[new] = True


def normalisation(reference: Reference, colours: SlideColours) -> ColourMap:
    """Make the map of ``squidpy.experimental.im.normalize_stains`` from colour to colour for one slide.

    The map raises ImageError if the stain of the slide cannot be measured.
    """
    from squidpy.experimental.im import normalize_stains

    wanted, sample = as_reference(reference), colours.pixels

    def normalised(new: Pixels) -> Pixels:
        # squidpy measures the stain where its mask is true, and recolours every pixel.
        pixels = np.concatenate([sample, new])
        data = _image(pixels, np.arange(len(pixels)) < len(sample))
        with _told(colours.where, wanted.method):
            made = normalize_stains(data, _KEY, wanted, preserve_background=False, inplace=False)
            return np.asarray(made.transpose("y", "x", "c"))[0, len(sample) :]

    return normalised


def section_pixels(section: AnnData, slide: Slide) -> Pixels:
    """Take the tissue pixels that stand for the colours of a section, ``(n, 3)``, from its open image.

    Raises
    ------
    ImageError
        If it has no tissue.
    """
    kept = _kept(slide.content_hash, full_image(section).microns_per_pixel)
    if not kept:
        kept.append(SlideColours(section, slide).pixels)
    return kept[0]


@lru_cache(maxsize=256)
def _kept(image_hash: str, microns_per_pixel: float) -> list[Pixels]:
    """Keep the pixels of a section, since a study fits a reference in every fold."""
    del image_hash, microns_per_pixel
    return []


def coarse_tissue(slide: Slide, microns_per_pixel: float) -> TissueMask:
    """Find the tissue of a slide on a small copy.

    By :func:`tissue_mask`, whatever else is installed, since cached features depend on it.
    """
    image, scale = _small(slide, _MASK_SIDE)
    return TissueMask(tissue_mask(image, microns_per_pixel / scale), scale)


def _small(slide: Slide, side: int) -> tuple[Pixels, float]:
    """Make a small copy in one way for all kinds of files, so that the same pixels give the same reference."""
    return Slide.thumbnail(slide, side)


def tissue_pixels(slide: Slide, microns_per_pixel: float, tissue: TissueMask, where: str) -> Pixels:
    """Take pixels of a slide's tissue at a coarse level, evenly spaced, ``(n, 3)``.

    Raises
    ------
    ImageError
        If there is no tissue.
    """
    image, scale = _small(slide, max(1, round(max(slide.sizes[0]) * min(1.0, microns_per_pixel / _STAIN_UM))))
    height, width = image.shape[:2]
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) / scale * tissue.scale).astype(np.intp), limit - 1)
        for n, limit in zip((height, width), tissue.mask.shape, strict=True)
    )
    inside = np.flatnonzero(tissue.mask[np.ix_(rows, columns)])
    if not len(inside):
        raise ImageError(
            f"{where}: no tissue found on its image, so that its stain cannot be measured; check the image, or "
            f"train with {_AS_THEY_ARE}"
        )
    if len(inside) > _SAMPLE:
        inside = inside[np.linspace(0, len(inside) - 1, _SAMPLE).astype(np.intp)]
    return np.ascontiguousarray(image.reshape(-1, 3)[inside])


def patch_tissue(tissue: TissueMask, centres: Floats, side: float, size_px: int) -> NDArray[np.bool_]:
    """Say which pixels of patches lie on tissue, ``(n, size_px, size_px)``; beyond the slide there is none.

    Parameters
    ----------
    tissue
        The tissue of the slide.
    centres, side
        Centres and side of the patches, in pixels of the full resolution.
    size_px
        Side of a patch in its own pixels.
    """
    steps = ((np.arange(size_px) + 0.5) / size_px - 0.5) * side
    padded = np.pad(tissue.mask, 1)
    rows, columns = (
        np.clip(np.floor((centres[:, axis, None] + steps) * tissue.scale).astype(np.intp) + 1, 0, limit - 1)
        for axis, limit in ((1, padded.shape[0]), (0, padded.shape[1]))
    )
    return np.asarray(padded[rows[:, :, None], columns[:, None, :]])


def as_stain(values: Reference | StainChange) -> StainReference | StainChange:
    """Make a reference as :func:`as_reference` does; a change stays one."""
    return values if isinstance(values, StainChange) else as_reference(values)


def stain_values(reference: StainReference | StainChange) -> dict[str, Any]:
    """Describe a reference by its method and arrays, or a change by its numbers, for AnnData."""
    return {name: value for name, value in asdict(reference).items() if value is not None}


def as_reference(values: Reference) -> StainReference:
    """Make a reference of what :func:`stain_values` or JSON gave; a reference stays one.

    Raises
    ------
    ConfigError
        If it is none.
    """
    from squidpy.experimental.im import StainReference

    if isinstance(values, StainReference):
        return values
    try:
        arrays = {name: np.asarray(value, dtype=np.float64) for name, value in values.items() if name != "method"}
        return StainReference(method=str(values["method"]), **arrays)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{setting('stain')} is no stain reference ({reason(error)}); give one of ng.im.stain_reference"
        ) from None


def stain_digest(reference: StainReference | StainChange) -> str:
    """Name a reference or a change by its method and a digest of its numbers, for fingerprints and cache keys."""
    values = {name: np.asarray(value).tolist() for name, value in stain_values(reference).items()}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return f"{reference.method} {digest[:16]}"


_KEY = "pixels"


def _image(pixels: Pixels, tissue: NDArray[np.bool_]) -> Any:
    """Make SpatialData of an image one pixel high, with its tissue."""
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, Labels2DModel

    image = Image2DModel.parse(pixels.T[:, None, :], dims=("c", "y", "x"))
    labels = Labels2DModel.parse(tissue[None, :].astype(np.uint8), dims=("y", "x"))
    return SpatialData(images={_KEY: image}, labels={f"{_KEY}_tissue": labels})


def _codes(colours: Pixels) -> NDArray[np.intp]:
    """Write colours as numbers below 2 ** 24."""
    red, green, blue = (colours[..., channel].astype(np.intp) for channel in range(3))
    return (red << 16) | (green << 8) | blue


@contextmanager
def _told(where: str, method: str) -> Iterator[None]:
    """Turn squidpy's errors of a fit into ours."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # the class of its own error is not public
        raise ImageError(
            f"{where}: the stain cannot be measured by {method} ({reason(error)}); check that the image is H&E, or "
            f"train with {_AS_THEY_ARE}"
        ) from error
