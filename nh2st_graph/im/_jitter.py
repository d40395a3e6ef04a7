"""Change the stain of a section by chance, as another laboratory might have stained it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, nearest, setting
from nh2st_graph._files import as_number
from nh2st_graph.im._stain import (
    ColourMap,
    Pixels,
    Recolour,
    SlideColours,
    StainChange,
    as_reference,
    fitted_reference,
    normalisation,
    stain_values,
)
from nh2st_graph.read import SpatialObject, documented, one_section
from nh2st_graph.section import check_section, open_image, section_name

if TYPE_CHECKING:
    from squidpy.experimental.im import StainReference

__all__ = ["JITTERS", "JitterKind", "StainJitter", "jitter_stain", "section_jitters"]

JitterKind = Literal["hed", "reinhard", "macenko"]

#: The kinds of jitter.
JITTERS: tuple[JitterKind, ...] = get_args(JitterKind)

#: A shift of optical density by jitter of strength 1.
_DENSITY = 0.25
#: A shift of the colour of a stain, a unit vector, by jitter of strength 1. With more, nuclei turn grey or green.
_HUE = 0.5


@dataclass(frozen=True)
class StainJitter(StainChange):
    """A draw of another stain for a whole section: a stain differs between slides, not between patches of one.

    It stands where a stain reference does, in :func:`nh2st_graph.im.features` and :func:`nh2st_graph.im.patches`. Each
    kind draws from uniform distributions ``U`` whose width is ``strength``, ``s``:

    ``"hed"``
        Optical density is split into haematoxylin, eosin and a residual (Ruifrok). Each is multiplied by
        ``1 + U(-s, s)`` and shifted by ``U(-s / 4, s / 4)``: the amounts of the stains (Tellez).
    ``"reinhard"``
        The mean of each channel of Ruderman's Lab space is shifted by ``U(-s, s)`` of its standard deviations on the
        section's tissue, and the deviation is multiplied by ``1 + U(-s, s)``: light and scanner.
    ``"macenko"``
        The colours of the section's two stains, unit vectors of optical density, are shifted by ``U(-s / 2, s / 2)`` in
        each channel: the hues of the dyes.

    Glass stays as it is. How far features move at the same strength differs by kind and encoder, up to three times.

    Parameters
    ----------
    kind
        ``"hed"``, ``"reinhard"`` or ``"macenko"``.
    strength
        Width of the draw, from 0 (no change) to below 1.
    seed
        Number that the draw follows from.

    Raises
    ------
    ConfigError
        If the kind is unknown, or the strength out of range.

    References
    ----------
    - Ruifrok and Johnston, Quantification of histochemical staining by color deconvolution, 2001.
    - Tellez et al., Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train
      distilled stain-invariant convolutional networks, IEEE TMI 2018. There a shift is as wide as ``s``, and patches
      are drawn one by one.
    """

    kind: JitterKind = "hed"
    strength: float = 0.1
    seed: int = 0
    method: str = field(default="jitter", init=False)

    def __post_init__(self) -> None:
        if self.kind not in JITTERS:
            raise ConfigError(f"{setting('kind', self.kind)} is unknown; {nearest(self.kind, JITTERS)}")
        if not 0 <= as_number(self.strength) < 1:
            raise ConfigError(f"{setting('strength', self.strength)}; give a number from 0 to below 1")

    def colour_map(self, colours: SlideColours) -> ColourMap:
        """Make the map from colour to colour for one slide.

        Raises
        ------
        ImageError
            If the slide has no tissue, or its stain cannot be measured.
        """
        if self.strength == 0:
            return np.array
        if self.kind == "hed":
            return self._with_other_amounts
        return normalisation(self._near(fitted_reference(colours.pixels, self.kind, colours.where)), colours)

    def _with_other_amounts(self, colours: Pixels) -> Pixels:
        from skimage.color import hed_from_rgb, rgb_from_hed

        factor, shift = self._drawn(2, 3)
        density = -np.log10((colours + 1.0) / 256)
        amounts = density @ hed_from_rgb * (1 + factor) + shift * _DENSITY
        return np.rint(256 * 10 ** -(amounts @ rgb_from_hed) - 1).clip(0, 255).astype(np.uint8)

    def _near(self, own: StainReference) -> StainReference:
        """Change the numbers of a section's own reference."""
        values = stain_values(own)
        shift, factor = self._drawn(2, 3)
        if self.kind == "reinhard":
            values["mu"] = own.mu + shift * own.sigma
            values["sigma"] = own.sigma * (1 + factor)
        else:
            stains = np.maximum(own.stain_matrix[:, :2] + _HUE * np.stack([shift, factor], axis=1), 0)
            stains /= np.linalg.norm(stains, axis=0)
            # What neither stain explains has the colour that is perpendicular to both.
            rest = np.cross(stains[:, 0], stains[:, 1])
            values["stain_matrix"] = np.column_stack([stains, rest / np.linalg.norm(rest)])
        return as_reference(values)

    def _drawn(self, *shape: int) -> NDArray[np.float64]:
        return np.random.default_rng(self.seed).uniform(-self.strength, self.strength, shape)


def section_jitters(section: AnnData, n: int, strength: float) -> list[StainJitter]:
    """Draw ``n`` stains for a section, of each kind in turn; they follow from the section's name and their number."""
    name = section_name(section)
    seeds = [int(hashlib.sha256(f"{i} {name}".encode()).hexdigest()[:8], 16) for i in range(n)]
    return [StainJitter(JITTERS[i % len(JITTERS)], strength, seed) for i, seed in enumerate(seeds)]


@documented
def jitter_stain(
    adata: SpatialObject,
    jitter: StainJitter,
    side: int = 1000,
    *,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
) -> Pixels:
    """Show a section in the stain of a draw, on a small image.

    Parameters
    ----------
    adata
        One section with a full-resolution image and its resolution; an AnnData of several sections; or SpatialData.
    jitter
        The draw.
    side
        Longest side of the image, in pixels.
    %(library_key)s
    %(library_id)s
    %(table_key)s

    Returns
    -------
    RGB, ``(height, width, 3)`` uint8.

    Raises
    ------
    DataError
        If the section breaks the contract.
    ImageError
        If the image is missing, has no tissue, or its stain cannot be measured.
    """
    section = one_section(adata, library_key=library_key, library_id=library_id, table_key=table_key)
    with open_image(check_section(section, need=("image",))) as slide:
        recolour = Recolour(SlideColours(section, slide), jitter)
        image, scale = slide.thumbnail(side)
    height, width = image.shape[:2]
    square = np.full((max(height, width),) * 2 + (3,), 255, dtype=np.uint8)
    square[:height, :width] = image
    extent = len(square) / scale
    return recolour(square[None], np.array([[extent / 2, extent / 2]]), extent)[0, :height, :width]
