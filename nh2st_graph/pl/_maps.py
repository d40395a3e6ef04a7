"""Maps of a section: spots on the H&E image, and observed and predicted genes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import sparse
from skimage.transform import downscale_local_mean

from nh2st_graph._errors import DataError, nearest, setting
from nh2st_graph._files import is_count
from nh2st_graph.confidence import UNFAMILIAR, unfamiliar_spots
from nh2st_graph.metrics import pearson
from nh2st_graph.pl._style import EXPRESSION, HALO, ORANGE, SEQUENTIAL, colour_bar, finish_map, given_or_new
from nh2st_graph.read import SpatialObject, documented, one_section
from nh2st_graph.section import Key, changed_entry, library, section_name

__all__ = ["familiarity", "gene_maps", "section", "spot_values"]

#: Size of one map, and of the colour bar, row name and title around it.
_PANEL_INCHES, _BAR_INCHES, _LABEL_INCHES, _TITLE_INCHES = 3.0, 1.05, 0.5, 0.4
#: A second line of a title.
_LINE_INCHES = 0.2
#: Margin around the spots as a share of their extent, and the wide margin of :func:`section`.
_MARGIN, _WIDE_MARGIN = 0.06, 0.25
#: Percentiles at the ends of a colour range, so that one outlier does not flatten a map.
_ROBUST = (2.0, 98.0)
_GENE_COLUMN = "pcc"
#: Over spots whose value means little: most of their colour goes, and hatching shows where they are many.
_FADED = {"facecolor": (1.0, 1.0, 1.0, 0.6), "edgecolor": "0.25", "linewidth": 0.0}
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
    _draw(adata, ax, margin=_WIDE_MARGIN, alpha=1.0, na_color="white")
    ax.collections[-1].set(facecolor="none", edgecolor="black", linewidth=0.8)
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
    numbers = list(prediction.obs.select_dtypes("number").columns)
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
    _draw(prediction, ax, color=column, alpha=0.5, img_cmap="gray", cmap=SEQUENTIAL, norm=norm)
    colour_bar(ax, ax.collections[-1], label)
    unlike = unfamiliar_spots(prediction, unfamiliar)
    _hatch(prediction, ax, unlike, **_FADED)
    ax.set_title(_marked(f"section {section_name(prediction)}", "hatched", unlike, unfamiliar), fontsize="medium")
    return ax


def _marked(title: str, mark: str, unlike: NDArray[np.bool_], below: float) -> str:
    """Say below a title how many spots are unlike training, if any, and how they are marked."""
    number, n_spots = int(unlike.sum()), len(unlike)
    if not number:
        return title
    return f"{title}\n{mark}: {number} of {n_spots} spots unlike training (familiarity below {below:g})"


def _hatch(adata: AnnData, ax: Axes, spots: NDArray[np.bool_], **style: Any) -> None:
    """Hatch some spots over what is drawn there."""
    if not spots.any():
        return
    drawn = _drawable(adata)
    side = np.full(int(spots.sum()), drawn.spot_diameter * drawn.hires_scale)
    centres = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)[spots] * drawn.hires_scale
    circles = EllipseCollection(
        side, side, np.zeros(len(side)), units="xy", offsets=centres, offset_transform=ax.transData, **style
    )
    circles.set_hatch("/" * 6)
    ax.add_collection(circles, autolim=False)


@documented
def gene_maps(
    prediction: SpatialObject,
    genes: Sequence[str] | None = None,
    *,
    n: int = 1,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
    unfamiliar: float = UNFAMILIAR,
) -> Figure:
    """Draw observed and predicted expression side by side over the H&E image, one gene per row.

    Each map has its own colour bar, whose range is from the 2nd to the 98th percentile of its spots. Predictions are
    shrunken towards the mean and would look empty on a common range: compare patterns in the maps, and sizes by the
    colour bars. CP10k are counts per ten thousand counts of a spot, of all genes or of the panel.

    The title of a predicted map says the gene's r in held-out training tissue, and if the gene is not reliable
    (``var["held_out_pcc"]`` and ``var["reliable"]``, as :func:`nh2st_graph.tl.predict` writes them). Predicted spots
    that are unlike training (``obs["familiarity"]``) are faded and hatched. A gene that is not predicted (NaN) has no
    spots.

    Parameters
    ----------
    prediction
        A predicted section: ``X`` is predicted and ``layers["observed"]`` measured log expression. Without the layer
        there is no column of observed maps, and ``genes`` must be given. r is taken from ``var["pcc"]``, or computed.
    genes
        Genes to draw; by default the ``n`` best, the ``n`` in the middle and the ``n`` worst by r.
    n
        Number of genes of each kind.
    %(library_key)s
    %(library_id)s
    %(table_key)s
    unfamiliar
        Familiarity below which a spot is unlike training; 0 marks none.

    Returns
    -------
    The figure, with the columns H&E, observed and predicted. Spots have the diameter of the assay.

    Raises
    ------
    DataError
        If a gene is not in the prediction, or no genes are given and there is no measurement.
    """
    prediction = one_section(prediction, library_key=library_key, library_id=library_id, table_key=table_key)
    measured = Key.layers.observed in prediction.layers
    pcc = _pcc(prediction) if measured else None
    if not is_count(n, least=0):
        raise DataError(f"{setting('n', n)}; give a number of genes")
    rows = _named(prediction, genes) if genes is not None else _best_median_worst(prediction, pcc, n)
    columns: list[tuple[str, str | None]] = [("predicted", None)]
    if measured:
        columns.insert(0, ("observed", Key.layers.observed))

    held_out = Key.var.held_out_r in prediction.var
    title_inches = _TITLE_INCHES + (_LINE_INCHES if held_out else 0.0)
    width = _LABEL_INCHES + _PANEL_INCHES + (_PANEL_INCHES + _BAR_INCHES) * len(columns)
    height = _TITLE_INCHES + (_PANEL_INCHES * _aspect(prediction) + title_inches) * len(rows)
    prediction = _with_small_image(prediction)
    unlike = unfamiliar_spots(prediction, unfamiliar)
    shape = (len(rows), 1 + len(columns))
    figure, grid = plt.subplots(*shape, figsize=(width, height), squeeze=False, layout="compressed")
    for axes, (gene, kind) in zip(grid, rows, strict=True):
        _draw(prediction, axes[0], alpha=1.0, spots=False)
        _name_row(axes[0], f"{kind}\n{gene}" if kind else gene)
        for ax, (name, layer) in zip(axes[1:], columns, strict=True):
            there = _draw_gene(prediction, ax, gene, layer)
            if layer is None and there:
                _hatch(prediction, ax, unlike, **_FADED)
                name += "" if pcc is None else f", r = {pcc[gene]:.2f}"
                name += f"\n{_held_out(prediction.var.loc[gene])}" if held_out else ""
            ax.set_title(name)
        axes[0].set_title("H&E")
    title = f"section {section_name(prediction)}: each map with its own colour range"
    figure.suptitle(_marked(title, "hatched", unlike, unfamiliar))
    return figure


def _held_out(gene: pd.Series) -> str:
    """Say what held-out training tissue says of a gene."""
    reliable = bool(gene.get(Key.var.reliable, True))
    return f"held-out r = {gene[Key.var.held_out_r]:.2f}{'' if reliable else ', not reliable'}"


def _name_row(ax: Axes, name: str) -> None:
    ax.annotate(
        name,
        (0, 0.5),
        (-6, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="center",
        multialignment="center",
        fontsize="large",
    )


def _draw_gene(prediction: AnnData, ax: Axes, gene: str, layer: str | None) -> bool:
    """Draw a gene; where it has no values, say so, and give False."""
    values = np.asarray(prediction.obs_vector(gene, layer=layer), dtype=np.float64)
    if np.isnan(values).all():
        _draw(prediction, ax, alpha=0.5, img_cmap="gray", spots=False)
        said = "not predicted:\nbarely measured in training" if layer is None else "not measured"
        ax.text(0.5, 0.5, said, transform=ax.transAxes, ha="center", va="center", path_effects=HALO)
        return False
    low, high = _colour_range(values)
    norm = Normalize(low, high)
    _draw(prediction, ax, color=gene, layer=layer, alpha=0.5, img_cmap="gray", cmap=SEQUENTIAL, norm=norm)
    outside = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    extend = outside[bool(np.nanmin(values) < low), bool(np.nanmax(values) > high)]
    about = prediction.uns.get(Key.uns.prediction, {})
    label = EXPRESSION.get(about.get("normalize"), "log-expression")
    label = label.replace("log(", f"log{about['log_base']}(") if about.get("log_base", "e") != "e" else label
    bar = colour_bar(ax, ax.collections[-1], label, extend=extend)
    bar.ax.yaxis.label.set_fontsize("small")
    return True


def _colour_range(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanpercentile(values, _ROBUST)
    if low == high:  # expressed in a few spots only
        low, high = np.nanmin(values), np.nanmax(values)
    if low == high:  # constant
        low, high = low - 0.5, high + 0.5
    return float(low), float(high)


def _draw(
    adata: AnnData, ax: Axes, *, alpha: float, margin: float = _MARGIN, spots: bool = True, **options: Any
) -> None:
    """Draw spots of their physical size and the image by squidpy, and set the view to the spots."""
    import squidpy as sq

    drawn = _drawable(adata)
    scale, microns = drawn.hires_scale, drawn.microns_per_pixel
    unit, kind = ("px", {"dimension": "pixel-length", "scale_formatter": _pixels}) if microns is None else ("um", {})
    sq.pl.spatial_scatter(
        adata,
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
    if not spots:
        ax.collections[-1].remove()
    low, high = _frame(adata, margin)
    ax.set_xlim(low[0] * scale, high[0] * scale)
    ax.set_ylim(high[1] * scale, low[1] * scale)


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
    light = AnnData(adata.X, obs=adata.obs, var=adata.var, layers=adata.layers, obsm=adata.obsm)
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
    centres = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    radius = drawn.spot_diameter / 2
    low, high = centres.min(axis=0) - radius, centres.max(axis=0) + radius
    border = margin * (high - low).max()
    return np.minimum(low, np.maximum(low - border, 0)), np.maximum(high, np.minimum(high + border, image))


def _aspect(adata: AnnData, margin: float = _MARGIN) -> float:
    low, high = _frame(adata, margin)
    width, height = high - low
    return float(np.clip(height / width, 0.4, 2.5))


def _pcc(prediction: AnnData) -> pd.Series:
    if _GENE_COLUMN in prediction.var:
        return prediction.var[_GENE_COLUMN]
    r = pearson(_dense(prediction.X), _dense(prediction.layers[Key.layers.observed]))
    return pd.Series(r, prediction.var_names)


def _dense(values: Any) -> NDArray:
    return values.toarray() if sparse.issparse(values) else np.asarray(values)


def _named(prediction: AnnData, genes: Sequence[str]) -> list[tuple[str, str]]:
    if not len(genes):
        raise DataError(f"section {section_name(prediction)!r}: genes is empty; name genes to draw")
    for gene in genes:
        if gene not in prediction.var_names:
            hint = nearest(gene, prediction.var_names)
            raise DataError(f"section {section_name(prediction)!r}: gene {gene!r} is not in the prediction; {hint}")
    return [(gene, "") for gene in genes]


def _best_median_worst(prediction: AnnData, pcc: pd.Series | None, n: int) -> list[tuple[str, str]]:
    if pcc is None:
        raise DataError(
            f"section {section_name(prediction)!r}: no layers['{Key.layers.observed}'] to rank genes by; "
            f"give {setting('genes')}"
        )
    given = ~np.isnan(_dense(prediction.X)).all(axis=0)
    ranked = pcc[given].dropna().sort_index().sort_values(ascending=False, kind="stable").index.tolist()
    if not ranked:  # none has an r, as where nothing was counted
        return [(gene, "") for gene in sorted(prediction.var_names)[:n]]
    n = max(1, min(n, len(ranked) // 3))
    middle = (len(ranked) - n) // 2
    kinds = {"median": ranked[middle : middle + n], "worst": ranked[-n:], "best": ranked[:n]}
    kind_of = {gene: kind for kind, names in kinds.items() for gene in names}  # each gene once, even if genes are few
    return [(gene, kind_of[gene]) for gene in ranked if gene in kind_of]
