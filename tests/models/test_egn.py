from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

from nh2st_graph import ConfigError
from nh2st_graph.config import Config
from nh2st_graph.models import EGN, find_method
from nh2st_graph.models._egn import ExemplarBridge
from nh2st_graph.nn import PatchEncoder, one_minus_pearson

from .drawn import draw_weights

GOLDEN = Path(__file__).parent / "golden" / "egn.json"
N_GENES = 5

#: Of patches of 8 pixels as four squares, with 6 features to find exemplars by.
SMALL = {
    "k": 3,
    "side": 8,
    "patch_side": 4,
    "width": 8,
    "depth": 4,
    "heads": 2,
    "head_width": 4,
    "hidden": 12,
    "bridge_heads": 2,
    "bridge_width": 3,
}
N_PIXELS, N_KEY = 8 * 8 * 3, 6


def _points(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_it_gives_the_authors_numbers():
    """Weights and inputs are drawn as they were for golden/egn.json; that has every tenth of 250 genes."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    settings = EGN.Settings(**(SMALL | {"side": 32, "width": 16, "hidden": 24}))
    model = draw_weights(EGN(settings, 3 * 32 * 32 + N_KEY, 250))
    generator = torch.Generator().manual_seed(2)
    images, key, exemplar_keys, expression, targets = (
        torch.randn(*shape, generator=generator)
        for shape in ((4, 32, 32, 3), (4, N_KEY), (4, 3, N_KEY), (4, 3, 250), (4, 250))
    )
    tokens = model._tokens(Data(x=torch.cat([images.flatten(start_dim=1), key], dim=1)), torch.arange(4))
    estimated = model(tokens, key, exemplar_keys, expression.abs())
    expected = torch.tensor(golden["estimated"])
    torch.testing.assert_close(estimated[:, ::10], expected, rtol=1e-5, atol=1e-5)
    assert float(nn.functional.mse_loss(estimated, targets.abs())) == pytest.approx(golden["regression"], rel=1e-5)
    assert float(one_minus_pearson(estimated, targets.abs())) == pytest.approx(golden["correlation"], rel=1e-5)


@pytest.mark.parametrize("keep_revised", [False, True])
def test_the_bridge_equals_its_formula_exemplar_by_exemplar(keep_revised):
    torch.manual_seed(0)
    bridge = ExemplarBridge(4, n_tokens=3, heads=2, head_width=3, keep_revised=keep_revised).double()
    tokens, view, exemplars, expression = _points(2, 3, 4), _points(2, 4), _points(2, 5, 4, seed=3), _points(2, 5, 4)
    found = bridge(tokens, view, exemplars, expression)
    for i in range(2):
        told = []
        for j in range(5):
            compared = bridge.compare(torch.cat([view[i] - exemplars[i, j], exemplars[i, j]])).sigmoid()
            value = bridge.value(expression[i, j])
            told.append(compared[:4] * value)
            torch.testing.assert_close(found[2][i, j], bridge.norm(exemplars[i, j] + compared[4:] * value))
        revised = view[i] + torch.stack(told).mean(dim=0)
        gate = bridge.gate(revised).sigmoid()
        read = torch.stack(
            [
                torch.cat([bridge.read(tokens[i, t])[3 * head : 3 * head + 3] * gate[3 * head + t] for head in (0, 1)])
                for t in range(3)
            ]
        )
        torch.testing.assert_close(found[0][i], tokens[i] + read @ bridge.to_tokens.weight.T)
        before = revised if keep_revised else view[i]
        torch.testing.assert_close(found[1][i], before + bridge.to_view.weight @ read.mean(dim=0))


# The method.


def _model(n_features=N_PIXELS + N_KEY, seed=0, encoder=None, **settings):
    torch.manual_seed(seed)
    return EGN(EGN.Settings(**(SMALL | settings)), n_features, N_GENES, encoder).eval()


def _section(n=9, seed=0, name="C3", n_features=N_PIXELS + N_KEY):
    generator = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(n, n_features, generator=generator),
        y=torch.rand(n, N_GENES, generator=generator),
        edge_index=torch.empty(2, 0, dtype=torch.long),
        seeds=torch.arange(n),
        section=name,
        num_nodes=n,
    )


def _trained(**settings):
    model = _model(**settings)
    model.prepare([_section(), _section(7, 1, "C4")])
    return model


def test_the_published_settings():
    settings = Config.parse({"model": {"name": "egn"}}).model
    assert find_method("egn") is EGN
    assert (settings.width, settings.depth, settings.hidden) == (1024, 8, 4096)
    assert (settings.heads, settings.head_width) == (16, 64)
    assert (settings.n_tokens, settings.k, settings.bridge_every, settings.bridge_heads) == (64, 9, 2, 8)
    assert list(EGN(EGN.Settings(**(SMALL | {"depth": 5})), N_PIXELS + N_KEY, N_GENES).bridges) == ["1", "3"]


def test_tokens_are_squares_by_row_and_column_and_keys_what_follows_the_pixels():
    model, section = _model(), _section()
    spots = torch.tensor([4, 2])
    tokens = model._tokens(section, spots)
    images = section.x[spots, :N_PIXELS].reshape(2, 8, 8, 3)
    squares = [images[:, top : top + 4, left : left + 4] for top in (0, 4) for left in (0, 4)]
    assert torch.equal(tokens, torch.stack([square.flatten(start_dim=1) for square in squares], dim=1))
    assert torch.equal(model.keys(section), section.x[:, N_PIXELS:])


def test_places_of_a_feature_map_are_tokens_and_their_mean_the_key():
    model, section = _model(4 * 6, input="features", tokens=4), _section(n_features=24)
    maps = section.x.reshape(9, 6, 2, 2)  # channels first, as the encoder flattens them
    tokens = model._tokens(section, torch.tensor([3]))
    assert torch.equal(tokens[0, 1], maps[3, :, 0, 1])
    assert torch.equal(tokens[0, 2], maps[3, :, 1, 0])
    torch.testing.assert_close(model.keys(section), maps.mean(dim=(2, 3)))


@torch.no_grad()
def test_spots_are_predicted_one_by_one(monkeypatch):
    model, section = _trained(), _section(8, 2, "C6")
    predicted = model.predict(section)
    for i in range(8):
        torch.testing.assert_close(model.predict(Data(x=section.x[i : i + 1])), predicted[i : i + 1])
    monkeypatch.setattr("nh2st_graph.models._egn._AT_ONCE", 3)
    torch.testing.assert_close(model.predict(section), predicted)


@torch.no_grad()
def test_exemplars_guide_the_prediction_and_their_order_does_not():
    model, section = _trained(), _section(8, 2, "C6")
    exemplars = torch.tensor([[3, 12, 5]]).repeat(8, 1)
    estimated = model.estimate(section, exemplars, torch.arange(8))
    torch.testing.assert_close(model.estimate(section, exemplars.flip(1), torch.arange(8)), estimated)
    model.memory["expression"][12] += 1
    assert (model.estimate(section, exemplars, torch.arange(8)) - estimated).abs().amax(dim=1).min() > 1e-5


@torch.no_grad()
def test_genes_do_not_reach_the_prediction():
    model, section = _trained(), _section(8, 2, "C6")
    changed = section.clone()
    changed.y = -7 * changed.y
    without = Data(**{key: value for key, value in section.to_dict().items() if key != "y"})
    for other in (changed, without):
        assert torch.equal(model.predict(other), model.predict(section))


def test_every_weight_learns_but_what_the_last_bridge_gives_exemplars():
    model = _trained().train()
    losses = model.losses(_section())
    assert set(losses) == {"loss", *model.loss_parts}
    losses["loss"].backward()
    still = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == ["bridges.3.norm.weight", "bridges.3.norm.bias"]


def test_a_trained_encoder_makes_tokens_and_leaves_exemplars_as_they_are():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.Flatten())
    model = _model(24, encoder=PatchEncoder(network, [0.5] * 3, [0.2] * 3, 24), input="features", tokens=4)
    section = _section(n_features=24)
    section.patches = torch.randint(0, 256, (9, 8, 8, 3), dtype=torch.uint8)
    model.prepare([section])
    found, expected = model._of_training["C3"], model.estimate(section, model._of_training["C3"], section.seeds)
    model.losses(section)["loss"].backward()
    assert network[0].weight.grad.abs().max() > 0
    with torch.no_grad():
        network[0].weight.add_(0.1)
    model.prepare([section])
    assert torch.equal(model._of_training["C3"], found)
    assert not torch.allclose(model.estimate(section, found, section.seeds), expected)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"gives 192 features .*encoder='pixels:8,timm:resnet50'"):
        _model(N_PIXELS)
    with pytest.raises(ConfigError, match=r"no map of 49 places; give tokens=1"):
        _model(50, input="features")
    with pytest.raises(ConfigError, match=r"model\.patch_side=5 does not divide model\.side=8"):
        Config.parse({"model": {"name": "egn", "side": 8, "patch_side": 5}})
