"""What scores are called wherever they are shown."""

from __future__ import annotations

__all__ = ["GENE_SCORES", "SCORES"]

#: Main scores of a section: r is a gene's correlation over its spots, the mean is over genes.
SCORES = {"pcc_mean": "mean r", "pcc_partial": "mean r given depth"}
#: The same of one gene, by the columns of a table with one row a gene.
GENE_SCORES = {"pcc": "r", "pcc_partial": "r given depth"}
