"""Write the numbers of tables as text for reading."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nh2st_graph.metrics import SCORES
from nh2st_graph.study._table import COSTS, gene_kinds

__all__ = ["VIEWS", "cells", "markdown_table", "signed"]

#: Columns of :data:`VIEWS` without a deviation.
_COUNTS = (*COSTS, "n_constant_predicted", "n_constant_observed", "n_constant_train")

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
    rows, ranked = table.to_dict("records"), "place" in table
    columns: dict[str, list[str]] = {}
    if view != "main":
        for name, (header, form) in VIEWS[view].items():
            if name in table and table[name].notna().any():
                spread = None if name in _COUNTS else f"{name}_std"
                columns[header] = [_number(row[name], form, row[spread] if spread else np.nan) for row in rows]
        text = pd.DataFrame(columns, index=table["variant"])
        return text[(text != "").any(axis="columns")]
    if ranked:
        columns["place"] = ["" if pd.isna(row["place"]) else str(row["place"]) for row in rows]
    for score, label in SCORES.items():
        texts = [_number(row[score], ".3f", row[f"{score}_std"]) for row in rows]
        columns[label] = [text or ("failed" if row["reason"] else "") for text, row in zip(texts, rows, strict=True)]
        differences = f"{label}: {'over the best baseline' if ranked else 'difference'}"
        columns[differences] = [
            "best baseline"
            if row.get(f"{score}_baseline") == row["variant"]
            else _interval(*(row[f"{score}_{what}"] for what in ("difference", "low", "high")))
            for row in rows
        ]
    if "share_of_ceiling" in table:
        shares = [_number(100 * row["share_of_ceiling"], ".0f") for row in rows]
        columns["share of noise ceiling"] = [f"{share} %" if share else "" for share in shares]
    columns |= {f"r of {kind} genes": [_number(row[kind], ".3f") for row in rows] for kind in gene_kinds(table)}
    shown = {"mean rank": ("rank", ".1f")} if ranked else {name: (name, ",.0f") for name in ("parameters", "seconds")}
    columns |= {header: [_number(row[name], form) for row in rows] for header, (name, form) in shown.items()}
    columns["runs"] = [
        ""
        if row["role"] == "reference"
        else str(row["finished"]) + (f" of {row['planned']}" if row["finished"] < row["planned"] else "")
        for row in rows
    ]
    return pd.DataFrame(columns, index=table["variant"])


def _number(value: float, form: str, spread: float = np.nan) -> str:
    """Write a number and its deviation, each if it is known."""
    return ("" if np.isnan(value) else f"{value:{form}}") + ("" if np.isnan(spread) else f" ± {spread:{form}}")


def _interval(mean: float, low: float, high: float) -> str:
    return "" if np.isnan(mean) else f"{signed(mean)} [{signed(low)}, {signed(high)}]"


def signed(value: float, digits: int = 4) -> str:
    """Write a number with its sign."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # adding 0 takes the sign from a zero


def markdown_table(text: pd.DataFrame) -> list[str]:
    """Write the lines of a Markdown table, with the index in its first column."""
    rows = [["", *text.columns], ["---", *["---:"] * text.shape[1]]]
    rows += [[str(name), *row] for name, row in zip(text.index, text.to_numpy(), strict=True)]
    # A bar or the end of a line would end the cell.
    return ["| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in row) + " |" for row in rows]
