"""Names of scores in tables and figures."""

from __future__ import annotations

__all__ = ["GENE_SCORES", "SCORES"]

#: Main scores of a section; r is the correlation of a gene over spots, and the mean is over genes.
SCORES = {"pcc_mean": "mean r", "pcc_partial": "mean r given depth"}
#: The same scores of one gene, by their columns in a table of genes.
GENE_SCORES = {"pcc": "r", "pcc_partial": "r given depth"}
