"""Figures as files."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure, SubFigure

__all__ = ["save"]


def save(figure: Figure | SubFigure, path: str | Path) -> Path:
    """Write a figure as PNG, aside first, and close it.

    Returns
    -------
    The path.
    """
    path = Path(path)
    whole = figure.figure if isinstance(figure, SubFigure) else figure
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    whole.savefig(aside, dpi=150, format="png")
    plt.close(whole)
    aside.replace(path)
    return path
