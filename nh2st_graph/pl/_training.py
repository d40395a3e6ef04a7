"""Plot the course of training."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nh2st_graph._errors import DataError
from nh2st_graph.pl._style import BLUE, ORANGE, finish

__all__ = ["fold_curves", "training_curves"]

#: Title, name of the y axis, and (column, label, colour) of each line.
_PANELS = (
    # Their units differ: the one is a weighted sum of all parts, the other an error of genes.
    ("Training loss", "weighted sum of its parts", (("train_loss", "training", BLUE),)),
    ("Held-out error", "squared error, mean over genes", (("val_loss", "held-out", ORANGE),)),
    ("Held-out score", "Pearson r, mean over genes", (("val_pcc", "held-out", ORANGE),)),
    (
        "Contrastive loss",
        "InfoNCE (nats)",
        (("contrast_spot", "spot", BLUE), ("contrast_neighbourhood", "neighbourhood", ORANGE)),
    ),
)
_CHANCE = "_chance"
#: Least height of an axis, in its unit: a smaller difference of r is noise, and must not fill the panel.
_LEAST = {"val_pcc": 0.1}


def fold_curves(log: pd.DataFrame) -> pd.DataFrame:
    """Average the curves of folds over the epochs that every fold reached; these choose the number of epochs.

    Parameters
    ----------
    log
        ``log.csv`` of a run, with the column ``stage``.
    """
    folds = log[log["stage"].str.startswith("fold")]
    shortest = int(folds.groupby("stage")["epoch"].max().min())
    reached = folds[folds["epoch"].astype(int) <= shortest]
    return reached.drop(columns="stage").astype(float).groupby("epoch", as_index=False).mean()


def training_curves(log: pd.DataFrame, *, selected: int | None = None) -> Figure:
    """Draw losses, held-out error and score, and contrastive losses with their chance levels, by epoch.

    A contrastive loss at its chance level has learned nothing; a loss near 0 after a few epochs has found a shortcut.

    Parameters
    ----------
    log
        ``log.csv`` of a run: a column ``epoch`` and any of ``train_loss``, ``val_loss``, ``val_pcc``,
        ``contrast_spot``, ``contrast_neighbourhood``, and the latter two with ``_chance`` (their chance level in nats,
        the logarithm of the number of candidates). Several rows of an epoch become one, and folds (column ``stage``)
        are averaged by :func:`fold_curves`.
    selected
        Epoch of the chosen weights, which is marked in every panel.

    Returns
    -------
    The figure, with a panel for each of the four groups that has values.

    Raises
    ------
    DataError
        If the log has no column ``epoch``, or no value to draw.
    """
    if "epoch" not in log:
        raise DataError(f"the training log has no column 'epoch' (it has {', '.join(map(str, log.columns))})")
    if "stage" in log and log["stage"].str.startswith("fold").any():
        log = fold_curves(log)
    # Lightning may write training and validation values of an epoch on different rows.
    epochs = log.groupby("epoch").last().dropna(axis="columns", how="all")
    panels = [panel for panel in _PANELS if any(column in epochs for column, _, _ in panel[2])]
    if not panels:
        raise DataError("the training log has no values to draw; let a run finish an epoch")
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4.3), squeeze=False, layout="constrained")
    for ax, (title, y_name, lines) in zip(axes[0], panels, strict=True):
        _draw_lines(ax, epochs, lines)
        if selected is not None:
            ax.axvline(selected, color="0.5", linestyle=":", label=f"selected epoch ({selected})", zorder=0)
        ax.set(title=title, xlabel="epoch", ylabel=y_name)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        finish(ax)
        ax.legend(
            frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(0, -0.16)
        )  # below: it hides no line
    return figure


def _draw_lines(ax: Axes, epochs: pd.DataFrame, lines: tuple[tuple[str, str, str], ...]) -> None:
    bottom = None
    for i, (column, label, colour) in enumerate(lines):
        if column not in epochs:
            continue
        values = epochs[column].dropna()
        # a line of one epoch would be invisible
        ax.plot(values.index, values, color=colour, label=label, marker="o" if len(values) == 1 else None)
        if column + _CHANCE in epochs:
            chance = epochs[column + _CHANCE].dropna()
            dashes = (5 * i, (5, 5))  # the dashes of two equal chance levels alternate
            marker = "_" if len(chance) == 1 else None
            ax.plot(chance.index, chance, color=colour, linestyle=dashes, marker=marker, label=f"{label}, chance")
            bottom = 0.0
    low, high = ax.get_ylim()
    least = max((_LEAST.get(column, 0.0) for column, _, _ in lines), default=0.0)
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    if bottom is not None:  # its margin is of what was between the lines
        low, high = bottom, high + 0.04 * (high - bottom)
    # Only now: a limit that is set keeps those of later lines from growing.
    ax.set_ylim(low, high)
