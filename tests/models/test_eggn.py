from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph import ConfigError
from nh2st_graph.config import Config
from nh2st_graph.models import EGGN, find_method
from nh2st_graph.models._eggn import ExemplarConv

from .drawn import draw_weights

GOLDEN = Path(__file__).parent / "golden" / "eggn.json"
N_FEATURES, N_GENES = 4, 5
SMALL = {"k": 3, "n_close": 2, "width": 8, "depth": 2, "width_gate": 6}


@torch.no_grad()
def test_it_gives_the_authors_numbers():
    """Weights and inputs are drawn as they were for golden/eggn.json; that has every tenth of 250 genes."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    model = draw_weights(EGGN(EGGN.Settings(width=256, depth=2), 6, 250))
    generator = torch.Generator().manual_seed(2)
    x, keys, expression = (torch.randn(*shape, generator=generator) for shape in ((6, 6), (7, 6), (7, 250)))
    generator.manual_seed(3)
    place = torch.stack([torch.randperm(7, generator=generator)[:3] for _ in range(6)])
    edge_index = torch.stack([torch.randint(6, (9,), generator=generator) for _ in range(2)])
    close = torch.stack([torch.randint(7, (8,), generator=generator) for _ in range(2)])
    estimated = model(x, torch.cat([keys, expression.abs()], dim=1), place, edge_index, close)
    expected = torch.tensor(golden["estimated"])
    torch.testing.assert_close(estimated[:, ::10], expected, rtol=1e-5, atol=1e-5 * float(expected.std()))


def _points(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_exemplar_block_equals_its_formula_message_by_message():
    torch.manual_seed(0)
    conv = ExemplarConv(4, width_gate=6).double()
    for weight in conv.parameters():
        torch.nn.init.normal_(weight)
    spots, exemplars, values = _points(3, 4), _points(5, 4, seed=2), _points(5, 4, seed=3)
    place = torch.tensor([[0, 3], [3, 1], [1, 4]])
    told, told_back = conv(spots, exemplars, values, place)
    to_spots, to_exemplars = {}, {}
    for i, j in zip([0, 0, 1, 1, 2, 2], place.flatten().tolist(), strict=True):
        a, b = F.leaky_relu(conv.spot(spots[i]), 0.2), F.leaky_relu(conv.exemplar(exemplars[j]), 0.2)
        gates = conv.gate(F.leaky_relu(conv.compare(b) - conv.compare(a), 0.2)).sigmoid()
        c = conv.value(values[j])
        for which, parts, received in ((0, [b, c, a], to_spots), (1, [a, b, c], to_exemplars)):
            joined = torch.cat(parts)
            scaled = torch.stack([joined[n] * gates[6 * which + n // 2] for n in range(12)])
            received.setdefault((i, j)[which], []).append((scaled[:4] + scaled[4:8] + scaled[8:]) / 3)
    for i in range(3):
        torch.testing.assert_close(told[i], conv.to_spot(torch.stack(to_spots[i]).mean(dim=0)))
    for j in range(5):
        nothing = torch.zeros(4, dtype=torch.float64)  # exemplar 2 is none of these spots'
        mean = torch.stack(to_exemplars[j]).mean(dim=0) if j in to_exemplars else nothing
        torch.testing.assert_close(told_back[j], conv.to_exemplar(mean))


# The method.


def _section(n=9, seed=0, name="C3"):
    generator = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(n, N_FEATURES, generator=generator),
        y=torch.rand(n, N_GENES, generator=generator),
        edge_index=torch.stack([torch.arange(n), (torch.arange(n) + 1) % n]),
        seeds=torch.arange(n),
        section=name,
        num_nodes=n,
    )


def _model(**settings):
    torch.manual_seed(0)
    model = EGGN(EGGN.Settings(**(SMALL | settings)), N_FEATURES, N_GENES).eval()
    model.prepare([_section(), _section(7, 1, "C4")])
    return model


def test_the_published_settings():
    settings = Config.parse({"model": {"name": "eggn"}}).model
    assert find_method("eggn") is EGGN
    assert (settings.width, settings.depth, settings.k, settings.n_close) == (512, 4, 6, 3)
    assert settings.weight_correlation == 0.5
    assert _model().receptive_hops is None


@torch.no_grad()
def test_a_sections_graph_has_each_exemplar_once_and_its_nearest_by_features_and_genes():
    model, section = _model(), _section(6, 2, "C6")
    exemplars = torch.tensor([[9, 2, 15], [2, 4, 9], [15, 9, 0], [4, 2, 9], [0, 2, 4], [9, 4, 2]])
    given = {}
    model.register_forward_pre_hook(lambda _, inputs: given.update(enumerate(inputs)))
    model.estimate(section, exemplars, torch.arange(6))
    _, nodes, place, edge_index, close = given.values()
    numbers = [0, 2, 4, 9, 15]
    keys, expression = model.bank(torch.tensor(numbers))
    assert torch.equal(nodes, torch.cat([keys, expression], dim=1))
    assert [[numbers[p] for p in row] for row in place.tolist()] == exemplars.tolist()
    assert torch.equal(edge_index, section.edge_index)
    distance = torch.cdist(nodes, nodes).fill_diagonal_(torch.inf)
    expected = {(int(j), i) for i in range(5) for j in distance[i].topk(2, largest=False).indices}
    assert set(map(tuple, close.T.tolist())) == expected


@torch.no_grad()
def test_the_order_of_spots_decides_nothing():
    model, section = _model(), _section(8, 2, "C6")
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled = Data(x=section.x[order], edge_index=order.argsort()[section.edge_index])
    torch.testing.assert_close(model.predict(shuffled), model.predict(section)[order])


@torch.no_grad()
def test_spots_read_neighbours_by_edges_and_exemplars_by_their_genes():
    model, section = _model(depth=1), _section(8, 2, "C6")
    exemplars = torch.arange(8).unsqueeze(1)  # one of its own for each spot
    model.config = model.config.model_copy(update={"n_close": 1})

    def changed(estimated):
        return (model.estimate(section, exemplars, torch.arange(8)) - estimated).abs().amax(dim=1) > 1e-7

    estimated = model.estimate(section, exemplars, torch.arange(8))
    section.x[3] += 1
    assert changed(estimated).nonzero().flatten().tolist() == [3, 4]
    section.x[3] -= 1
    model.memory["expression"][5] += 0.5
    assert bool(changed(estimated)[5])


@torch.no_grad()
def test_values_are_the_exemplars_genes_or_the_last_units_of_their_embedding():
    section = _section(8, 2, "C6")
    place, close = torch.tensor([[0, 1]]).repeat(8, 1), torch.tensor([[0, 1], [1, 0]])
    nodes = torch.cat([section.x[:2], section.y[:2]], dim=1)
    given = {}
    for choice in ("hidden", "expression"):
        model = _model(exemplar_values=choice)
        model.values.register_forward_pre_hook(lambda _, inputs, choice=choice: given.update({choice: inputs[0]}))
        model(section.x, nodes, place, section.edge_index, close)
        hidden = model._embedded(model.exemplar(nodes))
    assert torch.equal(given["expression"], section.y[:2])
    torch.testing.assert_close(given["hidden"], hidden[:, -N_GENES:])
    assert _model(width=4, exemplar_values="hidden").predict(section).shape == (8, N_GENES)  # more genes than units


@torch.no_grad()
def test_genes_do_not_reach_the_prediction():
    model, section = _model(), _section(8, 2, "C6")
    changed = section.clone()
    changed.y = -7 * changed.y
    without = Data(**{key: value for key, value in section.to_dict().items() if key != "y"})
    for other in (changed, without):
        assert torch.equal(model.predict(other), model.predict(section))


def test_every_weight_learns():
    model = _model().train()
    losses = model.losses(_section())
    assert set(losses) == {"loss", *model.loss_parts}
    losses["loss"].backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_gates_that_do_not_divide_a_message_are_refused():
    with pytest.raises(ConfigError, match=r"model\.width_gate=128 does not divide three times model\.width=100"):
        Config.parse({"model": {"name": "eggn", "width": 100}})
