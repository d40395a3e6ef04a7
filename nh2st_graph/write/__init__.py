"""Write predictions for the tools of others: QuPath, Seurat and Bioconductor, Loupe, and tables.

The package's own files are written by ``nh2st_graph.read`` (``write_h5ad`` and ``write_spatialdata``).
"""

from nh2st_graph.write._qupath import write_qupath
from nh2st_graph.write._seurat import write_seurat
from nh2st_graph.write._tables import write_csv, write_loupe

__all__ = ["write_csv", "write_loupe", "write_qupath", "write_seurat"]
