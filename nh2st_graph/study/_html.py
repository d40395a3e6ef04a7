"""The report of a benchmark: one HTML file that holds all that it shows and opens offline."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from nh2st_graph._atomic import write_text
from nh2st_graph._version import __version__
from nh2st_graph.metrics import SCORES
from nh2st_graph.study._leaderboard import VIEWS, cells, explain_leaderboard, forest_table
from nh2st_graph.study._table import MEANS
from nh2st_graph.study._words import under_trained, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["write_html"]

_TEMPLATE = "report.html.j2"
#: Columns of a leaderboard whose cells are marked by where the interval lies, and the score that it is of.
_GAINS = {f"{label}: over the best baseline": score for score, label in SCORES.items()}
#: Genes that the table shows before anything is searched for.
_GENES_SHOWN = 20

#: Roles that have places.
_RANKED = ("method", "baseline")


class _Row(NamedTuple):
    """A row of a table: its name, what kind of row it is, and its cells with the class of each."""

    name: str
    role: str
    cells: list[tuple[str, str]]


class _Table(NamedTuple):
    columns: list[str]
    rows: list[_Row]


def write_html(
    path: str | Path,
    title: str,
    *,
    board: pd.DataFrame,
    per_gene: pd.DataFrame,
    curves: pd.DataFrame,
    protocol: Mapping[str, str],
    epochs: Mapping[str, int] | None = None,
    notes: Iterable[str] = (),
) -> Path:
    """Write the report of a benchmark.

    The file names no other: figures, styles and the script that sorts tables and draws genes are in it, and its content
    policy forbids it to load anything. All names and texts are escaped.

    Parameters
    ----------
    path
        Where to write it.
    title
        What was done, in a few words.
    board
        From :func:`~nh2st_graph.study.leaderboard`, which also says what failed.
    per_gene
        One row for each run, test section and gene: ``split``, ``method``, ``fold``, ``section``, ``seed``, ``gene``,
        ``pcc``, ``pcc_partial``, ``ceiling``.
    curves
        One row for each epoch of each training run: ``split``, ``method``, ``fold``, ``seed``, ``stage``, ``epoch``,
        ``step``, ``val_loss``, ``val_pcc``; none for methods that fit themselves.
    protocol
        What was compared on what, sentences by what they are about: :func:`~nh2st_graph.study.protocol`.
    epochs
        How many epochs each method was allowed; see :func:`~nh2st_graph.study.under_trained`.
    notes
        Paragraphs that follow the protocol, such as the command.

    Returns
    -------
    The path.
    """
    from jinja2 import Environment, StrictUndefined

    late = under_trained(curves, epochs)
    splits = [
        _split(part, curves[curves["split"] == split], late.get(str(split), []))
        for split, part in board.groupby("split", sort=False)
    ]
    genes = {each["name"]: _genes(each["board"], per_gene[per_gene["split"] == each["name"]]) for each in splits}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {}  # which would else sort splits and methods by name
    template = environment.from_string(resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    page = template.render(
        title=title,
        version=__version__,
        protocol=protocol,
        notes=list(notes),
        explanation=explain_leaderboard(board),
        splits=splits,
        genes={split: found for split, found in genes.items() if found["methods"]},
        genes_shown=_GENES_SHOWN,
        failures=board.loc[board["reason"] != "", ["method", "split", "finished", "planned", "reason"]].to_dict(
            "records"
        ),
    )
    path = Path(path)
    write_text(path, page)
    return path


def _split(board: pd.DataFrame, curves: pd.DataFrame, late: list[str]) -> dict[str, Any]:
    """What the report shows of one split."""
    return {
        "name": str(board["split"].iloc[0]),
        "board": board,
        "sections": int(board["sections"].max()),
        "verdict": verdict(board, late),
        "late": late,
        "tables": {view: _table(board, view) for view in ("leaderboard", *VIEWS)},
        "forest": _forest(board),
        "curves": _curves(curves),
    }


def _table(board: pd.DataFrame, view: str) -> _Table:
    """A view of the leaderboard; differences are marked where their interval excludes 0."""
    text = cells(board, view)
    columns, rows = [str(column) for column in text.columns], []
    for _, row in board[board["method"].isin(text.index)].iterrows():
        marks = {column: _side(row, score) for column, score in _GAINS.items()}
        shown = [(str(text.at[row["method"], column]), marks.get(column, "")) for column in columns]
        rows.append(_Row(str(row["method"]), str(row["role"]), shown))
    return _Table(columns, rows)


def _side(row: pd.Series, score: str) -> str:
    return "above" if row[f"{score}_low"] > 0 else "below" if row[f"{score}_high"] < 0 else "level"


def _genes(board: pd.DataFrame, per_gene: pd.DataFrame) -> dict[str, Any]:
    """Mean scores of each gene under each method that was scored in every section, for the script.

    Sections are averaged, seeds first. ``chosen`` are the method and the baseline in the first place, or the first two.
    """
    whole = board["place"].notna() | ((board["role"] == "reference") & (board["sections"] > 0))
    units = per_gene.groupby(["method", "gene", "fold", "section"], observed=True)[[*MEANS, "ceiling"]].mean()
    means = units.groupby(["method", "gene"], observed=True).mean()
    tables = {score: means[score].unstack("gene") for score in MEANS}
    ceiling = units["ceiling"].groupby("gene", observed=True).mean()
    known = tables["pcc"].index[tables["pcc"].notna().any(axis="columns")]
    names = [name for name in board.loc[whole, "method"] if name in known]
    firsts = [board.loc[board["role"].eq(role) & board["method"].isin(names), "method"] for role in _RANKED]
    chosen = list(dict.fromkeys([*(name for first in firsts for name in first[:1]), *names]))[:2]
    return {
        "genes": [str(gene) for gene in ceiling.index],
        "ceiling": _rounded(ceiling),
        "chosen": chosen,
        "methods": {
            name: {score: _rounded(table.loc[name].reindex(ceiling.index)) for score, table in tables.items()}
            for name in names
        },
    }


def _rounded(values: pd.Series) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 3) for value in values]


def _forest(board: pd.DataFrame) -> str | None:
    table = forest_table(board)
    if table[[f"{score}_difference" for score in MEANS.values()]].isna().all(axis=None):
        return None
    from nh2st_graph import pl

    return _image(pl.forest(table, base="the best baseline").figure)


def _curves(curves: pd.DataFrame) -> str | None:
    if curves[["val_pcc", "val_loss"]].isna().all(axis=None):
        return None
    from nh2st_graph import pl

    return _image(pl.learning_curves(curves))


def _image(figure: Figure | SubFigure) -> str:
    """Write a figure as an address that holds the whole of it; the same for the same numbers."""
    from matplotlib import pyplot as plt
    from matplotlib import rc_context
    from matplotlib.figure import SubFigure

    whole = figure.figure if isinstance(figure, SubFigure) else figure
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "nh2st_graph"}):
        whole.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(whole)
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
