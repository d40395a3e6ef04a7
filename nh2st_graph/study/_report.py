"""What a study leaves beside its runs: tables and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nh2st_graph._atomic import write_text
from nh2st_graph.study._plan import PlannedRun, Study
from nh2st_graph.study._results import Results
from nh2st_graph.study._table import cells
from nh2st_graph.study._text import markdown_table

__all__ = ["draw_forest", "explanation", "write_reports"]


def explanation(study: Study) -> str:
    """Say what the numbers of the table are."""
    sections = {split: sum(len(fold.test) for fold in study.folds if fold.split == split) for split in study.splits}
    alone = [split for split, number in sections.items() if number == 1]
    where = "" if len(sections) == 1 else f" ({', '.join(alone)})"
    return (
        f"Means and standard deviations over sections and seeds ({', '.join(map(str, study.seeds))}). Differences are "
        f"from '{study.base.name}', averaged over seeds, paired over sections and genes, with the 95 % interval of a "
        "bootstrap over both. 'Given depth' takes out what the number of counts in a spot explains."
        + (f" With one test section{where} the interval is over genes alone." if alone else "")
    )


def write_reports(
    study: Study, table: pd.DataFrame, results: Results, failures: Mapping[PlannedRun, str], folder: Path
) -> list[Path]:
    """Write ``table.csv``, ``table.md``, ``scores.csv`` and, where there is a difference to draw, ``forest.png``.

    Returns
    -------
    The files written.
    """
    write_text(folder / "table.csv", table.to_csv(index=False, float_format="%.6g"))
    write_text(folder / "table.md", _markdown(study, table, failures))
    write_text(folder / "scores.csv", results.scores.to_csv(index=False, float_format="%.6g"))
    written = [folder / name for name in ("table.md", "table.csv", "scores.csv")]
    figure = folder / "forest.png"
    figure.unlink(missing_ok=True)
    if table["pcc_mean_difference"].notna().any():
        draw_forest(table, figure)
        written.append(figure)
    return written


def _markdown(study: Study, table: pd.DataFrame, failures: Mapping[PlannedRun, str]) -> str:
    lines = [f"# {study.name}", "", explanation(study)]
    for split, part in table.groupby("split", sort=False):
        if len(study.splits) > 1:
            lines += ["", f"## {split}"]
        lines += ["", *markdown_table(cells(part))]
    if failures:
        lines += ["", "Failed:", "", *(f"- {run}: {reason}" for run, reason in failures.items())]
    return "\n".join(lines) + "\n"


def draw_forest(table: pd.DataFrame, path: Path, base: str | None = None) -> None:
    """Draw the differences, one panel a split, as PNG; rows are those of :func:`~nh2st_graph.pl.forest`."""
    from matplotlib import pyplot as plt

    from nh2st_graph import pl

    parts = [(str(split), part) for split, part in table.groupby("split", sort=False)]
    size = (4.0 + 4.5 * len(parts), 1.5 + 0.42 * (table.loc[table["role"] != "base", "variant"].nunique()))
    figure, axes = plt.subplots(1, len(parts), figsize=size, squeeze=False, layout="constrained")
    for i, (ax, (split, part)) in enumerate(zip(axes[0], parts, strict=True)):
        pl.forest(part, ax=ax, base=base)
        if len(parts) > 1:
            ax.set_title(split, pad=28)
        if i > 0:
            ax.set(yticklabels=[], ylabel="")
    pl.save(figure, path)
