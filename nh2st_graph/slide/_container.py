"""Use squidpy's ``ImageContainer`` as the full-resolution image of a section."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nh2st_graph._errors import ImageError, nearest, setting
from nh2st_graph.slide._memory import keep_pixels

if TYPE_CHECKING:
    from squidpy.im import ImageContainer

__all__ = ["ImageSource", "PlacedImage", "placed_image"]

#: Ways to give an image.
ImageSource: TypeAlias = "str | Path | ImageContainer"


class PlacedImage(NamedTuple):
    """The file of an image, and how positions map onto it.

    Attributes
    ----------
    path
        The file.
    scale
        Pixels of the file per pixel of the positions.
    corner
        The file's first pixel, x then y, in scaled pixels.
    """

    path: Path
    scale: float
    corner: tuple[float, float]

    def pixels(self, spatial: NDArray[Any]) -> NDArray[np.float64]:
        """Convert positions, ``(n_spots, 2)`` x then y, to pixels of the file."""
        return np.asarray(spatial, dtype=np.float64) * self.scale - np.array(self.corner)


def placed_image(img: ImageSource, section: str, layer: str | None = None, *, argument: str = "layer") -> PlacedImage:
    """Find the file of an image, or write one.

    Parameters
    ----------
    img
        A file (``FILE#SCENE`` for one of several images in it) or an ``ImageContainer``. Everything downstream reads an
        image from a file, so the pixels of a container are written once, as a tiled TIFF in the cache folder that is
        named by a digest of them. A container that was scaled or cropped says so in its ``data.attrs``.
    section
        Name of the section, for errors. It also picks the z position of a container that has several, because squidpy
        names z positions by library.
    layer
        Layer of the container; not needed if it has one.
    argument
        What the caller's argument for the layer is called.

    Returns
    -------
    The file, and how positions in pixels of the uncut image map onto it.

    Raises
    ------
    ImageError
        If there is no such layer or z position, or it is not 8-bit RGB.
    """
    if isinstance(img, str | Path):
        return PlacedImage(Path(img), 1.0, (0.0, 0.0))
    where = f"section {section!r}"
    if not (hasattr(img, "library_ids") and hasattr(img, "data")):
        raise ImageError(f"{where}: {type(img).__name__} is not an image; give a file or squidpy's ImageContainer")
    layers = list(img.data)
    if layer is None and len(layers) != 1:
        raise ImageError(
            f"{where}: the ImageContainer has {len(layers)} layers ({', '.join(layers)}); "
            f"name one: {setting(argument, 'NAME')}"
        )
    if layer is not None and layer not in layers:
        raise ImageError(f"{where}: the ImageContainer has no layer {layer!r}; {nearest(layer, layers)}")
    pixels = img.data[layers[0] if layer is None else layer]
    if pixels.sizes["z"] > 1 and section not in img.library_ids:
        there = ", ".join(map(str, img.library_ids))
        raise ImageError(
            f"{where}: the ImageContainer has {pixels.sizes['z']} z positions ({there}), and none has its name"
        )
    pixels = pixels.sel(z=section) if section in img.library_ids else pixels.isel(z=0)
    (channels,) = set(pixels.dims) - {"y", "x"}
    path = keep_pixels(pixels.rename({channels: "c"}).chunk(), where)
    crop, padding = img.data.attrs["coords"], img.data.attrs["padding"]
    corner = float(crop.x0 - padding.x_pre), float(crop.y0 - padding.y_pre)
    return PlacedImage(path, float(img.data.attrs["scale"]), corner)
