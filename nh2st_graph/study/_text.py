"""Numbers of tables as text for reading, and tables as Markdown."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["interval_cell", "markdown_table", "mean_cell", "number", "runs_cell", "signed", "with_spread"]


def mean_cell(row: pd.Series, score: str) -> str:
    """Write a score's mean and deviation; ``failed`` where there is none and a reason is known."""
    if np.isnan(row[score]):
        return "failed" if row["reason"] else ""
    return with_spread(row[score], row[f"{score}_std"])


def with_spread(mean: float, spread: float, form: str = ".3f") -> str:
    """Write a mean and its deviation, each where it is known."""
    return number(mean, form) + ("" if np.isnan(spread) else f" ± {spread:{form}}")


def interval_cell(row: pd.Series, score: str) -> str:
    """Write a score's difference and its interval."""
    mean, low, high = (row[f"{score}_{what}"] for what in ("difference", "low", "high"))
    return "" if np.isnan(mean) else f"{signed(mean)} [{signed(low)}, {signed(high)}]"


def runs_cell(row: pd.Series) -> str:
    """Write the number of finished runs, and of planned ones where some are missing."""
    if row["role"] == "reference":
        return ""
    return str(row["finished"]) if row["finished"] == row["planned"] else f"{row['finished']} of {row['planned']}"


def signed(value: float, digits: int = 4) -> str:
    """Write a number with its sign."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # adding 0 takes the sign from a zero


def number(value: float, form: str) -> str:
    """Write a number; nothing where it is unknown."""
    return "" if np.isnan(value) else format(value, form)


def markdown_table(text: pd.DataFrame) -> list[str]:
    """Lines of a Markdown table, the index in its first column."""
    rows = [["", *text.columns], ["---", *["---:"] * text.shape[1]]]
    rows += [[str(name), *row] for name, row in zip(text.index, text.to_numpy(), strict=True)]
    return [f"| {' | '.join(map(_in_a_cell, row))} |" for row in rows]


def _in_a_cell(text: str) -> str:
    """Keep a bar or a line's end from ending the cell."""
    return " ".join(text.split()).replace("|", r"\|")
