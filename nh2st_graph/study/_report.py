"""What a study leaves beside its runs: tables, figures, and of a benchmark a report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nh2st_graph._files import write_text, written_aside
from nh2st_graph.study._html import write_html
from nh2st_graph.study._plan import Study, slug
from nh2st_graph.study._protocols_text import write_protocols
from nh2st_graph.study._results import StudyResult
from nh2st_graph.study._table import forest_rows
from nh2st_graph.study._text import VIEWS, cells, markdown_table

__all__ = ["tabulated", "write_reports"]


def write_reports(result: StudyResult, folder: Path) -> list[Path]:
    """Write the tables and figures of a study into its folder.

    Returns
    -------
    The files written. ``table.md``, ``table.csv``, ``scores.csv`` and, where there is a difference to draw,
    ``forest.png``; of a benchmark ``report.html``, ``leaderboard.md`` and ``.csv``, ``scores.csv``,
    ``per_gene.csv.gz``, ``forest.png``, ``learning_{split}.png`` and ``genes_{split}.png``, with a column ``method`` in
    place of ``variant``; of a task of HEST-Benchmark also ``protocols.md``, ``protocols.csv`` and ``repairs.csv``.
    """
    ranked, stem = result.study.ranked, "leaderboard" if result.study.ranked else "table"
    written = [folder / f"{stem}.md", folder / f"{stem}.csv", folder / "scores.csv"]
    write_text(written[0], _markdown(result))
    for path, table in zip(written[1:], (result.table, result.results.scores), strict=True):
        write_text(path, (_of_methods(table) if ranked else table).to_csv(index=False, float_format="%.6g"))
    if result.protocols is not None:
        written += write_protocols(result.protocols, folder)
    if ranked:
        written = [write_html(folder / "report.html", result), *written, folder / "per_gene.csv.gz"]
        with written_aside(written[-1]) as aside:
            genes = _of_methods(result.results.per_gene)
            genes.to_csv(aside, index=False, float_format="%.5g", compression={"method": "gzip", "mtime": 0})
    figure = folder / "forest.png"
    figure.unlink(missing_ok=True)
    rows = forest_rows(result.table)
    if len(rows) and rows["pcc_mean_difference"].notna().any():
        _draw_forest(rows, figure, base="the best baseline" if ranked else None)
        written.append(figure)
    return written + (_figures_of_methods(result, folder) if ranked else [])


def tabulated(study: Study, folder: Path) -> set[str]:
    """List the variants in the table that an earlier call wrote into a folder; none if it cannot be read."""
    name, column = ("leaderboard.csv", "method") if study.ranked else ("table.csv", "variant")
    try:
        return set(pd.read_csv(folder / name, dtype=str, keep_default_na=False)[column])
    except (OSError, ValueError, KeyError):
        return set()


def _of_methods(table: pd.DataFrame) -> pd.DataFrame:
    """Name the variants as the files and figures of a benchmark do."""
    return table.rename(columns={"variant": "method"})


def _markdown(result: StudyResult) -> str:
    """Write a study as Markdown: the explanation, then verdict and tables of each split, then what failed."""
    ranked, table = result.study.ranked, result.table
    lines = [f"# {result.study.name}", "", result.explanation]
    for split, part in table.groupby("split", sort=False):
        if ranked or len(result.study.splits) > 1:
            lines += ["", f"## {split}"]
        sentences = result.verdicts.get(str(split), [])
        lines += ["", *(f"- {sentence}" for sentence in sentences)] if ranked else []
        for view in ("main", *VIEWS) if ranked else ("main",):
            text = cells(part, view)
            if len(text.columns):
                lines += ["", *markdown_table(text)]
    failed = [f"{run}: {reason}" for run, reason in result.failures.items()]
    if ranked:
        failed = [
            f"{row['variant']}, {row['split']}: {row['reason']}" for row in table.to_dict("records") if row["reason"]
        ]
    if failed:
        lines += ["", "Failed:", "", *(f"- {each}" for each in failed)]
    return "\n".join(lines) + "\n"


def _draw_forest(rows: pd.DataFrame, path: Path, base: str | None) -> None:
    """Draw the differences, one panel a split."""
    from matplotlib import pyplot as plt

    from nh2st_graph import pl

    parts = [(str(split), part) for split, part in rows.groupby("split", sort=False)]
    size = (4.0 + 4.5 * len(parts), 1.5 + 0.42 * (rows.loc[rows["role"] != "base", "variant"].nunique()))
    figure, axes = plt.subplots(1, len(parts), figsize=size, squeeze=False, layout="constrained")
    for i, (ax, (split, part)) in enumerate(zip(axes[0], parts, strict=True)):
        pl.forest(part, ax=ax, base=base)
        if len(parts) > 1:
            ax.set_title(split, pad=28)
        if i > 0:
            ax.set(yticklabels=[], ylabel="")
    pl.save(figure, path)


def _figures_of_methods(result: StudyResult, folder: Path) -> list[Path]:
    """Draw learning curves, and the genes of the best method against the best baseline."""
    from nh2st_graph import pl

    written = []
    for split, part in _of_methods(result.results.curves).groupby("split", sort=False):
        written.append(pl.save(pl.learning_curves(part), folder / f"learning_{slug(str(split))}.png"))
    genes = _of_methods(result.results.per_gene)
    for split, part in result.table[result.table["place"].notna()].groupby("split", sort=False):
        first = part.drop_duplicates("role").set_index("role")["variant"]  # rows are in order of place
        if {"method", "baseline"} <= {*first.index}:
            axes = pl.gene_scatter(genes[genes["split"] == split], first["baseline"], first["method"])
            written.append(pl.save(axes.figure, folder / f"genes_{slug(str(split))}.png"))
    return written
