"""Draw the figures of a run."""

from __future__ import annotations

from pathlib import Path

from nh2st_graph import pl
from nh2st_graph.tl._evaluate import REFERENCES, Evaluation
from nh2st_graph.train import FittedModel

__all__ = ["write_figures"]

_SHOWN_BASELINES = ("ridge_neighbours", "reduced_rank_ridge")


def write_figures(model: FittedModel, evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draw a run's figures as PNG: maps of each test section, per-gene r, scores beside the baselines, training."""
    written = []
    for name, prediction in evaluation.predictions.items():
        written.append(pl.save(pl.gene_maps(prediction), folder / f"maps_{name}.png"))
    per_gene, labels = evaluation.per_gene, evaluation.labels
    methods = {labels["model"]: per_gene["pcc"]}
    methods |= {labels[name]: per_gene[f"pcc_{name}"] for name in _SHOWN_BASELINES if f"pcc_{name}" in per_gene}
    histogram = pl.pcc_histogram(methods, ceiling=per_gene["ceiling"])
    written.append(pl.save(histogram.figure, folder / "pcc_histogram.png"))
    table = evaluation.table().drop(index="noise_ceiling").rename(index=labels)
    bars = pl.score_bars(table, references=[labels[name] for name in REFERENCES])
    written.append(pl.save(bars.figure, folder / "scores.png"))
    if len(model.log):
        curves = pl.training_curves(model.log, selected=model.selected_epochs)
        written.append(pl.save(curves, folder / "training.png"))
    return written
