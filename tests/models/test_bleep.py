from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Data

from nh2st_graph import ConfigError, ModelError
from nh2st_graph.config import Config
from nh2st_graph.models import BLEEP, find_method

from .drawn import in_order_of_names

GOLDEN = Path(__file__).parent / "golden" / "bleep.json"


# The authors' numbers. Weights and inputs are drawn as they were for golden/bleep.json: weights in the order of their
# sorted names in the authors' code from seed 1, then features and counts from seed 2.


def _draw_section(n_spots=12, n_features=12, n_genes=9):
    generator = torch.Generator().manual_seed(2)
    features = torch.randn((n_spots, n_features), generator=generator)
    counts = torch.poisson(3 * torch.rand((n_spots, n_genes), generator=generator), generator=generator)
    return Data(x=features, y=counts.log1p(), seeds=torch.arange(n_spots), section="golden", num_nodes=n_spots)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def _check(found, values):
    expected = torch.tensor(values)
    # Relative to what is typical of them: all are of the order of 1, single numbers may be near 0.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.std()))


def _of_several_devices(weights):
    return {f"module.{name}": weight for name, weight in weights.items()}


def _with_first_names(weights):
    return {name.replace("spot", "well"): weight for name, weight in weights.items()}


def _with_encoder(weights):
    return weights | {"image_encoder.model.conv1.weight": torch.zeros(4, 3, 7, 7)}


@pytest.mark.parametrize("wrap", [dict, _of_several_devices, _with_first_names, _with_encoder])
def test_embeddings_and_losses_are_the_authors(golden, wrap):
    weights, section = wrap(in_order_of_names(golden["shapes"])), _draw_section()
    for temperature, loss in golden["losses"].items():
        model = BLEEP.from_original(weights, temperature=float(temperature)).eval()
        embeddings = model.embeddings(section)
        _check(embeddings["image"], golden["image"])
        _check(embeddings["gene"], golden["spot"])
        assert float(model.losses(section)["loss"].detach()) == pytest.approx(loss, rel=1e-5)


def test_the_gradient_is_the_authors(golden):
    model = BLEEP.from_original(in_order_of_names(golden["shapes"]), temperature=4.0).eval()
    model.losses(_draw_section())["loss"].backward()
    _check(model.spot_projection.first.weight.grad, golden["gradient"])


@torch.no_grad()
@pytest.mark.parametrize("averaging", ["simple", "average", "weighted_average"])
def test_predictions_are_the_authors(golden, averaging):
    model = BLEEP.from_original(in_order_of_names(golden["shapes"]), k=5, averaging=averaging).eval()
    section = _draw_section()
    model.remember([section])
    _check(model.predict(Data(x=section.x)), golden["predicted"][averaging])


def test_settings_are_read_off_the_weights(golden):
    model = BLEEP.from_original(in_order_of_names(golden["shapes"]), dropout=0.3)
    assert model.config == BLEEP.Settings(width=16, dropout=0.3)
    assert (model.n_features, model.n_genes) == (12, 9)


def test_weights_of_something_else_are_refused(golden):
    weights = in_order_of_names(golden["shapes"])
    with pytest.raises(ModelError, match=r"hold 'cls_token', which the authors' BLEEP does not have"):
        BLEEP.from_original(weights | {"cls_token": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"not of one BLEEP: .*image_projection\.second\.bias"):
        BLEEP.from_original(weights | {"image_projection.fc.bias": torch.zeros(3)})
    with pytest.raises(ModelError, match=r"the weights have no 'spot_projection\.projection\.weight'"):
        BLEEP.from_original({name: weight for name, weight in weights.items() if name[:4] != "spot"})
    with pytest.raises(ConfigError, match="from_original: unknown key"):
        BLEEP.from_original(weights, drop_out=0.2)


# The contrast, spot by spot.


def _drawn(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _model(**switches):
    torch.manual_seed(0)
    return BLEEP(BLEEP.Settings(**{"width": 6} | switches), 4, 5).double().eval()


def _by_spot(p, q, temperature, transpose):
    """The loss in loops: for each spot and each image, what its target's distribution costs."""
    n = len(p)
    same = [[float(p[i] @ p[j] + q[i] @ q[j]) / 2 / temperature for j in range(n)] for i in range(n)]
    targets = torch.tensor(same, dtype=torch.float64).softmax(dim=1)
    total = 0.0
    for i in range(n):
        of_spot = torch.stack([q[i] @ p[j] for j in range(n)]).div(temperature).log_softmax(0)
        of_image = torch.stack([q[j] @ p[i] for j in range(n)]).div(temperature).log_softmax(0)
        for j in range(n):
            total -= float(targets[i, j] * of_spot[j] + (targets[j, i] if transpose else targets[i, j]) * of_image[j])
    return total / 2 / n


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("transpose", [True, False])
def test_the_contrast_equals_its_formula_spot_by_spot(temperature, transpose):
    p, q = _drawn(7, 6, 0), _drawn(7, 6, 1)
    model = _model(temperature=temperature, transpose_targets=transpose)
    assert float(model.contrast(p, q)) == pytest.approx(_by_spot(p, q, temperature, transpose), rel=1e-10)


def test_targets_that_are_not_learned_give_no_gradient():
    p, q = _drawn(7, 6, 0).requires_grad_(), _drawn(7, 6, 1)
    targets = ((p @ p.T + q @ q.T) / 2).softmax(dim=1).detach()
    logits = q @ p.T
    loss = -(targets * logits.log_softmax(1)).sum(1).mean() - (targets.T * logits.T.log_softmax(1)).sum(1).mean()
    (expected,) = torch.autograd.grad(loss / 2, p)
    (found,) = torch.autograd.grad(_model(learn_targets=False).contrast(p, q), p)
    torch.testing.assert_close(found, expected)
    (learned,) = torch.autograd.grad(_model().contrast(p, q), p)
    assert (learned - expected).abs().max() > 1e-3


def test_with_embeddings_of_length_one_the_loss_starts_near_chance():
    model = _model(normalize=True, temperature=100.0)
    section = Data(x=_drawn(9, 4, 0).float(), y=_drawn(9, 5, 1), seeds=torch.arange(9))
    losses = model.float().losses(section)
    assert float(losses["loss"].detach()) == pytest.approx(float(losses["contrast_spot_chance"]), abs=0.05)
    torch.testing.assert_close(model.embeddings(section)["image"].norm(dim=1), torch.ones(9))


def test_the_published_settings():
    config = Config.parse({"model": {"name": "bleep"}}).model
    assert find_method("bleep") is BLEEP
    assert (config.width, config.temperature, config.dropout) == (256, 1.0, 0.1)
    assert (config.k, config.averaging) == (50, "average")
    with torch.device("meta"):
        model = BLEEP(config, 2048, 3467)
    n_weights = (2048 + 3467 + 2 * 256) * 256 + 2 * 4 * 256  # linear maps, then their biases and the normalisations
    assert sum(weight.numel() for weight in model.parameters()) == n_weights
