"""squidpy's ``ImageContainer`` as a section's full-resolution image."""

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

#: What an image may be given as.
ImageSource: TypeAlias = "str | Path | ImageContainer"


class PlacedImage(NamedTuple):
    """An image's file, and where spots lie on it."""

    path: Path
    scale: float
    corner: tuple[float, float]

    def pixels(self, spatial: NDArray[Any]) -> NDArray[np.float64]:
        """Take positions, ``(n_spots, 2)`` x then y, to pixels of this image."""
        return np.asarray(spatial, dtype=np.float64) * self.scale - np.array(self.corner)


def placed_image(img: ImageSource, section: str, layer: str | None = None) -> PlacedImage:
    """Give the file of an image.

    Parameters
    ----------
    img
        A file; or an ``ImageContainer``, whose pixels are written once as a tiled TIFF into the cache folder, named by
        a digest of them, since everything downstream reads an image from a file. Of a container that was scaled or
        cropped (squidpy keeps both in ``data.attrs``), spots are taken along.
    section
        Which of a container's z positions, where it has several, as squidpy names them by library; and for errors.
    layer
        Of the container; may be left out where there is one.

    Raises
    ------
    ImageError
        If the layer or z position is not there, or is not RGB of bytes.
    """
    if isinstance(img, str | Path):
        return PlacedImage(Path(img), 1.0, (0.0, 0.0))
    where = f"section {section!r}"
    if not (hasattr(img, "library_ids") and hasattr(img, "data")):
        raise ImageError(f"{where}: {type(img).__name__} is no image; give a file or squidpy's ImageContainer")
    layers = list(img.data)
    if layer is None and len(layers) != 1:
        raise ImageError(
            f"{where}: the ImageContainer has {len(layers)} layers ({', '.join(layers)}); "
            f"name one: {setting('layer', 'NAME')}"
        )
    if layer is not None and layer not in layers:
        raise ImageError(f"{where}: the ImageContainer has no layer {layer!r}; {nearest(layer, layers)}")
    pixels = img.data[layers[0] if layer is None else layer]
    if pixels.sizes["z"] > 1 and section not in img.library_ids:
        there = ", ".join(map(str, img.library_ids))
        raise ImageError(
            f"{where}: the ImageContainer has {pixels.sizes['z']} z positions ({there}), none of that name"
        )
    pixels = pixels.sel(z=section) if section in img.library_ids else pixels.isel(z=0)
    (channels,) = set(pixels.dims) - {"y", "x"}
    path = keep_pixels(pixels.rename({channels: "c"}).chunk(), where)
    crop, padding = img.data.attrs["coords"], img.data.attrs["padding"]
    corner = float(crop.x0 - padding.x_pre), float(crop.y0 - padding.y_pre)
    return PlacedImage(path, float(img.data.attrs["scale"]), corner)
