"""Save figures."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure, SubFigure

from nh2st_graph._files import written_aside

__all__ = ["save"]


def save(figure: Figure | SubFigure, path: str | Path) -> Path:
    """Save a figure as PNG, atomically, and close it.

    Returns
    -------
    The path.
    """
    path = Path(path)
    whole = figure.figure if isinstance(figure, SubFigure) else figure
    with written_aside(path) as aside:
        whole.savefig(aside, dpi=150, format="png")
    plt.close(whole)
    return path
