from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph import ConfigError, DataError
from nh2st_graph.config import Config
from nh2st_graph.models import HGGEP
from nh2st_graph.models._hggep import HGGEPConfig, nearest_hyperedges, published_hyperedges
from nh2st_graph.nn import PatchEncoder, zero_inflated_negative_binomial_nll

GOLDEN = Path(__file__).parent / "golden" / "hggep.json"
SIDE, N_GENES = 32, 5

#: Small sizes; the trunk leaves 2 x 2 places of a patch of 32 pixels.
SMALL = {
    "channels": (4, 8, 8, 16, 8),
    "blocks": (1, 2, 1),
    "width": 16,
    "depth": 1,
    "heads": 2,
    "head_width": 4,
    "jumping_layers": 2,
    "hidden": 8,
    "n_views": 2,
}


# The authors' numbers, with a narrow model but their trunk. Weights and inputs are drawn as they were for
# golden/hggep.json: weights in the order of their names here.

PUBLISHED_TRUNK = {"width": 64, "depth": 2, "heads": 4, "head_width": 8, "hidden": 32, "dropout_hypergraph": 0.0}


def draw_weights(model, seed=1):
    """Draw weights of about the size that keeps activations at theirs."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in model.state_dict().items():
        drawn = torch.randn(weight.shape, generator=generator)
        if weight.dim() > 1:
            drawn = drawn / (weight.numel() / len(weight)) ** 0.5
        elif name.endswith("running_var"):
            drawn = 1 + drawn.abs()
        else:
            drawn = 0.1 * drawn + float(name.endswith("weight"))
        weights[name] = torch.zeros_like(weight) if name.endswith("num_batches_tracked") else drawn
    model.load_state_dict(weights)
    return model.eval()


def draw_section(n_rows=3, n_cols=4, seed=2):
    """A section on a grid, each spot with edges from all spots beside it, corners included."""
    generator = torch.Generator().manual_seed(seed)
    n_spots = n_rows * n_cols
    array = torch.cartesian_prod(torch.arange(n_rows), torch.arange(n_cols)).flip(1)
    apart = torch.cdist(array.double(), array.double())
    sender, receiver = ((apart > 0) & (apart < 1.5)).nonzero().T
    return Data(
        x=4 * torch.rand(n_spots, SIDE * SIDE * 3, generator=generator),
        y=torch.rand(n_spots, N_GENES, generator=generator),
        counts=(5 * torch.rand(n_spots, N_GENES, generator=generator)).floor(),
        array=array,
        pos=array.float(),
        edge_index=torch.stack([sender, receiver]),
        seeds=torch.arange(n_spots),
        section="S1",
        num_nodes=n_spots,
    )


@torch.no_grad()
def test_gives_the_authors_numbers():
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    model = draw_weights(HGGEP(HGGEPConfig(**PUBLISHED_TRUNK), SIDE * SIDE * 3, N_GENES))
    section = draw_section()
    expected = torch.tensor(golden["expression"])
    torch.testing.assert_close(model.predict(section), expected, rtol=1e-5, atol=1e-5)
    losses = model.losses(section)
    assert set(losses) == {"loss", *model.loss_parts}
    for name in ("regression", "likelihood"):
        assert float(losses[name]) == pytest.approx(golden[name], rel=1e-5)
    features = torch.randn(12, 6, generator=torch.Generator().manual_seed(3))
    pairs, weight = published_hyperedges(features, section.edge_index, 3)
    assert pairs.tolist() == golden["pairs"]
    torch.testing.assert_close(weight, torch.tensor(golden["weight"])[:12], rtol=1e-5, atol=0)


# The hypergraph.


def points(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def share(values):
    total = sum(values)
    return [value / total if total else 0.0 for value in values]


@given(n=st.integers(2, 9), k=st.integers(1, 4), seed=st.integers(0, 99), data=st.data())
def test_published_association_is_the_largest_sum_of_adjacency_and_distance(n, k, seed, data):
    features = points(n, 3, seed)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    edges = data.draw(st.lists(st.sampled_from(pairs), unique=True))
    incidences, weight = published_hyperedges(features, torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T, k)
    expected, sums = [], []
    for i in range(n):
        adjacent = share([float((j, i) in edges) for j in range(n)])
        apart = share([float((features[i] - other).norm()) for other in features])
        score = [a + b for a, b in zip(adjacent, apart, strict=True)]
        largest = sorted(range(n), key=lambda j, score=score: -score[j])[: k + 1]
        expected += [(i, j) for j in largest]
        sums += [score[j] for j in largest]
    assert [tuple(pair) for pair in incidences.T.tolist()] == expected
    assert weight.tolist() == pytest.approx(sums[:n])


@given(n=st.integers(1, 9), k=st.integers(1, 4), seed=st.integers(0, 99))
def test_nearest_association_is_a_hyperedge_of_each_spot_and_its_nearest(n, k, seed):
    features, pos = points(n, 3, seed), points(n, 2, seed + 1)
    members = [set() for _ in range(n)]
    for member, hyperedge in nearest_hyperedges(features, pos, k).T.tolist():
        members[hyperedge].add(member)
    for i in range(n):
        near, alike = (share([float((x[i] - other).norm()) for other in x]) for x in (pos, features))
        others = sorted(set(range(n)) - {i}, key=lambda j, near=near, alike=alike: near[j] + alike[j])
        assert members[i] == {i, *others[:k]}


@pytest.mark.parametrize("association", ["published", "nearest"])
@torch.no_grad()
def test_hypergraph_convolutions_equal_their_dense_form(association):
    model = small_model(association=association, dropout_hypergraph=0.0).double()
    x, section = points(12, 16), draw_section()
    if association == "published":
        incidences, weight = published_hyperedges(x, section.edge_index, 3)
    else:
        incidences, weight = nearest_hyperedges(x, section.pos, 3), torch.ones(12, dtype=torch.float64)
    incident = torch.zeros(12, 12, dtype=torch.float64)
    incident[incidences[0], incidences[1]] = 1
    of_node = (incident @ weight).reciprocal()
    of_hyperedge = incident.sum(dim=0).reciprocal().nan_to_num(posinf=0)
    mixing = of_node[:, None] * incident @ (of_hyperedge[:, None] * incident.T)
    module = model.hypergraph
    first = mixing @ x @ module.first.lin.weight.T + module.first.bias
    hidden = F.layer_norm(first.relu(), (8,), module.norm.weight, module.norm.bias)
    expected = mixing @ hidden @ module.second.lin.weight.T + module.second.bias + x
    torch.testing.assert_close(module(x, section.edge_index, section.pos), expected)


# The whole.


def small_model(seed=1, **switches):
    return draw_weights(HGGEP(HGGEPConfig(**SMALL | switches), SIDE * SIDE * 3, N_GENES), seed)


@torch.no_grad()
def test_hidden_units_are_dropped_in_prediction_alike_every_time_unless_repaired():
    section = draw_section()
    dropped, whole = small_model(), small_model(dropout_in_prediction=False)
    torch.manual_seed(5)
    first = dropped.predict(section)
    torch.manual_seed(6)
    assert torch.equal(dropped.predict(section), first)
    torch.testing.assert_close(whole.predict(section), small_model(dropout_hypergraph=0.0).predict(section))
    assert (whole.predict(section) - first).abs().max() > 1e-3
    units = dropped.hypergraph._drop(torch.ones(200, 50))
    assert set(units.unique().tolist()) == {0.0, 2.0}
    assert float(units.mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("association", "follows"), [("published", False), ("nearest", True)])
@torch.no_grad()
def test_prediction_follows_the_order_of_spots_where_hyperedges_have_no_others_weights(association, follows):
    section, model = draw_section(), small_model(association=association, dropout_in_prediction=False)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    place = torch.empty_like(order)
    place[order] = torch.arange(12)
    values = {name: section[name][order] for name in ("x", "array", "pos")}
    shuffled = Data(**values, edge_index=place[section.edge_index], section="S1", num_nodes=12)
    assert torch.allclose(model.predict(shuffled), model.predict(section)[order], rtol=1e-4, atol=1e-5) is follows


@torch.no_grad()
def test_pixels_positions_and_edges_are_read():
    section, model = draw_section(), small_model()
    predicted = model.predict(section)
    for name, other in (
        ("x", section.x.flip(1)),
        ("array", section.array.flip(1)),
        ("edge_index", section.edge_index[:, ::3]),
    ):
        changed = section.clone()
        changed[name] = other
        assert (model.predict(changed) - predicted).abs().max() > 1e-4, name


@torch.no_grad()
def test_a_spot_without_edges_is_predicted():
    section = draw_section()
    section.edge_index = section.edge_index[:, (section.edge_index != 0).all(dim=0)]
    assert torch.isfinite(small_model().predict(section)).all()


@torch.no_grad()
def test_losses_are_those_of_the_seeds_and_weighed():
    section = draw_section()
    section.seeds = torch.tensor([7, 2, 4])
    model = small_model(detach_prediction=False)
    torch.manual_seed(0)
    losses = model.losses(section)
    predicted = model.predict(section)[section.seeds]
    torch.testing.assert_close(losses["regression"], (predicted - section.y[section.seeds]).square().mean())
    torch.manual_seed(0)
    joint = model._predict_from_views(model._images(section), section)
    torch.testing.assert_close(losses["distillation"], (joint - predicted).square().mean())
    total = losses["regression"] + 0.25 * losses["likelihood"] + 0.5 * losses["distillation"]
    torch.testing.assert_close(losses["loss"], total)
    alone = small_model(n_views=0, weight_likelihood=0).losses(section)
    assert set(alone) == {"loss", "regression"}


@torch.no_grad()
def test_likelihood_is_relative_to_the_median_depth_of_the_section():
    section, model = draw_section(), small_model()
    section.counts[0] = 0  # an empty spot
    section.seeds = torch.tensor([0, 5])
    depth = section.counts.sum(dim=1)
    middle = depth.sort().values[5:7].mean()
    embedded = model.embed(model._images(section), section)[section.seeds]
    mean = model.mean(embedded).exp() * (depth[section.seeds] / middle)[:, None]
    expected = zero_inflated_negative_binomial_nll(
        section.counts[section.seeds],
        mean.clamp_min(1e-8),
        F.softplus(model.dispersion(embedded)).log(),
        model.zeros(embedded),
    )
    torch.testing.assert_close(model.losses(section)["likelihood"], expected.mean())


@pytest.mark.parametrize("switches", [{}, {"views_apart": True, "detach_prediction": True, "border": False}])
def test_every_weight_learns_and_the_loss_falls(switches):
    section, model = draw_section(), small_model(**switches).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = model.losses(section)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    unread = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert not unread


@torch.no_grad()
def test_no_gene_value_reaches_the_prediction():
    section, model = draw_section(), small_model()
    predicted = model.predict(section)
    section.y, section.counts = section.y + 1, section.counts + 2
    assert torch.equal(model.predict(section), predicted)
    del section.y, section.counts
    assert torch.equal(model.predict(section), predicted)


def test_published_sizes():
    config = Config.parse({"model": {"name": "hggep"}}).model
    with torch.device("meta"):
        model = HGGEP(config, 112 * 112 * 3, 785)
        maps = model.trunk(torch.empty(2, 3, 112, 112))
    assert [tuple(m.shape[1:]) for m in maps] == [(192, 4, 4), (1024, 4, 4), (1024, 1, 1)]
    assert [refine[2].out_channels for refine in model.refine] == [64, 64, 1024]
    assert model.receptive_hops is None
    assert model.needs == {"array"}


def test_bad_settings_and_inputs_are_refused():
    with pytest.raises(ConfigError, match="encoder gives 100 features"):
        HGGEP(HGGEPConfig(**SMALL), 100, N_GENES)
    with pytest.raises(ConfigError, match=r"width=18 .* multiple of 4"):
        HGGEP(HGGEPConfig(**SMALL | {"width": 18}), SIDE * SIDE * 3, N_GENES)
    encoder = PatchEncoder(torch.nn.Flatten(), [0.5] * 3, [0.2] * 3, 12)
    with pytest.raises(ConfigError, match=r"finetune"):
        HGGEP(HGGEPConfig(**SMALL), 12, N_GENES, encoder)
    for wrong, message in (({"blocks": [1]}, "two sizes more"), ({"channels": [4, 7, 8, 8, 8]}, "give even")):
        with pytest.raises(ConfigError, match=message):
            Config.parse({"model": {"name": "hggep", **SMALL, **wrong}})
    section, model = draw_section(), small_model(n_positions=3)
    for ask in (model.check, model.predict):
        with pytest.raises(DataError, match="section 'S1': array positions reach 3"):
            ask(section)
