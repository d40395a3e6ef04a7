from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from nh2st_graph import ConfigError, ModelError
from nh2st_graph.models import HisToGene
from nh2st_graph.models._original import (
    block_names,
    count_blocks,
    load_original,
    parse_settings,
    size_of_head,
    state_of,
)
from nh2st_graph.nn import SelfAttentionBlock

NAMES = ((r"(\d+)\.", r"theirs.\1.fn."),)


def _weights():
    return {
        "theirs.0.fn.weight": torch.ones(2, 3),
        "theirs.0.fn.bias": torch.full((2,), 2.0),
        "theirs.1.fn.weight": torch.full((1, 2), 3.0),
        "theirs.1.fn.bias": torch.full((1,), 4.0),
    }


def _module():
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))


def test_weights_take_their_places_by_name():
    module = _module()
    load_original(module, _weights(), NAMES, "That")
    assert {name: float(weight.mean()) for name, weight in module.state_dict().items()} == {
        "0.weight": 1.0,
        "0.bias": 2.0,
        "1.weight": 3.0,
        "1.bias": 4.0,
    }


def test_a_missing_weight_is_named_as_its_authors_do():
    weights = _weights()
    del weights["theirs.1.fn.bias"]
    with pytest.raises(ModelError, match=r"have no 'theirs.1.fn.bias'; give the state_dict of .* the authors' That"):
        load_original(_module(), weights, NAMES, "That")


def test_an_unknown_weight_is_refused_and_one_that_may_be_left_out_is_logged(caplog):
    weights = _weights() | {"coef.0.bias": torch.zeros(1), "coef.0.weight": torch.zeros(1)}
    with pytest.raises(ModelError, match=r"hold 'coef.0.bias', which the authors' That does not have"):
        load_original(_module(), weights, NAMES, "That")
    with caplog.at_level(logging.INFO, logger="nh2st_graph"):
        load_original(_module(), weights, NAMES, "That", unread=("coef.",))
    assert caplog.messages == ["That from the authors' weights, without coef.0.bias, coef.0.weight"]


def test_a_weight_of_the_wrong_shape_is_named():
    with pytest.raises(ModelError, match=r"not of one That: .*size mismatch for 1\.weight"):
        load_original(_module(), _weights() | {"theirs.1.fn.weight": torch.zeros(5, 5)}, NAMES, "That")


def test_a_lightning_checkpoint_holds_the_weights():
    weights = _weights()
    assert state_of({"state_dict": weights, "epoch": 3}) is weights
    assert state_of(weights) is weights


def test_blocks_are_counted_by_whole_names():
    assert count_blocks({"layer.0.w": 0, "layer.11.w": 0, "layer.2.w.x": 0, "a.layer.3.w": 0}, r"layer\.\d+\.w") == 2


def test_the_names_of_a_block():
    names = block_names(r"blocks\.(\d+)", r"layers.\1.0", r"layers.\1.1")
    shapes = {
        "layers.3.0.norm.weight": (4,),
        "layers.3.0.norm.bias": (4,),
        "layers.3.0.fn.to_qkv.weight": (18, 4),
        "layers.3.0.fn.to_out.0.weight": (4, 6),
        "layers.3.0.fn.to_out.0.bias": (4,),
        "layers.3.1.norm.weight": (4,),
        "layers.3.1.norm.bias": (4,),
        "layers.3.1.fn.net.0.weight": (5, 4),
        "layers.3.1.fn.net.0.bias": (5,),
        "layers.3.1.fn.net.3.weight": (4, 5),
        "layers.3.1.fn.net.3.bias": (4,),
    }
    module = nn.ModuleDict({"blocks": nn.ModuleDict({"3": SelfAttentionBlock(4, 2, 3, 5)})})
    load_original(module, {name: torch.zeros(shape) for name, shape in shapes.items()}, names, "That")
    assert all(float(weight.abs().sum()) == 0 for weight in module.state_dict().values())


def test_heads_share_a_matrix_of_three():
    weight = torch.zeros(3 * 12, 5)
    assert [size_of_head(weight, heads) for heads in (1, 3, 12)] == [12, 4, 1]
    for heads in (0, 5, 24):
        with pytest.raises(ModelError, match=f"heads={heads} .* 12 columns"):
            size_of_head(weight, heads)


def test_settings_are_those_of_a_configuration():
    assert parse_settings(HisToGene.Settings, {"width": 8}).width == 8
    with pytest.raises(ConfigError, match="from_original: width"):
        parse_settings(HisToGene.Settings, {"width": 0})
