"""The leaderboard of a benchmark: methods and baselines ranked, and what each gains on the best baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from nh2st_graph._errors import DataError
from nh2st_graph.metrics import SCORES
from nh2st_graph.study._table import MEANS, by_unit, paired_difference
from nh2st_graph.study._text import interval_cell, markdown_table, mean_cell, number, runs_cell, with_spread

__all__ = ["VIEWS", "cells", "explain_leaderboard", "forest_table", "leaderboard", "markdown"]

#: What a run cost, which is no score.
_COSTS = ("fit_seconds", "predict_seconds", "peak_memory_mb", "parameters", "steps", "seconds")
#: Columns of :data:`VIEWS` without a deviation.
_COUNTS = (*_COSTS, "n_constant_predicted", "n_constant_observed", "n_constant_train")
_PLACE = ("split", "method", "fold", "section", "seed")
#: What a score is averaged over, seeds averaged before.
_UNIT = ["fold", "section"]
_ROLES = ("method", "baseline", "reference")

#: What :func:`cells` shows beside the leaderboard itself, by view: the header of each column, and how numbers look.
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


def leaderboard(
    scores: pd.DataFrame,
    per_gene: pd.DataFrame,
    roles: Mapping[str, str],
    *,
    failures: Mapping[tuple[str, str], str] | None = None,
    planned: Mapping[tuple[str, str], int] | None = None,
) -> pd.DataFrame:
    """Rank methods and baselines, and compare each with the best baseline.

    Parameters
    ----------
    scores
        One row for each run and test section: ``split``, ``method``, ``fold``, ``section``, ``seed``, every score of
        ``metrics.json``, and what the run cost (``fit_seconds``, ``predict_seconds``, ``peak_memory_mb``,
        ``parameters``, ``steps``).
    per_gene
        One row for each of these and gene: ``pcc`` and ``pcc_partial``.
    roles
        ``method``, ``baseline`` or ``reference`` by name, in the order of display. References read the test sections'
        genes; they are shown, and neither ranked nor compared.
    failures
        Why runs failed, by method and split, one line each.
    planned
        How many runs were asked for, by method and split; as many as are finished where it does not say.

    Returns
    -------
    One row for each split and name: in order of place, then what has none, then references.

    ``split``, ``method``, ``role``
        as given
    ``place``, ``rank``
        place 1, 2, … by ``rank``, ties by mean r: the mean over sections of the rank by ``pcc_mean`` (1 is best; equal
        scores share the mean of their ranks). Only what has a score in every section of the split has a rank, since
        a mean over fewer sections, or among fewer rivals, would not be the same thing.
    ``sections``
        number of sections that were scored
    each score, and ``{score}_std``
        mean and standard deviation (n - 1) over sections, seeds averaged first
    ``{score}_baseline``, ``{score}_difference``, ``{score}_low``, ``{score}_high`` for ``pcc_mean`` and ``pcc_partial``
        the best baseline by this score in this split, the mean difference from it in per-gene r (seeds averaged first),
        and the 95 % interval over sections and genes (:func:`~nh2st_graph.metrics.paired_bootstrap`), on the sections
        and genes that both have. The baseline is chosen by its test score, after the fact, which favours it: a
        method that is above it would be above each of them. The best baseline's own difference is 0.
    each cost
        median over runs
    ``planned``, ``finished``, ``reason``
        number of runs, those that are done, and why one failed

    Raises
    ------
    DataError
        If a name has scores and no role, or a role is none of the three.
    """
    failures, planned = failures or {}, planned or {}
    for name in {*scores["method"], *(name for name, _ in [*failures, *planned])} - {*roles}:
        raise DataError(f"method {name!r} has no role; give it one of {', '.join(_ROLES)}")
    for name, role in roles.items():
        if role not in _ROLES:
            raise DataError(f"method {name!r} has the role {role!r}; known: {', '.join(_ROLES)}")
    boards = []
    for split in dict.fromkeys([*scores["split"], *(split for _, split in [*planned, *failures])]):
        board = _rows(scores[scores["split"] == split], per_gene[per_gene["split"] == split], roles)
        board["planned"] = [planned.get((str(name), split), done) for name, done in board["finished"].items()]
        board["reason"] = [failures.get((str(name), split), "") for name in board.index]
        boards.append(_in_order(board.assign(split=split)))
    return pd.concat(boards, ignore_index=True) if boards else pd.DataFrame(columns=["split", "method", "role"])


def _rows(scores: pd.DataFrame, genes: pd.DataFrame, roles: Mapping[str, str]) -> pd.DataFrame:
    """All numbers of a split, one row a method."""
    names = [str(name) for name in scores if name not in {*_PLACE, *_COSTS}]
    units = _numbers(scores, names).groupby([scores[key] for key in ("method", *_UNIT)], observed=True).mean()
    by_method = units.groupby("method", observed=True)
    runs = scores.drop_duplicates(["method", "fold", "seed"]).set_index("method")
    costs = _numbers(runs, _COSTS).groupby("method", observed=True)
    board = pd.DataFrame({"role": pd.Series(roles)}).rename_axis("method")
    for part in (by_method.mean(), by_method.std().add_suffix("_std"), costs.median()):
        board = board.join(part)
    for name, fill in (("sections", by_method["pcc_mean"].count()), ("finished", runs.groupby("method").size())):
        board[name] = fill.reindex(board.index, fill_value=0).astype(int)
    board["rank"] = _ranks(units["pcc_mean"], board["role"])
    ordered = board.sort_values(["rank", "pcc_mean"], ascending=[True, False])["rank"]
    board["place"] = ordered.rank(method="first").astype("Int64")
    for per_gene, score in MEANS.items():
        board = board.join(_gains(board, genes, per_gene, score))
    return board


def _numbers(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Columns as numbers: one without any value would be of objects."""
    return table.reindex(columns=list(names)).apply(pd.to_numeric)


def _ranks(r: pd.Series, role: pd.Series) -> pd.Series:
    """Mean over sections of the rank, of methods and baselines that were scored in every section."""
    table = r.unstack("method")
    contenders = table[[name for name in table if role[str(name)] != "reference"]].dropna(how="all")
    return contenders.dropna(axis="columns").rank(axis="columns", ascending=False).mean()


def _gains(board: pd.DataFrame, genes: pd.DataFrame, per_gene: str, score: str) -> pd.DataFrame:
    """Differences from the split's best baseline by a score."""
    baselines = board.loc[(board["role"] == "baseline") & board["place"].notna(), score].dropna()
    best = str(baselines.idxmax()) if len(baselines) else ""
    base = by_unit(genes[genes["method"] == best], per_gene)
    rows = {}
    for name in board.index[board["role"] != "reference"]:
        found = paired_difference(by_unit(genes[genes["method"] == name], per_gene), base)
        if found is not None:
            rows[name] = [found.mean, found.low, found.high]
    columns = [f"{score}_{what}" for what in ("difference", "low", "high")]
    gains = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=np.float64)
    return gains.reindex(board.index).assign(**{f"{score}_baseline": best})


def _in_order(board: pd.DataFrame) -> pd.DataFrame:
    """Places first, then what has none, then references; columns that say what a row is before its numbers."""
    first = ["split", "method", "role", "place", "rank", "sections"]
    board = board.reset_index().assign(last=board["role"].eq("reference").to_numpy())
    board = board.sort_values(["last", "place"], na_position="last").drop(columns="last")
    return board[[*first, *(name for name in board if name not in first)]]


def explain_leaderboard(board: pd.DataFrame) -> str:
    """Say what the numbers of a leaderboard are."""
    sections = board.groupby("split", sort=False)["sections"].max()
    alone = [str(split) for split in sections.index[sections == 1]]
    where = "" if len(sections) == 1 else f" ({', '.join(alone)})"
    return (
        "Means and standard deviations over sections, seeds averaged first. 'Place' is by the mean over sections of "
        "the rank by mean r, among methods and baselines. Differences are from the baseline that is best in this split "
        "by its test score, which favours the baseline; they are paired over sections and genes, with the 95 % "
        "interval of a bootstrap over both. 'Given depth' takes out what the number of counts in a spot explains. "
        "References read the genes of the test sections, and have no place."
        + (f" With one test section{where} the interval is over genes alone." if alone else "")
    )


def cells(board: pd.DataFrame, view: str = "leaderboard") -> pd.DataFrame:
    """Write the numbers of a leaderboard for reading, one row a method.

    Parameters
    ----------
    board
        Rows of one split, from :func:`leaderboard`.
    view
        ``leaderboard``, or one of :data:`VIEWS`: ``scores``, ``costs``, ``downstream``.

    Returns
    -------
    Text by method. A view's columns without any value are left out, and so are the rows without one.
    """
    rows = [row for _, row in board.iterrows()]
    if view == "leaderboard":
        columns = {"place": ["" if pd.isna(row["place"]) else str(row["place"]) for row in rows]}
        for score, label in SCORES.items():
            columns[label] = [mean_cell(row, score) for row in rows]
            columns[f"{label}: over the best baseline"] = [_gain(row, score) for row in rows]
        if "share_of_ceiling" in board:
            shares = [number(100 * row["share_of_ceiling"], ".0f") for row in rows]
            columns["share of noise ceiling"] = [f"{share} %" if share else "" for share in shares]
        columns["mean rank"] = [number(row["rank"], ".1f") for row in rows]
        columns["runs"] = [runs_cell(row) for row in rows]
        return pd.DataFrame(columns, index=board["method"])
    known = {name: how for name, how in VIEWS[view].items() if name in board and board[name].notna().any()}
    columns = {
        header: [with_spread(row[name], np.nan if name in _COUNTS else row[f"{name}_std"], form) for row in rows]
        for name, (header, form) in known.items()
    }
    text = pd.DataFrame(columns, index=board["method"])
    return text[(text != "").any(axis="columns")]


def _gain(row: pd.Series, score: str) -> str:
    return "best baseline" if row["method"] == row[f"{score}_baseline"] else interval_cell(row, score)


def markdown(board: pd.DataFrame, title: str, verdicts: Mapping[str, Iterable[str]] | None = None) -> str:
    """Write a leaderboard as a Markdown page: explanation, then verdict and tables of each split, then what failed.

    Parameters
    ----------
    board
        From :func:`leaderboard`.
    title
        The heading.
    verdicts
        Sentences by split, such as :func:`~nh2st_graph.study.verdict` gives.
    """
    lines = [f"# {title}", "", explain_leaderboard(board)]
    for split, part in board.groupby("split", sort=False):
        lines += ["", f"## {split}", ""]
        lines += [f"- {sentence}" for sentence in (verdicts or {}).get(str(split), ())]
        for view in ("leaderboard", *VIEWS):
            text = cells(part, view)
            if len(text.columns):
                lines += ["", *markdown_table(text)]
    failed = board[board["reason"] != ""]
    if len(failed):
        lines += ["", "Failed:", "", *(f"- {row.method}, {row.split}: {row.reason}" for row in failed.itertuples())]
    return "\n".join(lines) + "\n"


def forest_table(board: pd.DataFrame) -> pd.DataFrame:
    """Rows of a leaderboard as :func:`~nh2st_graph.pl.forest` takes them.

    Methods in the order of the first split in every split, so that its panels stand side by side; baselines as its
    references. The references of the benchmark are left out, since they are not compared. So are baselines that predict
    every gene as constant: their difference is the best baseline's own score, and would press all others together.
    """
    order = {name: i for i, name in enumerate(dict.fromkeys(board["method"]))}
    splits = {split: i for i, split in enumerate(dict.fromkeys(board["split"]))}
    counts = board.reindex(columns=["n_constant_predicted", "n_genes"])
    constant = board["role"].eq("baseline") & counts["n_constant_predicted"].eq(counts["n_genes"])
    table = board[board["role"].ne("reference") & ~constant].rename(columns={"method": "variant"})
    keys = {"split": splits, "variant": order}
    table = table.sort_values(["split", "variant"], key=lambda column: column.map(keys[str(column.name)]))
    return table.assign(role=table["role"].map({"method": "variant", "baseline": "reference"}))
