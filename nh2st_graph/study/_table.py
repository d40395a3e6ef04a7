"""The table of a study: means, costs, ranks, and paired differences from the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from nh2st_graph.metrics import GENE_SCORES, SCORES, PairedDifference, paired_bootstrap
from nh2st_graph.study._results import PLACE
from nh2st_graph.study._text import interval_cell, mean_cell, number, runs_cell, with_spread

__all__ = ["MEANS", "VIEWS", "cells", "compare", "forest_rows"]

#: Scores that are compared: their columns in tables of genes and of sections.
MEANS = dict(zip(GENE_SCORES, SCORES, strict=True))
#: What a run cost, which is no score.
_COSTS = ("fit_seconds", "predict_seconds", "peak_memory_mb", "parameters", "steps", "seconds")
#: Columns of :data:`VIEWS` without a deviation.
_COUNTS = (*_COSTS, "n_constant_predicted", "n_constant_observed", "n_constant_train")

#: What :func:`cells` shows of a benchmark beside its leaderboard, by view: the header and the format of each column.
VIEWS: dict[str, dict[str, tuple[str, str]]] = {
    "scores": {
        "pcc_heg50": ("r, 50 highest expressed", ".3f"),
        "pcc_hpg50": ("r, 50 best on held-out", ".3f"),
        "pcc_top50_by_test": ("r, 50 best by test score (optimistic)", ".3f"),
        "pcc_top50_by_test_shuffled": ("the same, shuffled", ".3f"),
        "mse": ("MSE", ".3f"),
        "mae": ("MAE", ".3f"),
        "n_constant_predicted": ("genes predicted constant", ".1f"),
        "n_constant_observed": ("genes observed constant", ".1f"),
        "n_constant_train": ("genes constant in training", ".1f"),
    },
    "costs": {
        "steps": ("optimiser steps", ",.0f"),
        "parameters": ("parameters", ",.0f"),
        "fit_seconds": ("fit, s", ",.1f"),
        "predict_seconds": ("predict, s", ",.2f"),
        "peak_memory_mb": ("peak memory, MB", ",.0f"),
    },
    "downstream": {
        "moran_r": ("Moran's I, r with observed", ".3f"),
        "moran_mae": ("Moran's I, MAE", ".3f"),
        "svg_auroc": ("spatially variable genes, AUROC", ".3f"),
        "cluster_ari": ("clusters, ARI", ".3f"),
        "cluster_nmi": ("clusters, NMI", ".3f"),
        "gene_corr_r": ("gene-gene correlations, r", ".3f"),
    },
}


def compare(
    scores: pd.DataFrame,
    genes: pd.DataFrame,
    roles: Mapping[str, str],
    *,
    reference: str | None = None,
    planned: Mapping[tuple[str, str], int] | None = None,
    reasons: Mapping[tuple[str, str], str] | None = None,
    kinds: bool = False,
) -> pd.DataFrame:
    """Compare variants with a reference, or rank them and compare them with the best baseline.

    Parameters
    ----------
    scores, genes
        ``scores`` and ``per_gene`` of :class:`~nh2st_graph.study.Results`.
    roles
        The role of each row by its name, in the order of display. With a reference ``base``, ``variant`` and
        ``reference``. Without one ``method``, ``baseline``, and ``reference`` for what reads the test sections' genes,
        which is neither ranked nor compared.
    reference
        The variant that all others are compared with; the best baseline where None.
    planned, reasons
        Number of planned runs, and why one failed, by variant and split.
    kinds
        Show mean r by kind of gene, as the names of synthetic genes say it.

    Returns
    -------
    One row for each split and name, in the order of ``roles``, or of ``place``:

    ``split``, ``variant``, ``role``
        the row
    ``pcc_mean``, ``pcc_mean_std`` (and of ``pcc_partial``)
        mean and standard deviation (n - 1) over sections and seeds
    ``pcc_mean_difference``, ``pcc_mean_low``, ``pcc_mean_high`` (and of ``pcc_partial``)
        mean difference from the reference in per-gene r, seeds averaged first, and its 95 % interval over sections and
        genes (:func:`~nh2st_graph.metrics.paired_bootstrap`), on the sections and genes that both have
    ``own``, ``neighbour``, ``noise``
        mean r by kind of gene
    ``parameters``, ``seconds``
        medians over runs
    ``planned``, ``finished``, ``reason``
        number of planned and of finished runs, and why the first that failed did

    Without a reference, means and deviations are over sections, seeds averaged first, and of every score. All costs are
    there, and:

    ``place``, ``rank``
        place 1, 2, ... by ``rank``, ties by mean r. The rank is the mean over sections of the rank by ``pcc_mean`` (1
        is best; equal scores share the mean of their ranks). Only what has a score in every section of the split has
        one: a mean over fewer sections, or among fewer rivals, is another quantity.
    ``sections``
        number of sections with a score
    ``pcc_mean_baseline`` (and of ``pcc_partial``)
        the best baseline of the split by this score. It is chosen by its test score, which favours it: a method that is
        above it would be above each of them. Its own difference is 0.
    """
    planned, reasons = planned or {}, reasons or {}
    tables = []
    for split in dict.fromkeys([*(split for _, split in [*planned, *reasons]), *scores["split"]]):
        here, genes_here = scores[scores["split"] == split], genes[genes["split"] == split]
        table = _rows(here, genes_here, roles, reference)
        if kinds:
            table = table.join(_by_kind(genes_here))
        default = table["finished"] if reference is None else 0 * table["finished"]
        table["planned"] = [planned.get((str(name), split), number) for name, number in default.items()]
        table["reason"] = [reasons.get((str(name), split), "") for name in table.index]
        table = table.rename_axis("variant").reset_index().assign(split=split)
        tables.append(_ranked(table) if reference is None else table[_columns(table)])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["split", "variant", "role"])


def _columns(table: pd.DataFrame) -> list[str]:
    """Columns of a table with a reference."""
    compared = [f"{s}{what}" for s in SCORES for what in ("", "_std", "_difference", "_low", "_high")]
    kinds = [kind for kind in _kinds() if kind in table]
    return ["split", "variant", "role", *compared, *kinds, "parameters", "seconds", "planned", "finished", "reason"]


def _rows(scores: pd.DataFrame, genes: pd.DataFrame, roles: Mapping[str, str], reference: str | None) -> pd.DataFrame:
    """All numbers of a split, one row a name."""
    names = [str(name) for name in scores if name not in {*PLACE, *_COSTS}]
    unit = ["variant", "fold", "section", *(["seed"] if reference is not None else [])]
    units = _numbers(scores, names).groupby([scores[key] for key in unit], observed=True).mean()
    by_name = units.groupby("variant", observed=True)
    runs = scores.drop_duplicates(["variant", "fold", "seed"]).set_index("variant")
    costs = _numbers(runs, _COSTS).groupby("variant", observed=True)
    table = pd.DataFrame({"role": pd.Series(roles)}).rename_axis("variant")
    for part in (by_name.mean(), by_name.std().add_suffix("_std"), costs.median()):
        table = table.join(part)
    for name, fill in (("sections", by_name["pcc_mean"].count()), ("finished", runs.groupby("variant").size())):
        table[name] = fill.reindex(table.index, fill_value=0).astype(int)
    if reference is None:
        table["rank"] = _ranks(units["pcc_mean"], table["role"])
        ordered = table.sort_values(["rank", "pcc_mean"], ascending=[True, False])["rank"]
        table["place"] = ordered.rank(method="first").astype("Int64")
    for per_gene, score in MEANS.items():
        table = table.join(_differences(table, genes, per_gene, score, reference))
    return table


def _numbers(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Columns as numbers. A column without any value would be of objects."""
    return table.reindex(columns=list(names)).apply(pd.to_numeric)


def _ranks(r: pd.Series, role: pd.Series) -> pd.Series:
    """Mean rank over sections, of the methods and baselines that have a score in every section."""
    table = r.unstack("variant")
    contenders = table[[name for name in table if role[str(name)] != "reference"]].dropna(how="all")
    return contenders.dropna(axis="columns").rank(axis="columns", ascending=False).mean()


def _differences(
    table: pd.DataFrame, genes: pd.DataFrame, per_gene: str, score: str, reference: str | None
) -> pd.DataFrame:
    """Differences from the reference, or from the best baseline of the split by this score."""
    if reference is None:
        baselines = table.loc[(table["role"] == "baseline") & table["place"].notna(), score].dropna()
        best = str(baselines.idxmax()) if len(baselines) else ""
        compared, also = table.index[table["role"] != "reference"], {f"{score}_baseline": best}
    else:
        best, compared, also = reference, table.index[table.index != reference], {}
    units = {
        name: part.pivot_table(index=["fold", "section"], columns="gene", values=per_gene, aggfunc="mean")
        for name, part in genes.groupby("variant", sort=False, observed=True)
    }
    found = {name: _paired(units[name], units[best]) for name in compared if name in units and best in units}
    columns = [f"{score}_{what}" for what in ("difference", "low", "high")]
    rows = {name: [each.mean, each.low, each.high] for name, each in found.items() if each is not None}
    gains = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=np.float64)
    return gains.reindex(table.index).assign(**also)


def _paired(ours: pd.DataFrame, base: pd.DataFrame) -> PairedDifference | None:
    """Compare two on the sections and genes that both scored; None where there are none."""
    units, genes = ours.index.intersection(base.index), ours.columns.intersection(base.columns)
    ours, base = ours.loc[units, genes], base.loc[units, genes]
    return paired_bootstrap(ours, base) if (ours.notna() & base.notna()).to_numpy().any() else None


def _kinds() -> dict[str, str]:
    """Kinds of synthetic genes, and what their names start with."""
    from nh2st_graph.datasets._truth import KINDS

    return KINDS


def _by_kind(genes: pd.DataFrame) -> pd.DataFrame:
    """Mean r by kind of gene, one row a name."""
    prefix = genes["gene"].astype(str).str.rstrip("0123456789")
    means = genes.groupby(["variant", prefix])["pcc"].mean().unstack()
    return means.reindex(columns=list(_kinds().values())).set_axis(list(_kinds()), axis="columns")


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Places first, then what has none, then references; columns that say what a row is before its numbers."""
    first = ["split", "variant", "role", "place", "rank", "sections"]
    table = table.assign(last=table["role"].eq("reference"))
    table = table.sort_values(["last", "place"], na_position="last").drop(columns="last")
    return table[[*first, *(name for name in table if name not in first)]]


def cells(table: pd.DataFrame, view: str = "main") -> pd.DataFrame:
    """Write the numbers of a table for reading, one row a variant.

    Parameters
    ----------
    table
        Rows of one split, from :class:`~nh2st_graph.study.StudyResult`.
    view
        ``main``; or of a benchmark ``scores``, ``costs`` or ``downstream``, without the rows and columns that have no
        value.

    Returns
    -------
    Text by variant: mean ± deviation, difference [interval], and so on.
    """
    rows = [row for _, row in table.iterrows()]
    columns: dict[str, list[str]] = {}
    if view != "main":
        for name, (header, form) in VIEWS[view].items():
            if name in table and table[name].notna().any():
                spread = [np.nan if name in _COUNTS else row[f"{name}_std"] for row in rows]
                columns[header] = [with_spread(row[name], std, form) for row, std in zip(rows, spread, strict=True)]
        text = pd.DataFrame(columns, index=table["variant"])
        return text[(text != "").any(axis="columns")]
    ranked = "place" in table
    if ranked:
        columns["place"] = ["" if pd.isna(row["place"]) else str(row["place"]) for row in rows]
    for score, label in SCORES.items():
        columns[label] = [mean_cell(row, score) for row in rows]
        columns[f"{label}: {'over the best baseline' if ranked else 'difference'}"] = [
            "best baseline" if row.get(f"{score}_baseline") == row["variant"] else interval_cell(row, score)
            for row in rows
        ]
    if "share_of_ceiling" in table:
        shares = [number(100 * row["share_of_ceiling"], ".0f") for row in rows]
        columns["share of noise ceiling"] = [f"{share} %" if share else "" for share in shares]
    columns |= {f"r of {kind} genes": [number(row[kind], ".3f") for row in rows] for kind in _kinds() if kind in table}
    shown = {"mean rank": ("rank", ".1f")} if ranked else {name: (name, ",.0f") for name in ("parameters", "seconds")}
    columns |= {header: [number(row[name], form) for row in rows] for header, (name, form) in shown.items()}
    columns["runs"] = [runs_cell(row) for row in rows]
    return pd.DataFrame(columns, index=table["variant"])


def forest_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table as :func:`~nh2st_graph.pl.forest` takes them.

    Of a benchmark, methods are in the order of the first split in every split, so that its panels stand side by side,
    and baselines are drawn as references. Left out are references, which are not compared, and baselines that predict
    every gene as constant: their difference is the best baseline's own score, and would press all others together.
    """
    if "place" not in table:
        return table
    counts = table.reindex(columns=["n_constant_predicted", "n_genes"])
    constant = table["role"].eq("baseline") & counts["n_constant_predicted"].eq(counts["n_genes"])
    order = {name: {each: i for i, each in enumerate(table[name].unique())} for name in ("split", "variant")}
    drawn = table[table["role"].ne("reference") & ~constant]
    drawn = drawn.sort_values(["split", "variant"], key=lambda column: column.map(order[str(column.name)]))
    return drawn.assign(role=drawn["role"].map({"method": "variant", "baseline": "reference"}))
