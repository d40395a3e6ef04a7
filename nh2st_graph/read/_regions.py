"""Read regions that were drawn on a slide: GeoJSON, as QuPath exports annotations, or shapes of shapely."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, listed, reason
from nh2st_graph._files import parse_json, read_text

if TYPE_CHECKING:
    from shapely import Geometry

    Shapes: TypeAlias = Geometry | Iterable[Any]

__all__ = ["Regions", "regions"]

logger = logging.getLogger("nh2st_graph")

#: How to make such a file.
_EXPORT = "export annotations as GeoJSON (QuPath: File > Export objects as GeoJSON)"
#: Objects of QuPath that are found by a program, not drawn as a region.
_DETECTED = {"detection", "cell", "tile"}
_UNNAMED = "unnamed"


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions of a slide, in its full-resolution pixels.

    Attributes
    ----------
    source
        Their file, or the kind of object that they were given as.
    names
        Class of each region; if it has none, its name; else ``"unnamed"``.
    shapes
        Polygons and multipolygons of shapely, which may have holes.
    """

    source: Path | str
    names: tuple[str, ...]
    shapes: tuple[Geometry, ...]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom end of all regions."""
        import shapely

        left, top, right, bottom = (float(end) for end in shapely.total_bounds(self.shapes))
        return left, top, right, bottom

    def at(self, centres: NDArray[np.float64]) -> NDArray[np.intp]:
        """Find the region in which each point lies, by its number; -1 is none.

        Of regions that lie in each other, it is the smallest. The border of a region belongs to it, and that of a hole.

        Parameters
        ----------
        centres
            ``(n, 2)``, x then y, in full-resolution pixels.

        Returns
        -------
        ``(n,)``.
        """
        import shapely

        found = np.full(len(centres), -1, dtype=np.intp)
        by_size = np.argsort([-shape.area for shape in self.shapes], kind="stable")
        # A tree of the regions, not of the points: there are few, and the points are taken in blocks by shapely.
        point, region = shapely.STRtree(self.shapes).query(shapely.points(centres), predicate="intersects")
        rank = np.empty(len(by_size), dtype=np.intp)
        rank[by_size] = np.arange(len(by_size))
        order = np.argsort(rank[region], kind="stable")
        found[point[order]] = region[order]
        return found


def regions(given: str | Path | Shapes, *, origin: tuple[float, float] = (0.0, 0.0)) -> Regions:
    """Read regions from GeoJSON, or take shapes.

    Parameters
    ----------
    given
        A file of polygons and multipolygons, as QuPath exports its annotations: a feature collection, a list of
        features, one feature or one geometry. Or shapes in pixels of the full-resolution image, as squidpy and
        SpatialData have them: a geometry of shapely, several, a GeoSeries or a GeoDataFrame, whose columns
        ``classification`` and ``name`` name them. Points and lines, and objects that QuPath detected (cells, tiles),
        are left out.
    origin
        Pixel from which a file counts, x then y; see :func:`nh2st_graph.slide.scan_origin`.

    Raises
    ------
    DataError
        If the file is missing, is not GeoJSON, is empty, or has no polygon; or if what is given is neither.
    """
    if isinstance(given, str | Path):
        path = Path(given)
        return _regions(_features(_parsed(path), path), path, origin)
    return _regions(_shapes(given), type(given).__name__, (0.0, 0.0))


def _regions(
    features: Iterable[tuple[Mapping[str, Any], Any]], source: Path | str, origin: tuple[float, float]
) -> Regions:
    """Take the regions among features."""
    import shapely
    from shapely.affinity import translate

    names, shapes, others = [], [], set()
    for properties, geometry in features:
        if (kind := str(properties.get("objectType"))) in _DETECTED:
            others.add(kind)
            continue
        shape = _shape(geometry, source)
        # Make lines that cross themselves valid, and take the areas of collections.
        parts = [part for part in shapely.get_parts(shapely.make_valid(shape)) if part.area > 0]
        if not parts:
            others.add(f"an empty {shape.geom_type}" if shape.is_empty else shape.geom_type)
            continue
        names.append(_name(properties))
        shapes.append(translate(shapely.union_all(parts), *origin) if any(origin) else shapely.union_all(parts))
    if not shapes:
        there = f"only {listed(sorted(others))}" if others else "nothing"
        raise DataError(f"regions {source} hold {there}, no polygon; draw a region as a polygon, and {_EXPORT}")
    if others:
        logger.info("regions %s: left out, since they are no region: %s", source, listed(sorted(others)))
    return Regions(source, tuple(names), tuple(shapes))


def _shapes(given: Any) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """List shapes with what is said of them.

    Raises
    ------
    DataError
        If what is given holds no shapes.
    """
    import shapely

    if isinstance(given, shapely.Geometry):
        yield {}, given
        return
    if hasattr(given, "geometry") and hasattr(given, "drop"):  # of geopandas
        table = given.drop(columns=given.geometry.name) if given.ndim == 2 else given.to_frame()[[]]
        rows, there = table.to_dict("records") or [{}] * len(given), list(given.geometry)
    else:
        there = list(given) if isinstance(given, Iterable) else [given]
        rows = [{}] * len(there)
    for properties, geometry in zip(rows, there, strict=True):
        if geometry is None:
            continue
        if not isinstance(geometry, shapely.Geometry):
            raise DataError(
                f"regions are given as {type(given).__name__} of {type(geometry).__name__}; give a file of GeoJSON, "
                "polygons of shapely, or a GeoDataFrame"
            )
        yield {str(key): value for key, value in properties.items()}, geometry


def _parsed(path: Path) -> Any:
    text = read_text(path, "regions", _EXPORT)
    if not text.strip():
        raise DataError(f"regions {path} are an empty file; {_EXPORT}")
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"regions {path} are not JSON ({reason(error)}); {_EXPORT}") from None


def _features(value: Any, path: Path) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """List the features of any of the forms that programs write."""
    if isinstance(value, list):
        for each in value:
            yield from _features(each, path)
        return
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "FeatureCollection" and isinstance(value.get("features"), list):
        yield from _features(value["features"], path)
    elif kind == "Feature":
        properties = value.get("properties")
        if value.get("geometry") is not None:
            yield properties if isinstance(properties, Mapping) else {}, value["geometry"]
    elif isinstance(kind, str) and ("coordinates" in value or "geometries" in value):
        yield {}, value
    else:
        raise DataError(f"regions {path} are not GeoJSON: no feature and no geometry; {_EXPORT}")


def _shape(geometry: Any, source: Path | str) -> Geometry:
    import shapely
    from shapely.geometry import shape

    try:
        found = shapely.force_2d(geometry if isinstance(geometry, shapely.Geometry) else shape(geometry))
        if np.isfinite(shapely.get_coordinates(found)).all():
            return found
        said = "coordinates that are not finite"
    except Exception as error:  # shapely raises nearly any class on what is no geometry
        said = reason(error)
    raise DataError(f"regions {source} hold a geometry that is damaged ({said}); {_EXPORT}")


def _name(properties: Mapping[str, Any]) -> str:
    """Name a region by its class in QuPath (in an old or new form), or by its own name."""
    given = properties.get("classification")
    if isinstance(given, str) and given.startswith("{"):  # as geopandas reads it
        with suppress(ValueError):
            given = parse_json(given)
    if isinstance(given, Mapping):
        parts = given.get("names")
        given = ": ".join(map(str, parts)) if isinstance(parts, list) and parts else given.get("name")
    for name in (given, properties.get("name")):
        if isinstance(name, str) and name.strip():
            return name.strip()
    return _UNNAMED
