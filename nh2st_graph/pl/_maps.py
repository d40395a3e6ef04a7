"""Maps of a section: spots on the H&E image, and observed and predicted genes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import sparse
from skimage.transform import downscale_local_mean

from nh2st_graph._errors import DataError, nearest, setting
from nh2st_graph.metrics import pearson
from nh2st_graph.pl._style import EXPRESSION, SEQUENTIAL, colour_bar, finish_map, given_or_new
from nh2st_graph.read import SpatialObject, documented, one_section
from nh2st_graph.section import Key, changed_entry, library, section_name

__all__ = ["gene_maps", "section"]

#: Size of one map, and of the colour bar, row name and title around it.
_PANEL_INCHES, _BAR_INCHES, _LABEL_INCHES, _TITLE_INCHES = 3.0, 1.05, 0.5, 0.4
#: Margin around the spots as a share of their extent, and the wide margin of :func:`section`.
_MARGIN, _WIDE_MARGIN = 0.06, 0.25
#: Percentiles at the ends of a colour range, so that one outlier does not flatten a map.
_ROBUST = (2.0, 98.0)
_GENE_COLUMN = "pcc"
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
    ax: Axes | None = None,
) -> Axes:
    """Draw the spots of a section on its H&E image, to see whether they lie on tissue.

    Parameters
    ----------
    adata
        One section with spot positions and an image in ``uns["spatial"]``; an AnnData of several sections; or
        SpatialData.
    %(library_key)s
    %(library_id)s
    %(table_key)s
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
    ax.set_title(f"section {section_name(adata)}: {adata.n_obs} spots")
    return ax


@documented
def gene_maps(
    prediction: SpatialObject,
    genes: Sequence[str] | None = None,
    *,
    n: int = 1,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
) -> Figure:
    """Draw observed and predicted expression side by side over the H&E image, one gene per row.

    Each map has its own colour bar, whose range is from the 2nd to the 98th percentile of its spots. Predictions are
    shrunken towards the mean and would look empty on a common range: compare patterns in the maps, and sizes by the
    colour bars. CP10k are counts per ten thousand counts of a spot, of all genes or of the panel.

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
    rows = _named(prediction, genes) if genes is not None else _best_median_worst(prediction, pcc, n)
    columns: list[tuple[str, str | None]] = [("predicted", None)]
    if measured:
        columns.insert(0, ("observed", Key.layers.observed))

    width = _LABEL_INCHES + _PANEL_INCHES + (_PANEL_INCHES + _BAR_INCHES) * len(columns)
    height = _TITLE_INCHES + (_PANEL_INCHES * _aspect(prediction) + _TITLE_INCHES) * len(rows)
    prediction = _with_small_image(prediction)
    shape = (len(rows), 1 + len(columns))
    figure, grid = plt.subplots(*shape, figsize=(width, height), squeeze=False, layout="compressed")
    for axes, (gene, kind) in zip(grid, rows, strict=True):
        _draw(prediction, axes[0], alpha=1.0, spots=False)
        _name_row(axes[0], f"{kind}\n{gene}" if kind else gene)
        for ax, (name, layer) in zip(axes[1:], columns, strict=True):
            _draw_gene(prediction, ax, gene, layer)
            r = "" if pcc is None or layer is not None else f", r = {pcc[gene]:.2f}"
            ax.set_title(f"{name}{r}")
        axes[0].set_title("H&E")
    figure.suptitle(f"section {section_name(prediction)}: each map with its own colour range")
    return figure


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


def _draw_gene(prediction: AnnData, ax: Axes, gene: str, layer: str | None) -> None:
    values = np.asarray(prediction.obs_vector(gene, layer=layer), dtype=np.float64)
    low, high = _colour_range(values)
    norm = Normalize(low, high)
    _draw(prediction, ax, color=gene, layer=layer, alpha=0.5, img_cmap="gray", cmap=SEQUENTIAL, norm=norm)
    outside = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    extend = outside[bool(values.min() < low), bool(values.max() > high)]
    about = prediction.uns.get(Key.uns.prediction, {})
    label = EXPRESSION.get(about.get("normalize"), "log-expression")
    label = label.replace("log(", f"log{about['log_base']}(") if about.get("log_base", "e") != "e" else label
    bar = colour_bar(ax, ax.collections[-1], label, extend=extend)
    bar.ax.yaxis.label.set_fontsize("small")


def _colour_range(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, _ROBUST)
    if low == high:  # expressed in a few spots only
        low, high = values.min(), values.max()
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
    ranked = pcc.dropna().sort_index().sort_values(ascending=False, kind="stable").index.tolist()
    n = max(1, min(n, len(ranked) // 3))
    middle = (len(ranked) - n) // 2
    kinds = {"median": ranked[middle : middle + n], "worst": ranked[-n:], "best": ranked[:n]}
    kind_of = {gene: kind for kind, names in kinds.items() for gene in names}  # each gene once, even if genes are few
    return [(gene, kind_of[gene]) for gene in ranked if gene in kind_of]
