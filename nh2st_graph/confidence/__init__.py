"""How far a prediction can be believed: held-out scores of genes, intervals, calls, and how familiar a slide is.

Numbers in, numbers out: this room reads no files, makes no graphs, and knows no networks.
"""

from __future__ import annotations

__all__: list[str] = []
