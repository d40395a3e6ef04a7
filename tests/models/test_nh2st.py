from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nh2st_graph import ConfigError, ModelError
from nh2st_graph.models import NH2ST, NH2STOutputs, _nh2st, _original

from .drawn import in_order_of_names

GOLDEN = Path(__file__).parent / "golden" / "nh2st.json"
EMBEDDINGS = ("image_spot", "gene_spot", "image_neighbourhood", "gene_neighbourhood")
WAYS = [
    {"contrast_on": "attended"},
    {"contrast_on": "independent"},
    {"contrast_on": "attended", "cross_context": "neighbourhood"},
]


# The authors' numbers. Weights and inputs are drawn as they were for golden/nh2st.json: weights in the order of their
# sorted names in the authors' code from seed 1, then patches, genes and regions from seed 2.


def _draw_section(n_spots=16, n_genes=20):
    """Patches of 7 by 7 plain squares, genes, and for each spot a region: itself and eight others, ascending."""
    generator = torch.Generator().manual_seed(2)
    patches = torch.randn((n_spots, 3, 7, 7), generator=generator)
    genes = torch.randn((n_spots, n_genes), generator=generator).abs()
    regions = []
    for spot in range(n_spots):
        order = torch.randperm(n_spots, generator=generator)
        regions.append(torch.cat([torch.tensor([spot]), order[order != spot][:8]]).sort().values)
    return patches.repeat_interleave(32, dim=2).repeat_interleave(32, dim=3), genes, torch.stack(regions)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def published(golden):
    """The full-size model with the weights of the golden numbers."""
    return NH2ST.from_original(in_order_of_names(golden["shapes"])).eval()


def _check(outputs, golden):
    for name, values in golden["outputs"].items():
        expected = torch.tensor(values)
        found = outputs.predicted if name == "decoded" else getattr(outputs, name)
        found = found[:, ::16] if name in EMBEDDINGS else found
        # Relative to what is typical of an output: all are of the order of 1, single numbers may be near 0.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.std()), msg=name)


@torch.no_grad()
def test_literal_form_gives_the_authors_numbers(published, golden):
    patches, genes, regions = _draw_section()
    outputs = published(patches[:3], genes[:3], patches[regions[:3]], genes[regions[:3]])
    _check(outputs, golden)
    losses = {name: float(loss) for name, loss in published.losses(outputs, genes[:3]).items()}
    assert losses == pytest.approx(golden["losses"], rel=1e-5)


@torch.no_grad()
def test_graph_form_gives_the_authors_numbers(published, golden):
    patches, genes, regions = _draw_section()
    edge_index = torch.stack([regions.flatten(), torch.arange(len(regions)).repeat_interleave(9)])
    outputs = NH2STOutputs(*[output[:3] for output in published.on_graph(patches, genes, edge_index)])
    _check(outputs, golden)
    losses = {name: float(loss) for name, loss in published.losses(outputs, genes[:3]).items()}
    assert losses == pytest.approx(golden["losses"], rel=1e-5)


# The two forms, and what enters the prediction. A small model: patches are flattened features of 3 x 4 x 4.


def _small(n_genes=7, **settings):
    torch.manual_seed(0)
    sizes = {"width": 16, "heads": 2, "hidden": 12, "decoder_hidden": 8, "encoder": nn.Flatten(), "n_features": 48}
    return NH2ST(n_genes, **(sizes | settings)).double().eval()


def _section(n_spots=12, n_senders=5, n_genes=7, seed=0):
    """Patches, genes, regions of equal size with the spot itself first, and the edges that say the same."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(n_spots, 3, 4, 4, generator=generator, dtype=torch.float64)
    genes = torch.rand(n_spots, n_genes, generator=generator, dtype=torch.float64)
    steps = torch.arange(n_senders + 1)
    regions = (torch.arange(n_spots)[:, None] + steps) % n_spots
    receivers = torch.arange(n_spots).repeat_interleave(n_senders)
    return patches, genes, regions, torch.stack([regions[:, 1:].flatten(), receivers])


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("n_senders", [1, 5])
def test_literal_and_graph_form_agree(settings, n_senders):
    model = _small(**settings)
    patches, genes, regions, edges = _section(n_senders=n_senders)
    literal = model(patches, genes, patches[regions], genes[regions])
    graph = model.on_graph(patches, genes, edges)
    for a, b in zip(literal, graph, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_they_agree_behind_the_real_encoder():
    torch.manual_seed(0)
    model = NH2ST(7, width=16, heads=2, hidden=12, n_features=512).eval()
    patches, genes, regions, edges = _section()
    patches, genes = F.interpolate(patches.float(), scale_factor=8), genes.float()
    literal = model(patches, genes, patches[regions], genes[regions])
    for a, b in zip(literal, model.on_graph(patches, genes, edges), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert torch.equal(literal.predicted, model.predict(patches))


@pytest.mark.parametrize("settings", WAYS)
def test_the_prediction_does_not_move_when_genes_or_neighbours_change(settings):
    model = _small(**settings)
    patches, genes, regions, edges = _section()
    alone = model.predict(patches)
    for outputs in (
        model(patches, genes, patches[regions], genes[regions]),
        model(patches, -9 * genes, 3 + patches[regions], genes[regions].flip(0)),
        model.on_graph(patches, genes, edges),
        model.on_graph(patches, genes.flip(0), edges.flip(0)),
    ):
        assert torch.equal(outputs.predicted, alone)


def test_one_spot_without_neighbours():
    model = _small()
    patches, genes, *_ = _section(n_spots=1, n_senders=0)
    outputs = model.on_graph(patches, genes, torch.empty(2, 0, dtype=torch.long))
    assert [tuple(output.shape) for output in outputs] == [(1, 16)] * 4 + [(1, 7)]
    literal = model(patches, genes, patches[None], genes[None])
    for a, b in zip(literal, outputs, strict=True):
        torch.testing.assert_close(a, b)
    assert float(model.losses(outputs, genes)["contrast_spot"].detach()) == 0


# The switches


def _moves(model, changed):
    """Which outputs change when something about the section does."""
    patches, genes, _, edges = _section()
    before, after = model.on_graph(patches, genes, edges), model.on_graph(*changed(patches, genes), edges)
    return {name for name, a, b in zip(before._fields, before, after, strict=True) if not torch.equal(a, b)}


@pytest.mark.parametrize("settings", WAYS)
def test_embeddings_have_seen_the_other_modality_unless_independent(settings):
    model = _small(**settings)
    image, gene = {"image_spot", "image_neighbourhood"}, {"gene_spot", "gene_neighbourhood"}
    by_genes = _moves(model, lambda patches, genes: (patches, genes.square()))
    by_images = _moves(model, lambda patches, genes: (1.1 * patches, genes))  # scaled: hyperedges stay
    if settings["contrast_on"] == "independent":
        assert by_genes == gene
        assert by_images == image | {"predicted"}
    else:
        assert by_genes == image | gene
        assert by_images == image | gene | {"predicted"}


def test_in_a_neighbourhood_context_a_spot_reads_its_neighbours():
    first = torch.zeros(12, 1, dtype=torch.float64)
    first[1] = 1.0  # spot 1 is in the region of spot 0, but not spot 0 itself
    patches, genes, _, edges = _section(n_senders=1)
    for context, reads in (("single", False), ("neighbourhood", True)):
        model = _small(cross_context=context)
        before, after = (model.on_graph(patches, g, edges).image_spot[0] for g in (genes, genes + first))
        assert torch.equal(before, after) is not reads


def test_the_published_decoder_is_linear():
    patches = _section()[0]
    a, b, zero = patches[:4], patches[4:8], torch.zeros_like(patches[:4])
    for activation, linear in ((False, True), (True, False)):
        predict = _small(decoder_activation=activation).predict
        assert torch.allclose(predict(a + b) + predict(zero), predict(a) + predict(b)) is linear


# Losses


@pytest.mark.parametrize("negative_weight", [0.1, 1.0])
def test_losses_equal_a_loop(negative_weight):
    model = _small(negative_weight=negative_weight, temperature=0.3, weight_spot=2.0, weight_neighbourhood=0.25)
    patches, genes, _, edges = _section()
    outputs = model.on_graph(patches, genes, edges)

    def contrast(image, gene):
        total = 0.0
        for i in range(len(image)):
            logits = [
                (1.0 if i == j else negative_weight) * F.cosine_similarity(image[i], gene[j], dim=0) / 0.3
                for j in range(len(gene))
            ]
            total = total - torch.log_softmax(torch.stack(logits), dim=0)[i]
        return total / len(image)

    losses = model.losses(outputs, genes)
    torch.testing.assert_close(losses["contrast_spot"], contrast(outputs.image_spot, outputs.gene_spot))
    torch.testing.assert_close(
        losses["contrast_neighbourhood"], contrast(outputs.image_neighbourhood, outputs.gene_neighbourhood)
    )
    torch.testing.assert_close(losses["regression"], (outputs.predicted - genes).square().mean())
    torch.testing.assert_close(
        losses["loss"],
        losses["regression"] + 2.0 * losses["contrast_spot"] + 0.25 * losses["contrast_neighbourhood"],
    )


@pytest.mark.parametrize(("negative_weight", "cost"), [(0.1, math.log(1 + 7 * math.exp(-18))), (1.0, math.log(8))])
def test_equal_embeddings_cost_nothing_as_published_and_chance_as_usual(negative_weight, cost):
    model, same = _small(negative_weight=negative_weight), torch.ones(8, 16, dtype=torch.float64)
    outputs = NH2STOutputs(same, same, same, same, same)
    assert float(model.losses(outputs, same)["contrast_spot"]) == pytest.approx(cost, rel=1e-6)


@pytest.mark.parametrize("settings", WAYS)
def test_every_weight_learns(settings):
    model = _small(**settings).train()
    patches, genes, _, edges = _section()
    model.losses(model.on_graph(patches, genes, edges), genes)["loss"].backward()
    idle = {name for name, weight in model.named_parameters() if weight.grad is None or weight.grad.abs().max() < 1e-12}
    over_one_key = settings == {"contrast_on": "attended"}
    assert idle == ({f"cross.layers.{i}.query.weight" for i in range(2)} if over_one_key else set())


# The authors' weights


@pytest.fixture(scope="module")
def original():
    """A model on patches of 64 pixels, and its weights in the authors' names and order of columns."""
    torch.manual_seed(0)
    model = NH2ST(7, width=16, heads=2, hidden=12, depth=3, mlp_ratio=1.5, decoder_hidden=8, n_features=2048).eval()
    weights = {
        _original._original_name(name, _nh2st._ORIGINAL_NAMES): weight for name, weight in model.state_dict().items()
    }
    weights["fc.weight"] = weights["fc.weight"].unflatten(1, (512, 4)).transpose(1, 2).flatten(start_dim=1)
    return model, weights


def test_sizes_are_read_off_the_weights(original):
    model, weights = original
    patches = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    again = NH2ST.from_original(weights, heads=2).eval()
    assert len(again.cross.layers) == 3
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    assert torch.equal(again.predict(patches), model.predict(patches))


def test_names_in_the_authors_code_are_all_known(golden, original):
    left_out = {
        f"{head}.{part}"
        for head in ("fc_target", "fc_neighbor", "fc_nuclei", "fc_global")
        for part in ("weight", "bias")
    }
    deeper = {name for name in original[1] if ".layers.2." in name}
    assert set(golden["shapes"]) == (set(original[1]) - deeper) | left_out


def test_what_is_left_out_is_logged(original, caplog):
    heads = {"fc_target.weight": torch.zeros(7, 16), "fc_global.bias": torch.zeros(7)}
    with caplog.at_level(logging.INFO, logger="nh2st_graph"):
        NH2ST.from_original(original[1] | heads, heads=2)
    assert caplog.messages == ["NH2ST from the authors' weights, without fc_global.bias, fc_target.weight"]


def test_independent_embeddings_need_no_cross_attention(original, caplog):
    with caplog.at_level(logging.INFO, logger="nh2st_graph"):
        assert NH2ST.from_original(original[1], contrast_on="independent").cross is None
    assert "without cross_encoder.fusion_layer.layers.0.0.fn.to_kv.weight, " in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "fc.weight",
        "exp_encoder.0.weight",
        "target_encoder.4.0.bn1.running_mean",
        "neighbor_exp_encoder.layer2.conv.bias",
        "cross_encoder.fusion_layer.layers.1.0.fn.to_kv.weight",
    ],
)
def test_a_weight_that_is_missing_is_named(original, name):
    weights = {key: weight for key, weight in original[1].items() if key != name}
    with pytest.raises(ModelError, match=f"the weights have no '{name}'; give the state_dict"):
        NH2ST.from_original(weights, heads=2)


def test_a_weight_that_is_unknown_is_named(original):
    with pytest.raises(
        ModelError, match=r"hold 'global_encoder\.norm\.weight', which the authors' NH2ST does not have"
    ):
        NH2ST.from_original(original[1] | {"global_encoder.norm.weight": torch.zeros(1)}, heads=2)


def test_a_weight_of_the_wrong_shape_is_named(original):
    weights = original[1] | {"exp_encoder.1.weight": torch.zeros(3, 3)}
    with pytest.raises(ModelError, match=r"not of one NH2ST: .*gene_encoder\.1\.weight"):
        NH2ST.from_original(weights, heads=2)


def test_maps_of_another_encoder_are_refused(original):
    weights = original[1] | {"fc.weight": torch.zeros(16, 2049)}
    with pytest.raises(ModelError, match=r"not of one NH2ST: 'fc\.weight' reads 2049 numbers"):
        NH2ST.from_original(weights, heads=2)


def test_a_lightning_checkpoint_holds_the_weights(original):
    model, weights = original
    again = NH2ST.from_original({"state_dict": weights, "epoch": 3}, heads=2)
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in again.state_dict().items())


@pytest.mark.parametrize(("argument", "value"), [("contrast_on", "attend"), ("cross_context", "neighborhood")])
def test_an_unknown_switch_is_refused(argument, value):
    with pytest.raises(ConfigError, match=f"NH2ST: {argument}='{value}' is unknown; did you mean '"):
        _small(**{argument: value})


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"heads=3 .* width 16"):
        _small(heads=3)
