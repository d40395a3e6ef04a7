"""Which spots are held out together."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import Data

from nh2st_graph.models import drawn_spots, section_groups


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


def test_drawn_spots_are_spread_over_the_tissue_in_proportion():
    sections = [grid(32, 32), grid(16, 16, seed=1)]
    assert drawn_spots(sections, 2000).tolist() == list(range(1280))
    drawn = drawn_spots(sections, 80)
    assert (np.diff(drawn) > 0).all()
    of_first = drawn[drawn < 1024]
    assert len(drawn) == 80
    assert len(of_first) == 64
    # One in each square of four by four spots.
    squares = (sections[0].pos[of_first] // 4).long()
    assert len(squares.unique(dim=0)) > 60
    assert drawn_spots(sections, 80).tolist() == drawn.tolist()
    # No column of the array is preferred, whatever the step.
    columns = np.bincount(sections[0].pos[drawn_spots(sections[:1], 32)][:, 0].long().numpy(), minlength=32)
    assert columns.max() <= 4


def test_spots_at_one_place_are_drawn_too():
    section = grid(4, 4)
    section.pos = torch.zeros_like(section.pos)
    assert len(drawn_spots([section], 5)) == 5
