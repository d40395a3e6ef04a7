"""Maps of a section: its spots, or numbers of them, on the H&E image."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from skimage.transform import downscale_local_mean

from nh2st_graph._errors import DataError, nearest
from nh2st_graph.confidence import UNFAMILIAR, unfamiliar_spots
from nh2st_graph.pl._style import ORANGE, SEQUENTIAL, colour_bar, finish_map, given_or_new
from nh2st_graph.read import SpatialObject, documented, one_section
from nh2st_graph.section import Key, changed_entry, layers_of, library, section_name, spot_centres

__all__ = ["familiarity", "section", "spot_values"]

#: Width of a colour bar with its label.
_BAR_INCHES = 1.05
#: Margin around the spots as a share of their extent, and the wide margin of :func:`section`.
_MARGIN, _WIDE_MARGIN = 0.06, 0.25
#: Percentiles at the ends of a colour range, so that one outlier does not flatten a map.
_ROBUST = (2.0, 98.0)
#: Over spots whose value means little: most of their colour goes, and hatching shows where they are many.
_FADED = {"facecolor": (1.0, 1.0, 1.0, 0.6), "edgecolor": "0.25", "linewidth": 0.0}
#: Spots through which the image is seen: rings, and a veil over it where rings would leave nothing of it.
_RINGS: dict[str, Any] = {"facecolor": "none", "edgecolor": "black", "linewidth": 0.8}
_VEIL: dict[str, Any] = {"facecolor": (0.0, 0.0, 0.0, 0.35), "linewidth": 0.0}
#: A spot that is less than this share of the view across is too small for a ring.
_SMALL = 1 / 300
_SCALE_BAR = {"location": "lower left", "border_pad": 0.5, "box_alpha": 0.7, "font_properties": {"size": "small"}}
#: Pixels along the longer side of the drawn image.
_IMAGE_PIXELS = 900


@documented
def section(
    adata: SpatialObject,
    *,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
    unfamiliar: float = UNFAMILIAR,
    ax: Axes | None = None,
) -> Axes:
    """Draw the spots of a section on its H&E image, to see whether they lie on tissue.

    They are rings, or a grey veil where they are so small (below 1/300 of the map) that rings would hide the image.

    Spots of a prediction that are unlike training (``obs["familiarity"]``) are orange and hatched.

    Parameters
    ----------
    adata
        One section with spot positions and an image in ``uns["spatial"]``; an AnnData of several sections; or
        SpatialData.
    %(library_key)s
    %(library_id)s
    %(table_key)s
    unfamiliar
        Familiarity below which a spot is unlike training; 0 marks none.
    %(ax)s

    Returns
    -------
    The axes, in pixels of the image in ``uns["spatial"]``, y downwards. The scale bar, as in every map, is in um, or in
    pixels of the full-resolution image if the resolution is unknown.

    Raises
    ------
    DataError
        If the section has no name, no image, or not exactly one library.
    """
    adata = one_section(adata, library_key=library_key, library_id=library_id, table_key=table_key)
    _drawable(adata)
    ax = given_or_new(ax, 6, 0.3 + 6 * _aspect(adata, _WIDE_MARGIN))
    _draw_image(adata, ax, margin=_WIDE_MARGIN, alpha=1.0)
    _add_circles(adata, ax, **(_RINGS if _share_across(adata, ax) >= _SMALL else _VEIL))
    unlike = unfamiliar_spots(adata, unfamiliar)
    _hatch(adata, ax, unlike, facecolor="none", edgecolor=ORANGE, linewidth=1.2)
    title = f"section {section_name(adata)}: {adata.n_obs} spots"
    ax.set_title(_marked(title, "orange", unlike, unfamiliar))
    return ax


@documented
def familiarity(
    prediction: SpatialObject,
    *,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
    unfamiliar: float = UNFAMILIAR,
    ax: Axes | None = None,
) -> Axes:
    """Draw how familiar each spot of a prediction is to its model.

    Parameters
    ----------
    prediction
        A predicted section with ``obs["familiarity"]``: one half is what a usual spot of a section like those of
        training has, and 0 is farther from training than all of them were.
    %(library_key)s
    %(library_id)s
    %(table_key)s
    unfamiliar
        Familiarity below which spots are hatched; 0 hatches none.
    %(ax)s

    Returns
    -------
    The axes, in pixels of the image in ``uns["spatial"]``.

    Raises
    ------
    DataError
        If the prediction does not say how familiar its spots are.
    """
    prediction = one_section(prediction, library_key=library_key, library_id=library_id, table_key=table_key)
    key = Key.obs.familiarity
    if key not in prediction.obs:
        name = section_name(prediction)
        raise DataError(f"section {name!r} has no obs[{key!r}]; predict it with a model that says it")
    return _draw_column(prediction, key, "familiarity", Normalize(0, 1), unfamiliar, ax)


@documented
def spot_values(
    prediction: SpatialObject,
    column: str,
    *,
    label: str | None = None,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
    unfamiliar: float = UNFAMILIAR,
    ax: Axes | None = None,
) -> Axes:
    """Draw a column of numbers in ``obs`` over the H&E image, such as the score of a signature.

    Colours range from the 2nd to the 98th percentile. Spots that are unlike training are faded and hatched.

    Parameters
    ----------
    prediction
        A predicted section.
    column
        Column of ``obs``.
    label
        Name of the colour bar; by default that of the column.
    %(library_key)s
    %(library_id)s
    %(table_key)s
    unfamiliar
        Familiarity below which spots are hatched; 0 hatches none.
    %(ax)s

    Returns
    -------
    The axes, in pixels of the image in ``uns["spatial"]``.

    Raises
    ------
    DataError
        If ``obs`` has no such column of numbers.
    """
    prediction = one_section(prediction, library_key=library_key, library_id=library_id, table_key=table_key)
    numbers = list(prediction.obs.select_dtypes("number", exclude=["timedelta", "complexfloating"]).columns)
    if column not in numbers:
        name = section_name(prediction)
        raise DataError(f"section {name!r}: obs has no column of numbers {column!r}; {nearest(column, numbers)}")
    norm = Normalize(*_colour_range(prediction.obs[column].to_numpy(dtype=np.float64)))
    return _draw_column(prediction, column, label or column, norm, unfamiliar, ax)


def _draw_column(
    prediction: AnnData, column: str, label: str, norm: Normalize, unfamiliar: float, ax: Axes | None
) -> Axes:
    """Draw a column of ``obs`` over a pale image, with unfamiliar spots hatched."""
    prediction = _with_small_image(prediction)
    ax = given_or_new(ax, 4.6 + _BAR_INCHES, 0.6 + 4.2 * _aspect(prediction))
    _draw_image(prediction, ax, alpha=0.5, img_cmap="gray")
    colour_bar(ax, _add_values(prediction, ax, prediction.obs[column].to_numpy(), norm), label)
    unlike = unfamiliar_spots(prediction, unfamiliar)
    _hatch(prediction, ax, unlike, **_FADED)
    ax.set_title(_marked(f"section {section_name(prediction)}", "hatched", unlike, unfamiliar), fontsize="medium")
    return ax


def _marked(title: str, mark: str, unlike: NDArray[np.bool_], below: float) -> str:
    """Say below a title which share of spots is unlike training, if any, and how they are marked."""
    if not unlike.any():
        return title
    return f"{title}\n{mark}: {100 * unlike.mean():.3g} % of spots, unlike training (familiarity < {below:g})"


def _hatch(adata: AnnData, ax: Axes, spots: NDArray[np.bool_], **style: Any) -> None:
    """Hatch some spots over what is drawn there."""
    if spots.any():
        _add_circles(adata, ax, spots, **style).set_hatch("/" * 6)


def _add_circles(adata: AnnData, ax: Axes, spots: NDArray[np.bool_] | None = None, **style: Any) -> EllipseCollection:
    """Draw all spots, or some, as circles of their physical size: one shape at many places, for there may be many."""
    drawn = _drawable(adata)
    side = [drawn.spot_diameter * drawn.hires_scale]
    centres = spot_centres(adata) * drawn.hires_scale
    circles = EllipseCollection(
        *(side, side, [0.0]),
        units="xy",
        offsets=centres if spots is None else centres[spots],
        offset_transform=ax.transData,
        **style,
    )
    ax.add_collection(circles, autolim=False)
    return circles


def _add_values(adata: AnnData, ax: Axes, values: NDArray[Any], norm: Normalize) -> EllipseCollection:
    """Draw a number of each spot as its colour; grey where there is none."""
    cmap = colormaps.get_cmap(SEQUENTIAL).with_extremes(bad="lightgray")
    numbers = np.ma.masked_invalid(values)
    return _add_circles(adata, ax, array=numbers, cmap=cmap, norm=norm, linewidth=0.0)


def _colour_range(values: NDArray[np.float64]) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, _ROBUST)
    if low == high:  # expressed in a few spots only
        low, high = values.min(), values.max()
    if low == high:  # constant
        low, high = low - 0.5, high + 0.5
    return float(low), float(high)


def _draw_image(adata: AnnData, ax: Axes, *, alpha: float, margin: float = _MARGIN, **options: Any) -> None:
    """Draw the image and a scale bar by squidpy, and set the view to the spots."""
    import squidpy as sq

    drawn = _drawable(adata)
    scale, microns = drawn.hires_scale, drawn.microns_per_pixel
    unit, kind = ("px", {"dimension": "pixel-length", "scale_formatter": _pixels}) if microns is None else ("um", {})
    sq.pl.spatial_scatter(
        adata[:1],  # it would make an object of each spot: minutes for a slide of Visium HD
        img=[_in_colour(drawn.hires)],
        ax=ax,
        img_alpha=alpha,
        colorbar=False,
        title="",
        scalebar_dx=(1.0 if microns is None else microns) / scale,
        scalebar_units=unit,
        scalebar_kwargs={**_SCALE_BAR, **kind},
        **options,
    )
    finish_map(ax)
    ax.collections[-1].remove()
    low, high = _frame(adata, margin)
    ax.set_xlim(low[0] * scale, high[0] * scale)
    ax.set_ylim(high[1] * scale, low[1] * scale)


def _in_colour(image: NDArray[Any]) -> NDArray[Any]:
    """Give a grey image three channels: of a flat one, squidpy would draw the first three columns of pixels."""
    grey = image[..., None] if image.ndim == 2 else image
    return image if grey.shape[2] >= 3 else np.repeat(grey[..., :1], 3, axis=2)


def _pixels(length: float, unit: str) -> str:
    """Write the length of a scale bar in px, and not in kpx."""
    return f"{length * (1000 if unit == 'kpx' else 1):g} px"


def _with_small_image(adata: AnnData) -> AnnData:
    """Downsample a section's image to about the size of a map, since each map draws all of its pixels."""
    drawn = _drawable(adata)
    image = np.asarray(drawn.hires)
    step = max(1, max(image.shape[:2]) // _IMAGE_PIXELS)
    if step == 1:
        return adata
    small = downscale_local_mean(image, (step, step, 1)[: image.ndim])
    entry = changed_entry(library(adata).entry, hires=(small.astype(image.dtype), drawn.hires_scale / step))
    light = AnnData(adata.X, obs=adata.obs, var=adata.var, layers=layers_of(adata), obsm=adata.obsm)
    light.uns = {**adata.uns, Key.uns.spatial: {section_name(adata): entry}}
    return light


class _Drawable(NamedTuple):
    """Small image of a section, its scale, and what is known of its spots."""

    hires: NDArray[Any]
    hires_scale: float
    spot_diameter: float
    microns_per_pixel: float | None


def _drawable(adata: AnnData) -> _Drawable:
    """Give what a map is drawn on.

    Raises
    ------
    DataError
        If the section has no small image.
    """
    found = library(adata)
    if found.hires is None or found.hires_scale is None or found.spot_diameter is None:
        raise DataError(
            f"section {section_name(adata)!r}: uns['{Key.uns.spatial}'] has no image '{Key.library.hires}' "
            "to draw; read the section with a reader of ng.read"
        )
    return _Drawable(found.hires, found.hires_scale, found.spot_diameter, found.microns_per_pixel)


def _frame(adata: AnnData, margin: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the upper left and lower right corner of a view on the spots, in full-resolution pixels.

    The margin ends at the border of the image; all spots are in view, even outside the image.
    """
    drawn = _drawable(adata)
    rows, columns = drawn.hires.shape[:2]
    image = np.array([columns, rows]) / drawn.hires_scale
    centres = spot_centres(adata)
    radius = drawn.spot_diameter / 2
    low, high = centres.min(axis=0) - radius, centres.max(axis=0) + radius
    border = margin * (high - low).max()
    return np.minimum(low, np.maximum(low - border, 0)), np.maximum(high, np.minimum(high + border, image))


def _share_across(adata: AnnData, ax: Axes) -> float:
    """Compute what share of the longer side of the view a spot takes."""
    sides = (abs(end - start) for start, end in (ax.get_xlim(), ax.get_ylim()))
    drawn = _drawable(adata)
    return drawn.spot_diameter * drawn.hires_scale / max(sides)


def _aspect(adata: AnnData, margin: float = _MARGIN) -> float:
    low, high = _frame(adata, margin)
    width, height = high - low
    return float(np.clip(height / width, 0.4, 2.5))
