"""Names of scores, baselines and references in tables and figures."""

from __future__ import annotations

__all__ = ["GENE_SCORES", "LABELS", "METHOD_LABELS", "REFERENCES", "RUN_SCORES", "SCORES"]

#: Main scores of a section; r is the correlation of a gene over spots, and the mean is over genes.
SCORES = {"pcc_mean": "mean r", "pcc_partial": "mean r given depth"}
#: The same scores of one gene, by their columns in a table of genes.
GENE_SCORES = {"pcc": "r", "pcc_partial": "r given depth"}

#: Scores of a run, and the headers of their columns.
RUN_SCORES = {
    "pcc_mean": "mean r",
    "pcc_partial": "mean r\ngiven depth",
    "pcc_heg50": "50 highest\nexpressed",
    "pcc_hpg50": "50 best on\nheld-out",
    "mse": "MSE",
    "mae": "MAE",
}

#: Rows of a table that read the test section's own genes.
REFERENCES = ("depth_oracle", "neighbour_mean", "noise_ceiling")

#: Names of the baselines and references in tables and figures, in their order there.
LABELS = {
    "mean": "training mean",
    "ridge": "ridge, own features",
    "ridge_neighbours": "ridge, own + neighbours",
    "reduced_rank_ridge": "ridge, reduced rank",
    "kernel_ridge": "kernel ridge (RBF)",
    "knn": "kNN in features",
    "depth_oracle": "(reference) depth alone",
    "neighbour_mean": "(reference) true neighbours' mean",
    "noise_ceiling": "(reference) noise ceiling",
}

#: Names of methods there, if they differ from ``model.name``.
METHOD_LABELS = {"nh2st_graph": "NH2ST-Graph"}
