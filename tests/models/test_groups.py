"""Which spots are held out together."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import Data

from nh2st_graph.models import section_groups


def grid(n_rows: int, n_columns: int, seed: int = 0) -> Data:
    """A grid of spots in shuffled order."""
    places = torch.cartesian_prod(torch.arange(n_columns), torch.arange(n_rows)).float()
    return Data(pos=places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))])


def test_groups_are_sections():
    np.testing.assert_array_equal(section_groups([grid(3, 3), grid(2, 4)]), [0] * 9 + [1] * 8)


def test_a_single_section_falls_into_bands_across_its_longer_side():
    wide, tall = grid(3, 6), grid(6, 2)
    for section, side, n_bands in ((wide, 0, 3), (wide, 0, 2), (tall, 1, 3)):
        groups = section_groups([section], n_bands)
        along = section.pos[:, side].numpy()
        np.testing.assert_array_equal(np.bincount(groups), [len(along) // n_bands] * n_bands)
        for band in range(n_bands - 1):
            assert along[groups == band].max() < along[groups == band + 1].min()


def test_uneven_bands_differ_by_one_spot_at_most():
    assert np.ptp(np.bincount(section_groups([grid(1, 11)]))) == 1
    assert section_groups([grid(1, 1)]).tolist() == [0]
