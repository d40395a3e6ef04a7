"""Write the report of a benchmark: one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nh2st_graph import __version__
from nh2st_graph.metrics import GENE_SCORES, SCORES
from nh2st_graph.study._protocols import Protocols
from nh2st_graph.study._protocols_text import EXPLANATION, repairs_text, sides_text
from nh2st_graph.study._results import StudyResult
from nh2st_graph.study._table import forest_rows
from nh2st_graph.study._text import VIEWS, cells
from nh2st_graph.study._words import protocol, under_trained

__all__ = ["write_html"]

#: Columns whose cells are marked by where the interval lies, and the score of each.
_GAINS = {f"{label}: over the best baseline": score for score, label in SCORES.items()}


def write_html(path: Path, result: StudyResult) -> Path:
    """Write the report of a benchmark.

    The file names no other; see :func:`nh2st_graph.pl.write_page`.

    Returns
    -------
    The path.
    """
    from nh2st_graph import pl

    study, table, results = result.study, result.table, result.results
    late, splits, genes = under_trained(study, results.curves), [], {}
    for split, part in table.groupby("split", sort=False):
        name = str(split)
        shown = {
            "name": name,
            "sections": int(part["sections"].max()),
            "verdict": result.verdicts[name],
            "late": late.get(name, []),
            "tables": {view: _table(part, view) for view in ("main", *VIEWS)},
            "forest": _forest(part),
            "curves": _curves(results.curves[results.curves["split"] == split]),
        }
        splits.append(shown)
        genes[name] = _genes(part, results.per_gene[results.per_gene["split"] == split])
    return pl.write_page(
        path,
        "study",
        "report.html.j2",
        title=f"Benchmark {study.name}",
        version=__version__,
        protocol=protocol(study),
        protocols=None if result.protocols is None else _protocols(result.protocols),
        explanation=result.explanation,
        splits=splits,
        genes={split: found for split, found in genes.items() if found["methods"]},
        failures=table[table["reason"] != ""].to_dict("records"),
    )


def _table(board: pd.DataFrame, view: str) -> dict[str, Any]:
    """Take a view of a table: each cell has a text, and the side of 0 on which a difference lies with its interval."""
    text, rows = cells(board, view), []
    for _, row in board[board["variant"].isin(text.index)].iterrows():
        marks = {
            column: "above" if row[f"{score}_low"] > 0 else "below" if row[f"{score}_high"] < 0 else "level"
            for column, score in _GAINS.items()
        }
        # A line may end before an interval, and not in it.
        shown = [
            (each.replace(", ", ",\N{NO-BREAK SPACE}"), marks.get(str(column), ""))
            for column, each in text.loc[row["variant"]].items()
        ]
        rows.append({"name": row["variant"], "role": row["role"], "cells": shown})
    return {"columns": list(text), "rows": rows}


def _protocols(protocols: Protocols) -> dict[str, Any]:
    """Take the tables of HEST-Benchmark's protocols."""
    tables = {}
    for name, text in (("sides", sides_text(protocols)), ("repairs", repairs_text(protocols))):
        head, *columns = text.columns
        rows = [
            {"name": row[head], "role": "", "cells": [(row[column], "") for column in columns]}
            for _, row in text.iterrows()
        ]
        tables[name] = {"columns": columns, "rows": rows}
    return {"task": protocols.task, "notes": protocols.notes, "explanation": EXPLANATION, "tables": tables}


def _genes(board: pd.DataFrame, per_gene: pd.DataFrame) -> dict[str, Any]:
    """Average the scores of each gene over sections, seeds first, for the script of the page.

    Only methods that were scored in every section are there. ``chosen`` are the best method and the best baseline, or
    the first two.
    """

    def rounded(values: pd.Series) -> list[float | None]:
        return [None if np.isnan(value) else round(float(value), 3) for value in values]

    whole = board["place"].notna() | ((board["role"] == "reference") & (board["sections"] > 0))
    units = per_gene.groupby(["variant", "gene", "fold", "section"], observed=True)[[*GENE_SCORES, "ceiling"]].mean()
    means = units.groupby(["variant", "gene"], observed=True).mean()
    tables = {score: means[score].unstack("gene") for score in GENE_SCORES}
    ceiling = units["ceiling"].groupby("gene", observed=True).mean()
    known = tables["pcc"].index[tables["pcc"].notna().any(axis="columns")]
    names = [name for name in board.loc[whole, "variant"] if name in known]
    first = board[board["variant"].isin(names)].drop_duplicates("role").set_index("role")["variant"]
    chosen = list(dict.fromkeys([*first.reindex(["method", "baseline"]).dropna(), *names]))[:2]
    return {
        "genes": [str(gene) for gene in ceiling.index],
        "ceiling": rounded(ceiling),
        "chosen": chosen,
        "methods": {
            name: {score: rounded(table.loc[name].reindex(ceiling.index)) for score, table in tables.items()}
            for name in names
        },
    }


def _forest(board: pd.DataFrame) -> str | None:
    from nh2st_graph import pl

    table = forest_rows(board)
    if table[[f"{score}_difference" for score in SCORES]].isna().all(axis=None):
        return None
    return pl.as_data_uri(pl.forest(table, base="the best baseline").figure)


def _curves(curves: pd.DataFrame) -> str | None:
    from nh2st_graph import pl

    if curves[["val_pcc", "val_loss"]].isna().all(axis=None):
        return None
    return pl.as_data_uri(pl.learning_curves(curves.rename(columns={"variant": "method"})))
