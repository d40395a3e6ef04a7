"""Place elements of SpatialData: coordinate systems, and the image under the spots."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, ImageError, nearest, setting
from nh2st_graph.section import VISIUM_SCALEFACTOR_UM, neighbour_distance
from nh2st_graph.slide import check_scale

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = [
    "GLOBAL",
    "MICRONS",
    "choose",
    "full_resolution",
    "image_under",
    "meeting_system",
    "microns_per_pixel_of",
    "spot_diameter",
    "spots_in",
    "to_pixels",
]

Floats = NDArray[np.float64]

#: The coordinate systems of full-resolution pixels, and of um.
GLOBAL, MICRONS = "global", "microns"

_AXES = ("x", "y")
# Names that spatialdata-io gives: the sizes of Space Ranger's one image, the coordinate system of the middle size, and
# the squares of Visium HD.
_SIZES = re.compile(r"(.*_|)(full|hires|lowres)_image$")
_OF_VISIUM = "downscaled_hires"
_SQUARES = re.compile(r"_square_(\d+)um$")
# Pixels of a slide scanner are square: an image that is stretched more than this has no single resolution.
_AXES_AGREE = 0.03


def choose(
    what: str,
    names: Iterable[str],
    wanted: str | None,
    where: str,
    error: type[DataError],
    *,
    argument: str | None = None,
) -> str:
    """Choose the wanted name, or the only one.

    Raises
    ------
    DataError
        If the wanted name does not exist, or none is wanted and there is none, or several.
    """
    known = sorted(names)
    argument = argument or what
    if not known:
        raise error(f"{where} has no {what}; add one")
    if wanted is not None and wanted not in known:
        raise error(f"{where} has no {what} {wanted!r}; {nearest(wanted, known)}")
    if wanted is None and len(known) > 1:
        raise error(
            f"{where} has {len(known)} candidates for the {what} ({', '.join(known)}); "
            f"name one: {setting(f'data.options.{argument}', 'NAME')}"
        )
    return known[0] if wanted is None else wanted


def systems(element: Any) -> dict[str, Any]:
    """Look up the transformations of an element, by their coordinate systems."""
    from spatialdata.transformations import get_transformation

    return dict(get_transformation(element, get_all=True))


def full_resolution(image: Any) -> Any:
    """Return the highest resolution of an image, an ``xarray.DataArray``."""
    from spatialdata import get_pyramid_levels

    return get_pyramid_levels(image, n=0) if hasattr(image, "children") else image


def meeting_system(sdata: SpatialData, region: str, others: Iterable[str], image: str | None) -> str:
    """Find the coordinate system that has both the spots of a region and an image.

    Parameters
    ----------
    sdata, region
        The object, and the element of the spots.
    others
        The other regions of the table. A system without any of them is the region's own.
    image
        Name of the image, if it is given.

    Returns
    -------
    One of the region's own systems, if there is one: ``global`` first, then that of the image with the most pixels.
    ``global`` if no system has both.
    """
    placed = systems(sdata[region]).keys()
    elements = [sdata.images[image]] if image in sdata.images else list(sdata.images.values())
    pixels: dict[str, int] = {}
    for element in elements:
        size = full_resolution(element).sizes
        for system in placed & systems(element).keys():
            pixels[system] = max(pixels.get(system, 0), size["x"] * size["y"])
    shared = {system for other in others if other in sdata for system in systems(sdata[other])}
    candidates = sorted(pixels.keys() - shared or pixels)
    return GLOBAL if GLOBAL in candidates or not candidates else max(candidates, key=pixels.__getitem__)


def spots_in(element: Any, instances: pd.Index, system: str, where: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Find the centroids of instances in a coordinate system, ``(n_known, 2)``, and which instances have one.

    Raises
    ------
    DataError
        If the element is not in the system, has an instance twice, or has none of these.
    """
    placed = systems(element)
    if system not in placed:
        raise DataError(f"{where} is not in coordinate system {system!r}; choose one of its own: {', '.join(placed)}")
    table = _centroids(element, system)
    if not table.index.is_unique:
        raise DataError(
            f"{where} has instance {table.index[table.index.duplicated()][0]!r} twice; make its index unique"
        )
    rows = table.index.get_indexer(instances)
    known = rows >= 0
    if not known.any():
        raise DataError(f"{where} shares no instance with the table; check the table's instance_key")
    return table[list(_AXES)].to_numpy(np.float64)[rows[known]], known


def _centroids(element: Any, system: str) -> pd.DataFrame:
    """Find the centroids of all instances of an element in a coordinate system, by ``x`` and ``y``."""
    import spatialdata as sd

    if hasattr(element, "geom_type"):  # of geopandas
        # As spatialdata does, but for its detour by a frame of Dask, which takes a tenth of a second.
        centres = element.geometry.centroid.get_coordinates().to_numpy()
        placed = _matrix(element, system) @ np.vstack([centres.T, np.ones(len(centres))])
        return pd.DataFrame(placed[:2].T, element.index, list(_AXES))
    with warnings.catch_warnings():
        # Rows are joined by the index, so their order does not matter.
        warnings.filterwarnings("ignore", message="The index of the dataframe is not monotonic")
        return sd.get_centroids(element, coordinate_system=system).compute()


def image_under(
    sdata: SpatialData,
    region: str,
    others: Iterable[str],
    points: Floats,
    system: str,
    image: str | None,
    where: str,
) -> str:
    """Choose the image of a region's spots.

    Parameters
    ----------
    sdata, region, others
        As for :func:`meeting_system`.
    points
        The spots in the coordinate system, ``(n_spots, 2)``.
    image
        Name of the image, if it is given.

    Returns
    -------
    The named image. Else one of the images in the coordinate system: the only one, the only one under all spots, or, if
    several lie under all spots, ``{region}_image`` or the largest size of Space Ranger's one image. Images named
    ``{other}_image`` after another region, as :func:`write_spatialdata` names them, do not count.

    Raises
    ------
    ImageError
        If there is no such image, or several.
    """
    placed = [name for name, element in sdata.images.items() if system in systems(element)]
    if image is None:
        placed = [name for name in placed if name not in {f"{other}_image" for other in others}]
    if image is None and len(placed) > 1:
        under = [name for name in placed if _lies_under(sdata.images[name], points, system, where)]
        own = f"{region}_image"
        placed = [own] if own in under else _largest(sdata, under) or placed
    return choose(f"image in coordinate system {system!r}", placed, image, where, ImageError, argument="image")


def _largest(sdata: SpatialData, names: list[str]) -> list[str]:
    """Keep the largest of the sizes of one image; keep all of different images."""
    stems = {match[1] if (match := _SIZES.match(name)) else name for name in names}
    if len(stems) > 1:
        return names

    def pixels(name: str) -> int:
        size = full_resolution(sdata.images[name]).sizes
        return int(size["x"] * size["y"])

    return [max(names, key=pixels)] if names else []


def _lies_under(image: Any, points: Floats, system: str, where: str) -> bool:
    size = full_resolution(image).sizes
    pixels = to_pixels(image, points, system, where)
    return bool(((pixels >= 0) & (pixels < [size["x"], size["y"]])).all())


def to_pixels(image: Any, points: Floats, system: str, where: str) -> Floats:
    """Convert points of a coordinate system to pixels of an image, ``(n, 2)``, x then y.

    Raises
    ------
    ImageError
        If the image's transformation has no inverse.
    """
    to_image = _inverse(image, system, where)
    return points @ to_image[:2, :2].T + to_image[:2, 2]


def spot_diameter(element: Any, image: Any, centres: Floats, system: str, where: str) -> float:
    """Compute the spot diameter in pixels.

    It is the diameter of circles, the side of a square with the area of polygons, or else the distance of neighbours.
    """
    enlarged = _enlargement(_inverse(image, system, where) @ _matrix(element, system))
    if "radius" in getattr(element, "columns", ()):
        return 2 * float(np.median(element["radius"])) * enlarged
    if hasattr(element, "geometry"):
        return float(np.sqrt(np.median(element.geometry.area))) * enlarged
    return neighbour_distance(centres) or 1.0


def microns_per_pixel_of(
    image: Any, given: float | None, region: str, spots: Any, diameter: float, where: str
) -> float:
    """Find um per pixel of an image: as given, by its transformation to um, or by the known size of Visium's spots.

    Parameters
    ----------
    image
        The image.
    given
        Um per pixel, if given.
    region, spots
        Name and element of the spots. With spatialdata-io, the name gives the size of the squares of Visium HD, and the
        coordinate systems show that circles are Visium's.
    diameter
        Diameter of a spot, in pixels of the image.

    Raises
    ------
    DataError
        If the image has no resolution, or is stretched.
    """
    if given is not None:
        check_scale(where, None, given)
        return float(given)
    if MICRONS not in systems(image):
        known = _spot_um(region, spots)
        if known is not None:
            return known / diameter
        raise DataError(
            f"{where}: no scale (no coordinate system {MICRONS!r}); give um per pixel of the image "
            f"({setting('data.options.microns_per_pixel', 0.5)}), or place the image in that system "
            "(spatialdata.transformations.set_transformation); "
            f"spots are {diameter:.4g} px wide, and {VISIUM_SCALEFACTOR_UM:g} um on Visium, which would be "
            f"{VISIUM_SCALEFACTOR_UM / diameter:.4g} um per pixel"
        )
    matrix = _matrix(image, MICRONS)
    x, y = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if not y > 0 or x > y * (1 + _AXES_AGREE):
        raise DataError(
            f"{where}: the image's pixels are {x:.4g} by {y:.4g} um in {MICRONS!r}; give an image with square ones"
        )
    return _enlargement(matrix)


def _spot_um(region: str, spots: Any) -> float | None:
    """Look up the spot size in um, in stores that spatialdata-io made from Space Ranger's output."""
    if (squares := _SQUARES.search(region)) is not None:
        return float(squares[1])
    of_visium = any(system.endswith(_OF_VISIUM) for system in systems(spots))
    return VISIUM_SCALEFACTOR_UM if of_visium and "radius" in getattr(spots, "columns", ()) else None


def _matrix(element: Any, system: str) -> Floats:
    """Return the affine matrix from an element's own x and y to those of a coordinate system, ``(3, 3)``."""
    return np.asarray(systems(element)[system].to_affine_matrix(_AXES, _AXES), dtype=np.float64)


def _inverse(image: Any, system: str, where: str) -> Floats:
    try:
        return np.asarray(np.linalg.inv(_matrix(image, system)), dtype=np.float64)
    except np.linalg.LinAlgError:
        raise ImageError(
            f"{where}: the image's transformation maps it onto a line; give one that has an inverse"
        ) from None


def _enlargement(matrix: Floats) -> float:
    """Return the factor on lengths: the root of the factor on areas."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
