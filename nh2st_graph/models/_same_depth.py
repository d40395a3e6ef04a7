"""Hard negatives of the contrast: spots of other sections that have the same depth."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph.nn import nearest_values, nearest_values_apart

__all__ = ["find_same_depth"]

logger = logging.getLogger("nh2st_graph")

#: Negatives of a spot.
_NEGATIVES = 32

#: Most spots of a section among which negatives are found, evenly spaced by depth.
_MOST = 4096


def find_same_depth(
    sections: Sequence[Data], k: int = _NEGATIVES, most: int = _MOST
) -> tuple[list[Tensor], list[Tensor]]:
    """Find the spots of other sections that have about the library size of each spot, so that depth tells none apart.

    A single section has no others. Its spots get spots of itself, without their neighbours, and the log says so.

    Parameters
    ----------
    sections
        Training graphs with ``library``, ``(n_spots, 1)``.
    k
        Negatives of a spot; fewer if there are not as many.
    most
        Most spots of a section to choose from.

    Returns
    -------
    The spots of each section to choose from, ``(n_chosen,)``, which are joined in a bank in this order; and for the
    spots of each section their negatives, rows of the bank, ``(n_spots, k)``.
    """
    depth = [section.library[:, 0].double().log1p() for section in sections]
    spots = [_spread(each, most) for each in depth]
    if len(sections) == 1:
        logger.warning(
            "section %r is the only one here: negatives of the same depth are spots of itself, without neighbours",
            sections[0].to_dict().get("section", ""),
        )
        return spots, [nearest_values_apart(depth[0], spots[0], k, sections[0].edge_index)]
    bank = torch.cat([each[some] for each, some in zip(depth, spots, strict=True)])
    owner = torch.repeat_interleave(torch.tensor([len(some) for some in spots]))
    others = [(owner != number).nonzero()[:, 0] for number in range(len(sections))]
    return spots, [rows[nearest_values(own, bank[rows], k)] for own, rows in zip(depth, others, strict=True)]


def _spread(depth: Tensor, most: int) -> Tensor:
    """Take spots that are evenly spaced by depth, in their order."""
    if len(depth) <= most:
        return torch.arange(len(depth))
    return depth.argsort(stable=True)[torch.linspace(0, len(depth) - 1, most).round().long()].sort().values
