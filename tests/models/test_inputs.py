from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

from nh2st_graph import ConfigError, DataError
from nh2st_graph.models._inputs import as_images, check_positions, patch_side
from nh2st_graph.nn import PatchEncoder


@pytest.mark.parametrize(("n_features", "side"), [(3, 1), (12, 2), (112 * 112 * 3, 112)])
def test_the_side_of_a_patch(n_features, side):
    assert patch_side(n_features, None, "This") == side


@pytest.mark.parametrize("n_features", [1, 4, 13, 16, 512, 112 * 112])
def test_what_is_no_square_of_three_colours_is_refused(n_features):
    with pytest.raises(ConfigError, match=rf"^This reads .*encoder gives {n_features} features"):
        patch_side(n_features, None, "This")


def test_a_trained_encoder_is_refused_whatever_its_features():
    encoder = PatchEncoder(nn.Flatten(), [0.0] * 3, [1.0] * 3, 48)
    with pytest.raises(ConfigError, match=r"This .*finetune=True"):
        patch_side(48, encoder, "This")


def test_images_are_by_row_then_column_then_colour():
    images = torch.arange(2 * 4 * 4 * 3).view(2, 4, 4, 3)
    flat = torch.stack(
        [torch.stack([p[r, c, k] for r in range(4) for c in range(4) for k in range(3)]) for p in images]
    )
    assert torch.equal(as_images(flat), images)


def test_positions_from_0_to_the_last_of_the_table_pass():
    data = Data(array=torch.tensor([[0, 7], [3, 0]]), section="A")
    check_positions(data, 8)
    with pytest.raises(DataError, match=r"section 'A': .* reach 7,.* n_positions=8"):
        check_positions(data, 7)
