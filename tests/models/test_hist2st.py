from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph import ConfigError, DataError, ModelError
from nh2st_graph.config import Config
from nh2st_graph.models import Hist2ST, find_method
from nh2st_graph.nn import random_views

from .drawn import in_order_of_names

GOLDEN = Path(__file__).parent / "golden" / "hist2st.json"
N_GENES = 5
THEIR_LOSSES = {"loss": "loss", "mse_loss": "regression", "zinb_loss": "likelihood", "bake_loss": "distillation"}


# The authors' numbers. Weights and inputs are drawn as they were for golden/hist2st.json: weights in the order of their
# sorted names in the authors' code from seed 1, then images, array positions and counts from seed 2; views from 3.


def _draw_section(edges, n_spots=14, side=16, n_genes=6, n_positions=5):
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (n_spots, side, side, 3), generator=generator).float()
    place = torch.randperm(n_positions**2, generator=generator)[:n_spots]
    array = torch.stack([place % n_positions, place // n_positions], dim=1)
    counts = torch.poisson(3 * torch.rand((n_spots, n_genes), generator=generator), generator=generator)
    return Data(
        x=images.flatten(start_dim=1),
        array=array,
        edge_index=torch.tensor(edges),
        y=counts.log1p(),
        counts=counts,
        library=counts.sum(dim=1, keepdim=True),
        seeds=torch.arange(n_spots),
        section="golden",
        num_nodes=n_spots,
    )


def _check_losses(losses, expected):
    found = {theirs: float(losses[ours]) for theirs, ours in THEIR_LOSSES.items() if ours in losses}
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@torch.no_grad()
@pytest.mark.parametrize("case", ["zinb", "nb", "none"])
@pytest.mark.parametrize(
    "wrap", [dict, lambda weights: {"state_dict": weights, "epoch": 9}], ids=["plain", "Lightning"]
)
def test_it_gives_the_authors_numbers(golden, case, wrap):
    numbers = golden["cases"][case]
    n_views = {"zinb": 2, "nb": 1, "none": 0}[case]
    model = Hist2ST.from_original(wrap(in_order_of_names(numbers["shapes"])), heads=4, n_views=n_views).eval()
    section = _draw_section(golden["edges"])
    expected = torch.tensor(numbers["predicted"])
    torch.testing.assert_close(model.predict(section), expected, rtol=1e-5, atol=1e-5 * float(expected.std()))
    torch.manual_seed(3)
    _check_losses(model.losses(section), numbers["losses"])


@torch.no_grad()
def test_in_training_too_statistics_included(golden):
    weights = in_order_of_names(golden["cases"]["zinb"]["shapes"])
    model = Hist2ST.from_original(weights, heads=4, n_views=2, dropout=0.0).train()
    torch.manual_seed(3)
    losses = model.losses(_draw_section(golden["edges"]))
    _check_losses(losses, golden["training"]["losses"])
    expected = torch.tensor(golden["training"]["running_mean"])
    torch.testing.assert_close(model.mixer[1].pointwise[2].running_mean, expected, rtol=1e-5, atol=1e-5)


def test_the_authors_edges_are_four_nearest_of_the_array_within_two(golden):
    section = _draw_section(golden["edges"])
    sender, receiver = section.edge_index
    distance = torch.cdist(section.array.double(), section.array.double()).fill_diagonal_(torch.inf)
    for spot in range(14):
        read = distance[spot, sender[receiver == spot]].sort().values
        nearest = distance[spot].sort().values[:4]
        torch.testing.assert_close(read, nearest[nearest <= 2])


def test_settings_are_read_off_the_weights(golden):
    sizes = {"channels": 16, "patch_size": 4, "kernel_size": 3, "depth_graph": 3, "depth_transformer": 2}
    for case, more in {"zinb": {}, "nb": {"likelihood": "nb"}, "none": {"likelihood": "none", "n_views": 0}}.items():
        model = Hist2ST.from_original(in_order_of_names(golden["cases"][case]["shapes"]), heads=4)
        assert model.config == Hist2ST.Settings(**sizes, heads=4, head_width=64, n_positions=8, **more)
        assert (model.n_features, model.n_genes) == (16 * 16 * 3, 6)


@pytest.mark.parametrize("case", ["zinb", "nb", "none"])
def test_names_in_the_authors_code_are_all_known(golden, case, caplog):
    shapes = golden["cases"][case]["shapes"]
    with caplog.at_level("INFO", "nh2st_graph"):
        model = Hist2ST.from_original(in_order_of_names(shapes))
    assert len(model.state_dict()) == len(shapes)
    assert not caplog.messages, "no weight is left out"


def test_the_defaults_have_the_authors_sizes():
    """As their tutorial prints them: 4.7 K, 804 K (cut off), 1.1 M, 71.4 M and 75.8 M in all."""
    with torch.device("meta"):
        model = Hist2ST(Hist2ST.Settings(), 112 * 112 * 3, 785)

    def size(*parts):
        return sum(weight.numel() for part in parts for weight in part.parameters())

    assert [size(model.patch_embedding), size(model.count_heads["mean"])] == [4736, 804625]
    between = size(model.mixer, model.flatten, model.transformer, model.graph, model.jumping)
    assert [round(n / 1e6, 1) for n in (size(model.view_weight), between, size(model))] == [1.1, 71.4, 75.8]


def test_what_serves_training_alone_may_be_left_out(golden, caplog):
    weights = in_order_of_names(golden["cases"]["zinb"]["shapes"])
    with caplog.at_level(logging.INFO, logger="nh2st_graph"):
        model = Hist2ST.from_original(weights, heads=4, likelihood="none", n_views=0).eval()
    assert caplog.messages[0].startswith(
        "Hist2ST from the authors' weights, without coef.0.bias, coef.0.weight, coef.2."
    )
    section = _draw_section(golden["edges"])
    expected = torch.tensor(golden["cases"]["zinb"]["predicted"])
    torch.testing.assert_close(model.predict(section), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["patch_embedding.weight", "vit.transformer.jknet.0.bias_hh_l1", "pi.0.bias", "coef.2.bias"]
)
def test_a_weight_that_is_missing_is_named(golden, name):
    weights = in_order_of_names(golden["cases"]["zinb"]["shapes"])
    del weights[name]
    with pytest.raises(ModelError, match=f"the weights have no '{name}'; give the state_dict"):
        Hist2ST.from_original(weights, heads=4)


def test_weights_of_something_else_are_refused(golden):
    weights = in_order_of_names(golden["cases"]["zinb"]["shapes"])
    with pytest.raises(ModelError, match=r"hold 'cls_token', which the authors' Hist2ST does not have"):
        Hist2ST.from_original(weights | {"cls_token": torch.zeros(1)}, heads=4)
    with pytest.raises(ModelError, match=r"not of one Hist2ST: .*graph\.1\.conv\.lin_l\.weight"):
        Hist2ST.from_original(weights | {"vit.transformer.layer3.1.weight": torch.zeros(32, 64)}, heads=4)
    with pytest.raises(ModelError, match=r"heads=7 .* 256 columns"):
        Hist2ST.from_original(weights, heads=7)


# The method. A small model on patches of 6 by 6 pixels, cut into squares of 2 by 2.

SMALL = {
    "channels": 8,
    "patch_size": 2,
    "kernel_size": 3,
    "depth_mixer": 1,
    "depth_transformer": 1,
    "depth_graph": 2,
    "heads": 2,
    "head_width": 4,
    "n_positions": 6,
    "n_views": 2,
}


def _model(n_features=108, seed=0, **settings):
    torch.manual_seed(seed)
    return Hist2ST(Hist2ST.Settings(**(SMALL | settings)), n_features, N_GENES).double().eval()


def _section(n_spots=9, side=6, seed=0, isolated=0):
    """A section on a ring: each spot reads the one before it and the third before, but for some without edges."""
    generator = torch.Generator().manual_seed(seed)
    joined = torch.arange(n_spots - isolated)
    senders = torch.cat([(joined - step) % len(joined) for step in (1, 3)])
    counts = torch.poisson(3 * torch.rand(n_spots, N_GENES, generator=generator), generator=generator).double()
    return Data(
        x=torch.randint(0, 256, (n_spots, side * side * 3), generator=generator).double(),
        array=torch.randint(0, 6, (n_spots, 2), generator=generator),
        edge_index=torch.stack([senders, joined.repeat(2)]),
        y=counts.log1p(),
        counts=counts,
        library=1 + counts.sum(dim=1, keepdim=True),
        seeds=torch.arange(n_spots),
        section="C3",
        num_nodes=n_spots,
    )


def test_it_is_known_by_its_name():
    settings = Config.parse({"model": {"name": "hist2st", "n_views": 0}}).model
    assert find_method("hist2st") is Hist2ST
    assert settings == Hist2ST.Settings(n_views=0)
    assert Hist2ST.needs == {"array"}
    assert _model().receptive_hops is None


def _by_adjacency(model, section):
    """The prediction by a dense adjacency, whose rows are averaged, and one LSTM step after another."""
    n = section.num_nodes
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    adjacency[section.edge_index[1], section.edge_index[0]] = 1.0
    adjacency = adjacency / adjacency.sum(dim=1, keepdim=True)
    images = section.x.view(n, 6, 6, 3).permute(0, 3, 2, 1)
    mixed = model.flatten(model.mixer(model.patch_embedding(images)))
    columns, rows = section.array.T
    h = model.transformer(mixed + model.positions.x.weight[columns] + model.positions.y.weight[rows])
    states, state = [], None
    for block in model.graph:
        active = torch.relu(adjacency @ h @ block.conv.lin_l.weight.T)
        h = active / active.norm(dim=1, keepdim=True).clamp_min(1e-12)
        out, state = model.jumping(h[None], state)
        states.append(out[0])
    return model.head(sum(states) / len(states))


@torch.no_grad()
def test_it_equals_a_dense_adjacency():
    model, section = _model(depth_graph=3), _section()
    torch.testing.assert_close(model.predict(section), _by_adjacency(model, section))


@torch.no_grad()
def test_genes_do_not_reach_the_prediction():
    model, section = _model(), _section()
    changed = section.clone()
    changed.y, changed.counts, changed.library = -changed.y, 9 + changed.counts, 7 * changed.library
    genes = {"y", "counts", "library"}
    without = Data(**{key: value for key, value in section.to_dict().items() if key not in genes})
    for other in (changed, without):
        assert torch.equal(model.predict(other), model.predict(section))


@torch.no_grad()
def test_a_spot_without_neighbours_gets_a_prediction_that_is_not_its_own():
    model, section = _model(), _section(isolated=2)
    predicted = model.predict(section)
    assert predicted.isfinite().all()
    torch.testing.assert_close(predicted[-1], predicted[-2])
    looped = _model(self_loops=True).predict(section)
    assert not torch.allclose(looped[-1], looped[-2])


@torch.no_grad()
@pytest.mark.parametrize("change", [{"self_loops": True}, {"aggregation": "max"}, {"scale_pixels": True}])
def test_switches_of_the_network_change_the_prediction(change):
    section = _section()
    assert not torch.allclose(_model(**change).predict(section), _model().predict(section))


@torch.no_grad()
def test_scaled_pixels_are_those_between_0_and_1():
    section = _section()
    scaled = _model(scale_pixels=True).predict(section)
    section.x = section.x / 255
    torch.testing.assert_close(scaled, _model().predict(section))


# Losses


def _embedded(model, section):
    return model.embed(model._images(section), section)


@torch.no_grad()
@pytest.mark.parametrize(
    "settings", [{"likelihood": "zinb"}, {"likelihood": "nb"}, {"likelihood": "nb", "nb_like_zinb": True}]
)
def test_the_likelihood_is_that_of_scipy(settings):
    model, section = _model(n_views=0, weight_likelihood=0.7, **settings), _section()
    section.seeds = torch.tensor([7, 0, 3])
    h, counts = _embedded(model, section)[section.seeds], section.counts[section.seeds].numpy()
    read = {name: head(h).numpy() for name, head in model.count_heads.items()}
    size = (section.library.numpy() / np.median(section.library.numpy()))[section.seeds]
    if settings["likelihood"] == "zinb":
        mean, theta = np.exp(read["mean"]) * size, np.log1p(np.exp(read["dispersion"]))
        extra = 1 / (1 + np.exp(-read["zeros"]))
        likely = extra * (counts == 0) + (1 - extra) * stats.nbinom.pmf(counts, theta, theta / (theta + mean))
        expected = -np.log(likely).mean()
    else:
        theta = np.exp(read["log_dispersion"])
        mean = theta * np.exp(read["log_odds"]) * (size if "nb_like_zinb" in settings else 1)
        log_likely = stats.nbinom.logpmf(counts, theta, theta / (theta + mean))
        # As published without the factorial, and summed over genes.
        factorial = torch.lgamma(torch.from_numpy(counts) + 1).numpy()
        expected = -log_likely.mean() if "nb_like_zinb" in settings else -(log_likely + factorial).sum(axis=1).mean()
    losses = model.losses(section)
    assert float(losses["likelihood"]) == pytest.approx(expected)
    assert float(losses["loss"]) == pytest.approx(float(losses["regression"]) + 0.7 * expected)


@torch.no_grad()
@pytest.mark.parametrize("apart", [False, True])
def test_distillation_is_towards_the_views_weighted_spot_by_spot(apart):
    model = _model(n_views=3, likelihood="none", weight_distillation=2.0, views_apart=apart)
    section = _section()
    section.seeds = torch.tensor([7, 0, 3])
    torch.manual_seed(5)
    losses = model.losses(section)
    torch.manual_seed(5)
    predictions, scores = [], []
    for _ in range(3):
        views = random_views(model._images(section), apart=apart)
        h = model.embed(views, section)
        predictions.append(model.head(h))
        scores.append(model.view_weight(h))
    total = 0.0
    for spot in (7, 0, 3):
        weights = torch.softmax(torch.stack([score[spot, 0] for score in scores]), dim=0)
        joint = sum(weight * prediction[spot] for weight, prediction in zip(weights, predictions, strict=True))
        total = total + F.mse_loss(joint, model.predict(section)[spot]) / 3
    torch.testing.assert_close(losses["distillation"], total)
    torch.testing.assert_close(
        losses["regression"], F.mse_loss(model.predict(section)[[7, 0, 3]], section.y[[7, 0, 3]])
    )
    torch.testing.assert_close(losses["loss"], losses["regression"] + 2.0 * total)


def test_losses_that_are_off_are_not_there():
    assert set(_model(n_views=0, likelihood="none").losses(_section())) == {"loss", "regression"}
    assert set(_model().losses(_section())) == {"loss", *Hist2ST.loss_parts}


def _gradient_of_distillation(model, section, at):
    """Of the distillation in the prediction, were this added to what one forward pass (``at``) of it gives."""
    nudge = torch.zeros(section.num_nodes, N_GENES, dtype=torch.float64, requires_grad=True)
    passes = iter(range(1 + model.config.n_views))
    head = model.head
    model.head = nn.Sequential(head, _Nudge(nudge, passes, at))
    torch.manual_seed(1)
    model.losses(section)["distillation"].backward()
    model.head = head
    return nudge.grad


class _Nudge(nn.Module):
    def __init__(self, nudge, passes, at):
        super().__init__()
        self.nudge, self.passes, self.at = nudge, passes, at

    def forward(self, h):
        return h + self.nudge if next(self.passes) == self.at else h


@pytest.mark.parametrize("detached", [False, True])
def test_the_prediction_is_drawn_to_its_views_unless_detached(detached):
    section = _section()
    to_prediction = _gradient_of_distillation(_model(detach_prediction=detached), section, at=0)
    assert (to_prediction is None) is detached
    for view in (1, 2):
        to_view = _gradient_of_distillation(_model(detach_prediction=detached), section, at=view)
        assert to_view.abs().max() > 1e-6


@pytest.mark.parametrize("counted", [True, False])
def test_views_count_in_running_statistics_unless_told_otherwise(counted):
    section = _section()
    with_views, alone = (_model(views_in_statistics=counted, n_views=n, dropout=0.0).train() for n in (2, 0))
    alone.load_state_dict({name: with_views.state_dict()[name] for name in alone.state_dict()})
    for model in (with_views, alone):
        model.losses(section)
    a, b = (model.mixer[0].pointwise[2] for model in (with_views, alone))
    assert torch.equal(a.running_mean, b.running_mean) is not counted
    assert a.track_running_stats


def test_every_weight_learns():
    for settings in ({"likelihood": "zinb"}, {"likelihood": "nb"}):
        model = _model(**settings).train()
        model.losses(_section(40))["loss"].backward()
        idle = [name for name, weight in model.named_parameters() if weight.grad.abs().max() == 0]
        assert idle == []


# What is refused


def test_positions_beyond_the_tables_are_refused_with_the_length_that_would_do():
    model, section = _model(), _section()
    section.array[2, 0] = 127
    for refuse in (model.check, model.predict):
        with pytest.raises(DataError, match=r"section 'C3': array positions reach 127, .* n_positions=128 or more"):
            refuse(section)
    assert _model(n_positions=128).predict(section).isfinite().all()


@pytest.mark.parametrize(
    ("n_features", "settings", "message"),
    [
        (512, {}, r"Hist2ST reads .*encoder gives 512 features"),
        (48, {"patch_size": 5}, r"patch_size=5 .* 4 pixels"),
    ],
)
def test_patches_that_are_none_or_too_small_are_refused(n_features, settings, message):
    with pytest.raises(ConfigError, match=message):
        _model(n_features, **settings)


def test_pixels_left_over_at_the_end_are_not_read():
    model = _model(n_features=147)
    section = _section(side=7)
    changed = section.clone()
    images = changed.x.view(-1, 7, 7, 3)
    images[:, 6], images[:, :, 6] = 0, 0
    assert torch.equal(model.predict(changed), model.predict(section))


@pytest.mark.parametrize("key", ["channels=12", "likelihood=poisson", "weight_distillation=0", "n_views=-1"])
def test_settings_that_cannot_be_are_refused(key):
    with pytest.raises(ConfigError, match=rf"\b{key.partition('=')[0]}\b"):
        Config().override(["model.name=hist2st", f"model.{key}"])
