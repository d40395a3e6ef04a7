from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph import ModelError
from nh2st_graph.models import EGN
from nh2st_graph.models._exemplars import exemplars_of_training, nearest_others
from nh2st_graph.nn import one_minus_pearson

N_FEATURES, N_GENES = 4, 5


def _points(n, seed):
    return torch.randn(n, N_FEATURES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(sizes=st.lists(st.integers(2, 6), min_size=1, max_size=4), k=st.integers(1, 5), seed=st.integers(0, 99))
def test_exemplars_are_the_nearest_of_other_sections_or_of_other_spots(sizes, k, seed):
    keys = [_points(n, seed + 7 * i) for i, n in enumerate(sizes)]
    joined = torch.cat(keys)
    owner = [i for i, n in enumerate(sizes) for _ in range(n)]
    found = exemplars_of_training(keys, k, "euclidean")
    for i, part in enumerate(found):
        start = sum(sizes[:i])
        for spot, exemplars in enumerate(part.tolist()):
            allowed = [j for j in range(len(joined)) if (owner[j] != i if len(sizes) > 1 else j != start + spot)]
            distance = (joined - joined[start + spot]).norm(dim=1)
            assert exemplars == sorted(allowed, key=lambda j: float(distance[j]))[:k]


def test_a_point_is_not_among_its_others_where_many_lie_in_its_place():
    points = torch.cat([torch.zeros(6, 2), torch.ones(2, 2)])
    others = nearest_others(points, 3)
    assert others.shape == (8, 3)
    assert not (others == torch.arange(8)[:, None]).any()
    assert (others[:6] < 6).all()
    assert others[6, 0] == 7
    assert nearest_others(points[:2], 3).tolist() == [[1], [0]]


# The class, by EGN on features without places.


def _section(n=9, seed=0, name="C3"):
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(n, N_GENES, generator=generator)
    y[:, 4] = 2.0
    return Data(
        x=torch.randn(n, N_FEATURES, generator=generator),
        y=3 * y - 1,
        edge_index=torch.empty(2, 0, dtype=torch.long),
        seeds=torch.arange(n),
        section=name,
        num_nodes=n,
    )


def _model(sections=(), seed=0, **switches):
    torch.manual_seed(seed)
    settings = {"input": "features", "tokens": 1, "width": 8, "depth": 2, "heads": 2, "head_width": 4, "hidden": 8}
    model = EGN(EGN.Settings(**(settings | {"bridge_heads": 2, "bridge_width": 3, "k": 3} | switches)), 4, N_GENES)
    if sections:
        model.prepare(sections)
    return model.eval()


def test_the_bank_is_all_training_spots():
    sections = [_section(), _section(7, 1, "C4")]
    memory = _model(sections).memory
    assert torch.equal(memory["keys"], torch.cat([section.x for section in sections]))
    assert torch.equal(memory["expression"], torch.cat([section.y for section in sections]))


def test_losses_are_of_targets_between_0_and_1_on_the_seeds():
    sections = [_section(), _section(7, 1, "C4")]
    model = _model(sections, weight_correlation=0.3)
    section = sections[1]
    section.seeds = torch.tensor([5, 0, 2])
    losses = model.losses(section)
    joined = torch.cat([each.y for each in sections])
    scaled = (section.y - joined.amin(0)) / (joined.amax(0) - joined.amin(0) + 1e-8)
    assert float(scaled.min()) >= 0
    assert float(scaled.max()) <= 1
    found = exemplars_of_training([each.x for each in sections], 3, "euclidean")[1]
    estimated = model.estimate(section, found, section.seeds)
    torch.testing.assert_close(losses["regression"], F.mse_loss(estimated, scaled[[5, 0, 2]]))
    torch.testing.assert_close(losses["correlation"], one_minus_pearson(estimated, scaled[[5, 0, 2]]))
    torch.testing.assert_close(losses["loss"], losses["regression"] + 0.3 * losses["correlation"])


def test_training_never_reads_a_spots_own_section_or_itself():
    sections = [_section(), _section(7, 1, "C4")]
    model = _model(sections)
    expected = model.losses(sections[0])["loss"]
    model.memory["expression"][:9] += 1.0
    assert torch.equal(model.losses(sections[0])["loss"], expected)
    assert not torch.equal(model.losses(sections[1])["loss"], _model(sections).losses(sections[1])["loss"])
    alone = _model(sections[:1])
    sections[0].seeds = torch.tensor([4])
    expected = alone.losses(sections[0])["loss"]
    alone.memory["expression"][4] += 1.0
    assert torch.equal(alone.losses(sections[0])["loss"], expected)


@torch.no_grad()
def test_predictions_are_on_the_scale_of_the_targets():
    sections = [_section(), _section(7, 1, "C4")]
    model, other = _model(sections), _section(6, 2, "C6")
    joined = torch.cat([section.y for section in sections])
    _, found = torch.cdist(other.x, model.memory["keys"]).topk(3, largest=False)
    scaled = model.estimate(other, found, torch.arange(6))
    spread = joined.amax(0) - joined.amin(0)
    torch.testing.assert_close(model.predict(other), scaled * spread + joined.amin(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.predict(other)[:, 4], torch.full((6,), 5.0))  # a constant gene


@torch.no_grad()
def test_weights_and_memory_are_enough_to_predict():
    model, other = _model([_section(), _section(7, 1, "C4")]), _section(6, 2, "C6")
    again = _model(seed=9)
    again.load_state_dict(model.state_dict())
    again.memory = dict(model.memory)
    assert torch.equal(again.predict(other), model.predict(other))


def test_what_is_missing_is_said():
    with pytest.raises(ModelError, match="EGN has no exemplars; call prepare"):
        _model().predict(_section())
    with pytest.raises(ModelError, match="section 'C9' has no exemplars; call prepare"):
        _model([_section()]).losses(_section(name="C9"))


@torch.no_grad()
@pytest.mark.parametrize("similarity", ["euclidean", "cosine"])
def test_fewer_training_spots_than_exemplars(similarity):
    model = _model([_section(3), _section(2, 1, "C4")], k=9, similarity=similarity)
    assert model.predict(_section(4, 2)).isfinite().all()
    assert float(model.losses(_section(3))["loss"]) > 0
