"""The protocols of HEST-Benchmark side by side, as text, Markdown and CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from nh2st_graph._files import write_text
from nh2st_graph.study._protocols import Protocols
from nh2st_graph.study._text import markdown_table, signed

__all__ = ["EXPLANATION", "protocol_tables", "repairs_text", "sides_text", "write_protocols"]

EXPLANATION = (
    "All rows read the same features of the same samples. As published: log1p of raw counts, 256 principal components, "
    "ridge regression without intercept at a fixed penalty, r of each gene over the sections of a fold together, mean "
    "over genes and folds. Repaired: the repairs of the second table up to the patients. Ours: targets relative to the "
    "library size, r by section. 'Given depth' takes out what the number of counts in a spot explains; 'depth alone' "
    "reads that number from the test sections, and no image. 'Alone' is the published protocol with one repair; "
    "'together' adds them up from top to bottom."
)


def _numbers(values: pd.Series) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.3f}" for value in values]


def _moves(values: pd.Series) -> list[str]:
    return ["" if np.isnan(value) else signed(value) for value in values]


def sides_text(protocols: Protocols) -> pd.DataFrame:
    """Write the three protocols side by side, one row a protocol and method."""
    sides = protocols.sides
    shares = ["" if np.isnan(value) else f"{100 * value:.0f} %" for value in sides["share_of_ceiling"]]
    columns = {
        "protocol": sides["protocol"] + ": " + sides["method"],
        "r": _numbers(sides["r"]),
        "difference from as published": _moves(sides["difference"]),
        "r given depth": _numbers(sides["r_given_depth"]),
        "share of noise ceiling": shares,
    }
    return pd.DataFrame(columns).loc[:, lambda text: (text != "").any()]


def repairs_text(protocols: Protocols) -> pd.DataFrame:
    """Write what each repair moves, one row a repair."""
    repairs = protocols.repairs
    return pd.DataFrame(
        {
            "repair": repairs["repair"],
            "r, alone": _numbers(repairs["alone"]),
            "moves": _moves(repairs["alone_moves"]),
            "r, together": _numbers(repairs["together"]),
            "moves it by": _moves(repairs["together_moves"]),
            "r given depth, together": _numbers(repairs["together_given_depth"]),
        }
    )


def protocol_tables(protocols: Protocols) -> dict[str, pd.DataFrame]:
    """Give the tables of a task as text, by their titles; the first column names the row."""
    return {
        f"HEST-Benchmark, {protocols.task}: three protocols side by side": sides_text(protocols),
        "What each repair moves": repairs_text(protocols),
    }


def write_protocols(protocols: Protocols, folder: Path) -> list[Path]:
    """Write ``protocols.md``, ``protocols.csv``, ``repairs.csv`` and ``published_genes.csv`` into a folder.

    Returns
    -------
    The files.
    """
    lines = [f"# HEST-Benchmark, {protocols.task}", "", *(f"- {sentence}" for sentence in protocols.notes)]
    for title, text in protocol_tables(protocols).items():
        lines += ["", f"## {title}", "", *markdown_table(text.set_index(text.columns[0]))]
    lines += ["", EXPLANATION]
    written = [folder / name for name in ("protocols.md", "protocols.csv", "repairs.csv", "published_genes.csv")]
    write_text(written[0], "\n".join(lines) + "\n")
    for path, table in zip(written[1:], (protocols.sides, protocols.repairs), strict=False):
        write_text(path, table.to_csv(index=False, float_format="%.6g"))
    genes = protocols.genes.add_prefix("fold_")
    write_text(written[-1], genes.to_csv(float_format="%.9g"))
    return written
