from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph import ConfigError, DataError
from nh2st_graph.config import Config
from nh2st_graph.models import TRIPLEX, find_method
from nh2st_graph.nn import PatchEncoder, array_window

from .drawn import draw_weights

GOLDEN = Path(__file__).parent / "golden" / "triplex.json"
N_GENES = 5

#: Four places of sixteen channels.
SMALL = {
    "width": 16,
    "target_tokens": 4,
    "depth_fusion": 2,
    "depth_global": 3,
    "depth_neighbours": 2,
    "heads_fusion": 2,
    "heads_global": 4,
    "heads_neighbours": 2,
    "ratio_fusion": 2,
    "ratio_global": 1.5,
    "ratio_neighbours": 3,
}


def _section(n=12, seed=2, side=6):
    """A section of some places of an array, in order of x and then y."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randperm(side * side, generator=generator)[:n].sort().values
    return Data(
        x=torch.randn(n, 64, generator=generator),
        y=torch.rand(n, N_GENES, generator=generator),
        array=torch.stack([place // side, place % side], dim=1),
        edge_index=torch.empty(2, 0, dtype=torch.long),
        seeds=torch.arange(n),
        section="C3",
        num_nodes=n,
    )


def _model(n_features=64, encoder=None, **settings):
    return draw_weights(TRIPLEX(TRIPLEX.Settings(**(SMALL | settings)), n_features, N_GENES, encoder))


def _outputs(model, section):
    return model(section, model.encode_section(section), section.seeds)


@torch.no_grad()
def test_it_gives_the_authors_numbers():
    """Weights and inputs are drawn as they were for golden/triplex.json, by the code of the first release."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    model, section = _model(), _section()
    for name, found in _outputs(model, section)._asdict().items():
        torch.testing.assert_close(found, torch.tensor(golden[name]), rtol=1e-5, atol=1e-5)
    assert float(model.losses(section)["loss"]) == pytest.approx(golden["loss"], rel=1e-5)


def test_the_published_settings():
    settings = Config.parse({"model": {"name": "triplex"}}).model
    assert find_method("triplex") is TRIPLEX
    assert TRIPLEX.needs == {"array"}
    assert (settings.width, settings.alpha, settings.window, settings.kernel) == (512, 0.3, 5, 3)
    assert (settings.depth_fusion, settings.depth_global, settings.depth_neighbours) == (1, 5, 4)
    assert (settings.heads_fusion, settings.heads_global, settings.heads_neighbours) == (4, 8, 4)
    assert _model().receptive_hops is None


@torch.no_grad()
def test_the_global_token_reads_target_and_neighbours_spot_by_spot():
    model, section = _model(), _section()
    whole = model.encode_section(section)
    pooled = section.x.reshape(12, 16, 4).mean(dim=2)
    for i in range(12):
        apart = (section.array - section.array[i]).abs().amax(dim=1)
        window = array_window(section.array, section.array[i : i + 1], 5)
        assert sorted(window[window >= 0].tolist()) == (apart <= 2).nonzero().flatten().tolist()
        tokens = torch.stack([pooled[j] if j >= 0 else torch.zeros(16) for j in window[0].tolist()])
        around = model.neighbour_encoder(tokens[None], window >= 0)
        fused = torch.zeros(1, 1, 16)
        for context in (section.x[i].reshape(1, 16, 4).transpose(1, 2), around[window >= 0][None]):
            h = whole[None, None, i]
            for layer in model.fusion.layers:
                h = layer(h, context, None)
            fused = fused + h
        expected = model.fused_head(model.fusion.norm(fused[0]))
        torch.testing.assert_close(model.predict(section)[i : i + 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
@torch.no_grad()
def test_positions_come_after_the_first_block(residual):
    model, section = _model(residual_positions=residual), _section()
    h = model.global_blocks[0](section.x.reshape(12, 16, 4).mean(dim=2))
    read = model.positions(h, array_window(section.array, section.array, 3))
    h = h + read if residual else read
    expected = model.global_norm(model.global_blocks[2](model.global_blocks[1](h)))
    torch.testing.assert_close(model.encode_section(section), expected)


@torch.no_grad()
def test_where_the_array_begins_and_the_order_of_spots_decide_nothing(monkeypatch):
    model, section = _model(), _section()
    predicted = model.predict(section)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    moved = Data(x=section.x[order], array=section.array[order] + torch.tensor([40, -3]), section="C3")
    torch.testing.assert_close(model.predict(moved), predicted[order], rtol=1e-5, atol=1e-5)
    monkeypatch.setattr("nh2st_graph.models._triplex._AT_ONCE", 5)
    torch.testing.assert_close(model.predict(section), predicted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_spots_read_all_of_the_section():
    model, section = _model(), _section()
    predicted = model.predict(section)
    section.x[0] += 1
    assert (model.predict(section) - predicted).abs().amax(dim=1).min() > 1e-6


def test_genes_do_not_reach_the_prediction():
    model, section = _model(), _section()
    changed = section.clone()
    changed.y = -7 * changed.y
    without = Data(**{key: value for key, value in section.to_dict().items() if key != "y"})
    for other in (changed, without):
        assert torch.equal(model.predict(other), model.predict(section))


@torch.no_grad()
def test_the_loss_is_of_the_seeds_and_weighs_targets_against_the_fused_prediction():
    model, section = _model(alpha=0.2), _section()
    section.seeds = torch.tensor([7, 1, 4])
    outputs, observed = _outputs(model, section), section.y[[7, 1, 4]]
    expected = F.mse_loss(outputs.fused, observed)
    for branch in (outputs.target, outputs.neighbours, outputs.whole):
        expected += 0.8 * F.mse_loss(branch, observed) + 0.2 * F.mse_loss(branch, outputs.fused)
    losses = model.losses(section)
    assert set(losses) == {"loss", *model.loss_parts}
    assert set(losses) == {"loss", "regression", "distillation"}
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(outputs.fused, model.predict(section)[[7, 1, 4]], rtol=1e-5, atol=1e-5)


def test_a_detached_teacher_learns_from_the_targets_alone():
    section = _section()
    gradients = []
    for detach in (True, False):
        model = _model(detach_teacher=detach)
        model.losses(section)["loss"].backward()
        gradients.append(model.fused_head.weight.grad)
    model = _model()
    F.mse_loss(_outputs(model, section).fused, section.y).backward()
    torch.testing.assert_close(gradients[0], model.fused_head.weight.grad)
    assert not torch.allclose(gradients[1], gradients[0])


@torch.no_grad()
def test_absent_places_count_in_the_neighbours_mean_unless_they_are_left_out():
    section = _section(2)
    section.array = torch.tensor([[0, 0], [1, 0]])
    found = {average: _outputs(_model(average_absent=average), section).neighbours for average in (True, False)}
    model = _model()
    window = array_window(section.array, section.array, 5)
    pooled = section.x.reshape(2, 16, 4).mean(dim=2)
    tokens = torch.stack([torch.stack([pooled[j] if j >= 0 else torch.zeros(16) for j in row]) for row in window])
    around = model.neighbour_encoder(tokens, window >= 0)
    torch.testing.assert_close(found[True], model.neighbour_head(around.mean(dim=1)))
    present = torch.stack([row[places >= 0].mean(dim=0) for row, places in zip(around, window, strict=True)])
    torch.testing.assert_close(found[False], model.neighbour_head(present))


@torch.no_grad()
def test_predictions_below_zero_can_be_cut():
    section = _section()
    predicted = _model().predict(section)
    assert float(predicted.min()) < 0
    assert torch.equal(_model(non_negative=True).predict(section), predicted.relu())


def test_every_weight_learns_and_features_of_another_size_are_mapped():
    model, section = _model(width=24), _section(20)
    assert isinstance(model.target_input, nn.Linear)
    assert isinstance(_model().target_input, nn.Identity)
    model.train().losses(section)["loss"].backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_a_trained_encoder_is_the_targets_alone():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.Flatten())
    model, section = _model(encoder=PatchEncoder(network, [0.5] * 3, [0.2] * 3, 64)), _section()
    section.patches = torch.randint(0, 256, (12, 8, 8, 3), dtype=torch.uint8)
    before = _outputs(model, section)
    model.losses(section)["loss"].backward()
    assert network[0].weight.grad.abs().max() > 0
    section.patches[3] = 255 - section.patches[3]
    after = _outputs(model, section)
    changed = (after.fused - before.fused).abs().amax(dim=1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [3]
    assert torch.equal(after.neighbours, before.neighbours)
    assert torch.equal(after.whole, before.whole)
    torch.manual_seed(1)
    assert not torch.equal(_outputs(model.train(), section).target, after.target)  # a drawn view
    assert model.predict(section).shape == (12, N_GENES)


def test_what_does_not_fit_is_refused():
    section = _section()
    section.array[3] = section.array[7]
    for refuse in (_model().check, _model().predict):
        with pytest.raises(DataError, match=r"section 'C3': several spots have the same array position"):
            refuse(section)
    with pytest.raises(ConfigError, match=r"50 features .* 4 places; give target_tokens=1"):
        _model(50)
    with pytest.raises(ConfigError, match=r"model\.heads_global=8 does not divide model\.width=100"):
        Config.parse({"model": {"name": "triplex", "width": 100}})
    with pytest.raises(ConfigError, match=r"window=4 .*odd"):
        Config.parse({"model": {"name": "triplex", "window": 4}})
