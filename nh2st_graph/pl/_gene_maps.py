"""Maps of genes: observed and predicted side by side over the H&E image."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, nearest, setting
from nh2st_graph._files import is_count
from nh2st_graph.confidence import UNFAMILIAR, unfamiliar_spots
from nh2st_graph.metrics import pearson
from nh2st_graph.pl._maps import (
    _BAR_INCHES,
    _FADED,
    _add_values,
    _aspect,
    _colour_range,
    _draw_image,
    _hatch,
    _marked,
    _with_small_image,
)
from nh2st_graph.pl._style import EXPRESSION, HALO, colour_bar
from nh2st_graph.read import SpatialObject, documented, one_section
from nh2st_graph.section import Key, as_dense, section_name

__all__ = ["gene_maps"]

#: Size of one map, and of the row name and title around it.
_PANEL_INCHES, _LABEL_INCHES, _TITLE_INCHES = 3.0, 0.5, 0.4
#: Most panels beside each other where there are no observed maps.
_PANELS_ACROSS = 3
#: A second line of a title.
_LINE_INCHES = 0.2
_GENE_COLUMN = "pcc"
#: Fewest spots of which an r says anything: of two it is 1 or -1.
_FEWEST_SPOTS = 3


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
    spots. Maps of :func:`nh2st_graph.tl.impute` are called imputed, and their r is of the spots where the gene was not
    measured: elsewhere both maps show the same values.

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
    The figure: a row for each gene, with the columns H&E, observed and predicted. Where nothing was measured, it has
    the H&E image once, and the predicted maps after it. Spots have the diameter of the assay.

    Raises
    ------
    DataError
        If a gene is not in the prediction or there twice, or no genes are given and there is no measurement.
    """
    prediction = one_section(prediction, library_key=library_key, library_id=library_id, table_key=table_key)
    measured = Key.layers.observed in prediction.layers
    pcc = _pcc(prediction) if measured else None
    if not is_count(n, least=0):
        raise DataError(f"{setting('n', n)}; give a number of genes")
    rows = _named(prediction, genes) if genes is not None else _best_median_worst(prediction, pcc, n)
    for gene, _ in rows:
        if not np.isscalar(prediction.var_names.get_loc(gene)):
            name = section_name(prediction)
            raise DataError(f"section {name!r}: several genes are named {gene!r}; call var_names_make_unique() on it")
    shown, unlike = _with_small_image(prediction), unfamiliar_spots(prediction, unfamiliar)
    in_rows = measured or len(rows) == 1
    figure = _beside_observed(shown, rows, pcc, unlike) if in_rows else _beside_image(shown, rows, unlike)
    title = f"section {section_name(prediction)}: each map with its own colour range"
    figure.suptitle(_marked(title, "hatched", unlike, unfamiliar))
    return figure


def _beside_observed(
    prediction: AnnData, rows: Sequence[tuple[str, str]], pcc: pd.Series | None, unlike: NDArray[np.bool_]
) -> Figure:
    """Draw a row for each gene: the image, the observed map if there is one, and the predicted one."""
    columns: list[tuple[str, str | None]] = [(_kind(prediction), None)]
    if pcc is not None:
        columns.insert(0, ("observed", Key.layers.observed))
    width = _LABEL_INCHES + _PANEL_INCHES + (_PANEL_INCHES + _BAR_INCHES) * len(columns)
    height = _TITLE_INCHES + (_PANEL_INCHES * _aspect(prediction) + _title_inches(prediction)) * len(rows)
    shape = (len(rows), 1 + len(columns))
    figure, grid = plt.subplots(*shape, figsize=(width, height), squeeze=False, layout="compressed")
    for axes, (gene, kind) in zip(grid, rows, strict=True):
        _draw_image(prediction, axes[0], alpha=1.0)
        _name_row(axes[0], f"{kind}\n{gene}" if kind else gene)
        for ax, (name, layer) in zip(axes[1:], columns, strict=True):
            there = _draw_gene(prediction, ax, gene, layer)
            if layer is None and there:
                _hatch(prediction, ax, unlike, **_FADED)
                name += "" if pcc is None else _r(prediction, float(pcc[gene]))
                name += _held_out(prediction, gene)
            ax.set_title(name)
        axes[0].set_title("H&E")
    return figure


def _beside_image(prediction: AnnData, rows: Sequence[tuple[str, str]], unlike: NDArray[np.bool_]) -> Figure:
    """Draw the image once, and the predicted map of each gene after it."""
    n_panels = 1 + len(rows)
    n_columns = min(n_panels, _PANELS_ACROSS)
    n_rows = -(-n_panels // n_columns)
    width = (_PANEL_INCHES + _BAR_INCHES) * n_columns
    height = _TITLE_INCHES + (_PANEL_INCHES * _aspect(prediction) + _title_inches(prediction)) * n_rows
    figure, grid = plt.subplots(n_rows, n_columns, figsize=(width, height), squeeze=False, layout="compressed")
    image, *others = grid.flat
    _draw_image(prediction, image, alpha=1.0)
    image.set_title("H&E")
    for ax, (gene, _) in zip(others, rows, strict=False):
        name = f"{gene}, {_kind(prediction)}"
        if _draw_gene(prediction, ax, gene, None):
            _hatch(prediction, ax, unlike, **_FADED)
            name += _held_out(prediction, gene)
        ax.set_title(name)
    for ax in others[len(rows) :]:
        ax.set_axis_off()
    return figure


def _title_inches(prediction: AnnData) -> float:
    return _TITLE_INCHES + (_LINE_INCHES if Key.var.held_out_r in prediction.var else 0.0)


def _held_out(prediction: AnnData, gene: str) -> str:
    """Say in a second line what held-out training tissue says of a gene; nothing where that is not known."""
    if Key.var.held_out_r not in prediction.var:
        return ""
    about = prediction.var.loc[gene]
    reliable = bool(about.get(Key.var.reliable, True))
    return f"\nheld-out r = {about[Key.var.held_out_r]:.2f}{'' if reliable else ', not reliable'}"


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
    whole = prediction.X if layer is None else prediction.layers[layer]
    values = as_dense(whole[:, [prediction.var_names.get_loc(gene)]]).ravel().astype(np.float64)
    _draw_image(prediction, ax, alpha=0.5, img_cmap="gray")
    if np.isnan(values).all():
        said = "not predicted:\nbarely measured in training" if layer is None else "not measured"
        ax.text(0.5, 0.5, said, transform=ax.transAxes, ha="center", va="center", path_effects=HALO)
        return False
    low, high = _colour_range(values)
    norm = Normalize(low, high)
    shown = _add_values(prediction, ax, values, norm)
    outside = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    extend = outside[bool(np.nanmin(values) < low), bool(np.nanmax(values) > high)]
    about = prediction.uns.get(Key.uns.prediction, {})
    label = EXPRESSION.get(about.get("normalize"), "log-expression")
    label = label.replace("log(", f"log{about['log_base']}(") if about.get("log_base", "e") != "e" else label
    bar = colour_bar(ax, shown, label, extend=extend)
    bar.ax.yaxis.label.set_fontsize("small")
    return True


def _is_imputed(prediction: AnnData) -> bool:
    return Key.layers.measured in prediction.layers


def _kind(prediction: AnnData) -> str:
    return "imputed" if _is_imputed(prediction) else "predicted"


def _r(prediction: AnnData, r: float) -> str:
    """Say r in a title, and of which spots it is if not of all."""
    if not _is_imputed(prediction):
        return f", r = {r:.2f}"
    return "" if np.isnan(r) else f", r = {r:.2f} where not measured"


def _pcc(prediction: AnnData) -> pd.Series:
    """Give r of each gene: that of the run, or of all spots; of imputed genes, of the spots that were not measured."""
    if _is_imputed(prediction):
        return _pcc_where_not_measured(prediction)
    if _GENE_COLUMN in prediction.var:
        return prediction.var[_GENE_COLUMN]
    r = pearson(as_dense(prediction.X), as_dense(prediction.layers[Key.layers.observed]))
    return pd.Series(r, prediction.var_names)


def _pcc_where_not_measured(prediction: AnnData) -> pd.Series:
    """Compute r over the spots where a gene was not measured; NaN if there are too few."""
    values, observed = as_dense(prediction.X), as_dense(prediction.layers[Key.layers.observed])
    told = as_dense(prediction.layers[Key.layers.measured]).astype(bool)
    r = np.full(prediction.n_vars, np.nan)
    for gene, spots in enumerate(~told.T):
        if spots.sum() >= _FEWEST_SPOTS:
            r[gene] = pearson(values[spots][:, [gene]], observed[spots][:, [gene]])[0]
    return pd.Series(r, prediction.var_names)


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
    given = ~np.isnan(as_dense(prediction.X)).all(axis=0)
    ranked = pcc[given].dropna().sort_index().sort_values(ascending=False, kind="stable").index.tolist()
    if not ranked:  # none has an r, as where nothing was counted
        return [(gene, "") for gene in sorted(prediction.var_names)[:n]]
    n = max(1, min(n, len(ranked) // 3))
    middle = (len(ranked) - n) // 2
    kinds = {"median": ranked[middle : middle + n], "worst": ranked[-n:], "best": ranked[:n]}
    kind_of = {gene: kind for kind, names in kinds.items() for gene in names}  # each gene once, even if genes are few
    return [(gene, kind_of[gene]) for gene in ranked if gene in kind_of]
