"""The graph form in every setting of its switches: what enters a prediction, what learns, and how far a spot hears."""

from __future__ import annotations

import inspect
import itertools
from functools import cache
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F
from torch_geometric.utils import scatter

from nh2st_graph.config import ModelConfig
from nh2st_graph.models import EMBEDDINGS, NH2STGraph
from nh2st_graph.models._contrast import scales
from nh2st_graph.models._same_depth import find_same_depth
from nh2st_graph.train import cut_out

OPERATORS = get_args(ModelConfig.model_fields["operator"].annotation)
N_GENES, WIDTH = 7, 8
IMAGES, GENES = (set(names) for names in zip(*EMBEDDINGS.values(), strict=True))

#: Values of the switches that are numbers; all of those of the others are drawn.
NUMBERS = {
    "width": (WIDTH,),
    "n_components": (3, 5),
    "depth_power": (0.0, 0.5),
    "n_hidden": (3, 5),
    "hops": (1, 2, 3),
    "heads": (1, 2, 4),
    "temperature": (0.05, 1.0),
    "negative_weight": (0.1, 1.0),
    "weight_spot": (0.0, 0.5),
    "weight_neighbourhood": (0.0, 0.5),
    "weight_cross": (0.0, 0.5),
    "dropout": (0.0, 0.3),
}


VALUES = {
    name: NUMBERS.get(name) or ((False, True) if field.annotation is bool else get_args(field.annotation))
    for name, field in ModelConfig.model_fields.items()
}


def taken(**values: object) -> bool:
    """Whether the configuration takes these values."""
    try:
        ModelConfig(**values)
    except ValidationError:
        return False
    return True


@cache
def together(*names: str, **given: object) -> st.SearchStrategy[dict[str, object]]:
    """Any values of some switches that the configuration takes together, beside those that are given."""
    every = (dict(zip(names, each, strict=True)) for each in itertools.product(*map(VALUES.__getitem__, names)))
    return st.sampled_from([values for values in every if taken(**given, **values)])


@st.composite
def configurations(draw) -> ModelConfig:
    """Any setting of any switch, but for those that the configuration refuses."""
    values = draw(together("query", "neighbours", "contrast", "decoder_input"))
    values = values | draw(together("operator", "edge_features", "hops", neighbours=values["neighbours"]))
    values |= draw(together("cross_attention", "contrast_on", contrast=values["contrast"]))
    values |= {name: draw(st.sampled_from(each), label=name) for name, each in VALUES.items() if name not in values}
    return ModelConfig(**values)


def predicted(model: NH2STGraph, section):
    return model(model.image_input(section), section.edge_index, section.edge_attr)


def ready(model: NH2STGraph, section, *others):
    """Give a section what the losses read beside it: negatives of its depth, of others or of itself."""
    if scales(model.config) and model.config.negatives == "depth":
        sections = [section, *others]
        spots, same_depth = find_same_depth(sections)
        parts = [each.clone() for each in sections]
        for part, seeds in zip(parts, spots, strict=True):
            part.seeds = seeds
        model.compare_with(parts)
        section.same_depth = same_depth[0]
    return section


# Any setting of any switch


def silent(config: ModelConfig) -> tuple[str, ...]:
    """What starts the names of weights that no loss reads, so that they rightly get no gradient.

    What is there for one loss alone falls silent where that loss weighs nothing.
    """
    contrasted = {"spot": config.query, "neighbourhood": config.neighbours} if config.contrast != "none" else {}
    contrasted = {scale for scale, on in contrasted.items() if on and config.contrast in ("both", scale)}
    spot = "spot" in contrasted and config.weight_spot > 0
    neighbourhood = "neighbourhood" in contrasted and config.weight_neighbourhood > 0
    filled_in = config.cross_attention == "neighbourhood" and config.weight_cross > 0
    attended = config.contrast_on == "attended"
    reads_neighbours = attended and config.cross_attention == "neighbourhood" and (spot or neighbourhood)
    around = "neighbourhood" in config.decoded or neighbourhood or filled_in
    own = "query" in config.decoded or spot or filled_in or reads_neighbours
    read = {
        # The published operator has the raw features.
        "image_encoder": own or (around and config.operator != "hypergraph_ego"),
        "image_neighbours": around,
        "gene_encoder": spot or neighbourhood or filled_in,
        "gene_neighbours": neighbourhood,
        "contrast.projections.p.": spot,
        "contrast.projections.q.": spot,
        "contrast.projections.P.": neighbourhood,
        "contrast.projections.Q.": neighbourhood,
        "contrast.log_temperature": spot or neighbourhood,
        "cross.p.": filled_in or (attended and spot),
        "cross.P.": filled_in or (attended and neighbourhood),
        "cross.q.": spot,
        "cross.Q.": neighbourhood,
        "cross_head": filled_in,
        "cross_single": spot or neighbourhood,
    }
    return tuple(name for name, is_read in read.items() if not is_read)


def over_one_key(name: str) -> bool:
    """Whether a weight asks where to look, in the published cross-attention that has one place to look at."""
    return name.startswith("cross_single") and name.endswith(".query.weight")


@given(config=configurations())
def test_losses_are_finite_and_every_weight_learns(config, model_of, section_of):
    section, other = section_of(14, isolated=1), section_of(10, seed=1)
    section.seeds = torch.arange(1, 14)
    still = {name for name, _ in model_of(config).named_parameters()}
    for seed in range(5):  # rectified units may all be off in one draw of the weights
        model = model_of(config, seed=seed).train()
        still &= without_gradient(config, model, ready(model, section, other))
        if not still:
            return
    pytest.fail(f"never learn: {still}")


def without_gradient(config: ModelConfig, model: NH2STGraph, section) -> set[str]:
    """Check a model's losses; name the weights that get no gradient although they should."""
    torch.manual_seed(0)
    losses = model.losses(section)
    assert set(losses) <= {"loss", *model.loss_parts}
    assert all(torch.isfinite(loss).all() for loss in losses.values())
    weights = {
        "regression": 1.0,
        "cross": config.weight_cross,
        "contrast_spot": config.weight_spot,
        "contrast_neighbourhood": config.weight_neighbourhood,
    }
    total = sum(weight * losses[name] for name, weight in weights.items() if name in losses)
    torch.testing.assert_close(losses["loss"], total)

    losses["loss"].backward()
    still = set()
    for name, weight in model.named_parameters():
        most = 0.0 if weight.grad is None else float(weight.grad.abs().max())
        assert weight.grad is None or torch.isfinite(weight.grad).all(), name
        if name.startswith(silent(config)) or over_one_key(name):
            assert most < 1e-12, name
        elif most == 0 and (config.regression != "pearson" or not name.endswith("bias")):  # r does not see a shift
            still.add(name)
    return still


@given(config=configurations())
def test_nothing_is_built_on_the_gene_side_that_no_loss_can_read(config):
    """The image side is there for the prediction, which may read one branch of two."""
    config = config.model_copy(update=dict.fromkeys(("weight_spot", "weight_neighbourhood", "weight_cross"), 1.0))
    with torch.device("meta"):
        model = NH2STGraph(config, 5, N_GENES)
    idle = {name.partition(".")[0] for name, _ in model.named_parameters() if name.startswith(silent(config))}
    assert idle <= {"image_encoder", "image_neighbours"}


@given(config=configurations(), seed=st.integers(0, 99))
def test_no_prediction_depends_on_a_gene_input(config, seed, model_of, section_of):
    section, other = section_of(10, isolated=1), section_of(10, seed=1 + seed)
    changed = section.clone()
    changed.y, changed.counts, changed.library = 5 * other.y, other.counts + 1, 2 * other.library
    model = model_of(config)
    before = predicted(model, section)
    assert before.expression.shape == (10, N_GENES)
    assert before.query.shape == before.neighbourhood.shape == (10, WIDTH)
    own, image = model.own_expression(before), model.embeddings(section)
    attention = model.attention(section.x, section.edge_index, section.edge_attr)

    model.train().losses(ready(model, changed, other))
    model.eval()
    after = predicted(model, changed)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(model.own_expression(after), own)
    unseen = changed.clone()
    del unseen.y, unseen.counts, unseen.library
    assert all(torch.equal(a, b) for a, b in zip(before, predicted(model, unseen), strict=True))
    for name in ("image", "image_neighbourhood"):
        assert torch.equal(model.embeddings(changed)[name], image[name])
        assert torch.equal(model.embeddings(unseen)[name], image[name])
    again = model.attention(changed.x, changed.edge_index, changed.edge_attr)
    assert (again is None and attention is None) or torch.equal(again, attention)


def test_there_is_no_way_in_for_genes():
    assert list(inspect.signature(NH2STGraph.forward).parameters) == ["self", "x", "edge_index", "edge_attr"]


@given(config=configurations())
def test_one_spot_alone_is_a_section(config, model_of, section_of):
    section = section_of(1)
    model = model_of(config)
    assert torch.isfinite(predicted(model, section).expression).all()
    losses = model.losses(ready(model, section))
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(losses[name] == 0 for name in losses if name.startswith("contrast"))
    losses["loss"].backward()
    assert all(weight.grad is None or torch.isfinite(weight.grad).all() for weight in model.parameters())


@given(config=configurations(), order=st.permutations(range(9)))
def test_the_order_of_spots_decides_nothing(config, order, model_of, section_of):
    section, order = section_of(9, isolated=1), torch.tensor(order)
    section.seeds = torch.tensor([0, 3, 8])
    moved = section.clone()
    moved.edge_index, moved.seeds = order.argsort()[section.edge_index], order.argsort()[section.seeds]
    for name in ("x", "y", "counts", "library"):
        moved[name] = section[name][order]
    model = model_of(config)
    for a, b in zip(predicted(model, section), predicted(model, moved), strict=True):
        torch.testing.assert_close(b, a[order])
    expected = model.losses(ready(model, section, section_of(12, seed=1)))
    for name, loss in model.losses(ready(model, moved, section_of(12, seed=1))).items():
        torch.testing.assert_close(loss, expected[name], msg=lambda text, name=name: f"{name}: {text}")


# Sections, and parts of them


def hops_of(operator: str) -> tuple[int, ...]:
    return (1,) if operator == "hypergraph_ego" else (1, 2, 3)


@pytest.mark.parametrize("operator", sorted({*OPERATORS} - {"global", "none", "hypergraph_ego"}))
def test_an_isolated_spot_is_predicted_from_itself(operator, model_of, section_of):
    section = section_of(9, isolated=1)
    model = model_of(operator=operator)
    side = predicted(model, section)
    assert side.neighbourhood[8].count_nonzero() == 0
    torch.testing.assert_close(side.expression[8], model.own_expression(side)[8])
    assert not torch.allclose(side.expression[:8], model.own_expression(side)[:8])


@pytest.mark.parametrize(
    ("cross", "contrast_on"), [("none", "independent"), ("single", "attended"), ("neighbourhood", "attended")]
)
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_cut_out_has_the_losses_of_the_whole_section(operator, cross, contrast_on, model_of, section_of):
    """With a halo of ``receptive_hops``, and with none that is narrower."""
    section = section_of(60, k=2, isolated=1)
    whole = section.clone()
    whole.seeds = seeds = torch.tensor([7, 31, 2])
    switches = {"operator": operator, "cross_attention": cross, "contrast_on": contrast_on}
    for hops in hops_of(operator):
        model = model_of(hops=hops, self_loops=hops == 2, **switches)
        halo, expected = model.receptive_hops, model.losses(whole)
        cut = model.losses(cut_out(section, seeds, halo))
        for name in expected:
            torch.testing.assert_close(cut[name], expected[name], rtol=1e-10, atol=1e-12, msg=f"{hops} hops: {name}")
        if halo:
            narrower = model.losses(cut_out(section, seeds, halo - 1))["loss"]
            assert not torch.isclose(narrower, expected["loss"], rtol=1e-8), f"{halo} hops are more than needed"


@pytest.mark.parametrize("negatives", ["section", "distant"])
@pytest.mark.parametrize(("contrast", "halo"), [("both", None), ("none", 1)])
def test_negatives_from_the_section_need_all_of_it_where_there_is_a_contrast(negatives, contrast, halo, model_of):
    assert model_of(negatives=negatives, contrast=contrast).receptive_hops == halo


@pytest.mark.parametrize("operator", OPERATORS)
def test_without_a_neighbour_branch_a_prediction_reads_its_spot_alone(operator, model_of, section_of):
    section = section_of(9)
    model = model_of(operator=operator, neighbours=False)
    side = predicted(model, section)
    assert side.neighbourhood.count_nonzero() == 0
    elsewhere = model(section.x, section.edge_index.flip(0)[:, :5], section.edge_attr[:5])
    assert torch.equal(elsewhere.expression, side.expression)
    encoder, head = model.image_encoder, model.decoder.heads[0].weight
    bent = F.gelu(F.layer_norm(section.x, (5,), *encoder.hidden[0].parameters()) @ encoder.hidden[1].weight.T
                  + encoder.hidden[1].bias)  # fmt: skip
    embedded = section.x @ encoder.linear.weight.T + encoder.linear.bias
    embedded = embedded + bent @ encoder.out.weight.T + encoder.out.bias
    scores = embedded @ head.T * model.decoder.scale
    torch.testing.assert_close(side.expression, model.decoder.mean + scores @ model.decoder.loadings)


# What is decoded, and what it costs


def test_each_decoder_input_reads_what_it_says(model_of, section_of):
    section = section_of(9)

    def reads(**switches):
        model = model_of(decoder="linear", **switches)
        side = predicted(model, section)
        own, around = side.query, side.neighbourhood
        hidden, out = model.decoder.hidden, model.decoder.out
        return model, side, own, around, lambda *h: out(hidden(torch.cat(h, dim=1)))

    for decoder_input, parts in {"query": ("own",), "neighbourhood": ("around",), "both": ("own", "around")}.items():
        _, side, own, around, decode = reads(decoder_input=decoder_input)
        torch.testing.assert_close(side.expression, decode(*({"own": own, "around": around}[part] for part in parts)))

    model, side, own, around, decode = reads(decoder_input="gated")
    share = torch.sigmoid(torch.cat([own, around], dim=1) @ model.gate.gate.weight.T + model.gate.gate.bias)
    torch.testing.assert_close(side.expression, decode(share * own + (1 - share) * around))

    for query, neighbours, the_same in ((True, True, "both"), (True, False, "query"), (False, True, "neighbourhood")):
        auto = reads(query=query, neighbours=neighbours)[1].expression
        named = reads(query=query, neighbours=neighbours, decoder_input=the_same)[1].expression
        assert torch.equal(auto, named)


@pytest.mark.parametrize("decoder", ["components", "linear", "mlp"])
@pytest.mark.parametrize("decoder_input", ["auto", "query", "neighbourhood", "both", "gated"])
@pytest.mark.parametrize("regression", ["mse", "nb"])
def test_own_expression_is_that_of_a_spot_without_neighbours(decoder, decoder_input, regression, model_of, section_of):
    section = section_of(9)
    model = model_of(decoder=decoder, decoder_input=decoder_input, regression=regression)
    side = predicted(model, section)
    alone = model(section.x, section.edge_index[:, :0], section.edge_attr[:0])
    torch.testing.assert_close(model.own_expression(side), alone.expression)
    assert torch.allclose(side.expression, alone.expression) is (decoder_input == "query")


def by_formula(model, section, expression):
    """The regression loss on the seeds, from its definition."""
    regression, seeds = model.config.regression, section.seeds
    predicted, observed = expression[seeds], section.y[seeds]
    if regression == "huber":
        error = (predicted - observed).abs()
        return torch.where(error < 1, error.square() / 2, error - 0.5).mean()
    if regression == "pearson":
        r = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(predicted.T, observed.T, strict=True)]
        return 1 - torch.stack(r).mean()
    if regression == "mse" and model.config.decoder == "components":
        scores, wanted = ((y - model.decoder.mean) @ model.decoder.loadings.T for y in (predicted, observed))
        return (scores - wanted).square().sum() / len(seeds) / model.decoder.scale**2 / model.decoder.total_variance
    if regression == "mse":
        return (predicted - observed).square().mean()
    theta, counts = model.log_dispersion.exp(), section.counts[seeds]
    mean = (section.library[seeds] * (predicted.exp() - 1) / 1e4).clamp_min(1e-8)
    likelihood = torch.distributions.NegativeBinomial(theta, probs=mean / (mean + theta)).log_prob(counts).exp()
    if regression == "zinb":
        extra = torch.sigmoid(model.extra_zeros)
        likelihood = extra * (counts == 0) + (1 - extra) * likelihood
    return -likelihood.log().mean()


@pytest.mark.parametrize("decoder", ["components", "linear", "mlp"])
@pytest.mark.parametrize("regression", ["mse", "huber", "pearson", "nb", "zinb"])
def test_each_regression_is_its_formula_on_the_seeds(regression, decoder, model_of, section_of):
    section = section_of(9)
    section.seeds = torch.tensor([1, 2, 5, 8])
    model = model_of(regression=regression, decoder=decoder, contrast="none", cross_attention="none")
    expression = predicted(model, section).expression
    losses = model.losses(section)
    torch.testing.assert_close(losses["regression"], by_formula(model, section, expression))
    assert losses["loss"] == losses["regression"]
    assert (expression > 0).all() or regression not in ("nb", "zinb")


# Between the modalities


@pytest.mark.parametrize("neighbours", [True, False])
def test_expression_is_filled_in_from_the_neighbours_genes(neighbours, model_of, section_of):
    """The loss, and that a spot's own genes are no input of it."""
    section = section_of(9)
    section.seeds = torch.tensor([3])
    model = model_of(neighbours=neighbours, contrast="none", weight_cross=0.5)
    losses = model.losses(section)
    pairs = model._section_pairs(section)[0]
    read = []
    for letter, name in {"p": "image", "P": "image_neighbourhood"}.items() if neighbours else [("p", "image")]:
        sender, receiver = section.edge_index
        layer = model.cross[letter]
        query, key = layer.query(pairs[name])[receiver].view(-1, 2, 4), layer.key(pairs["gene"])[sender].view(-1, 2, 4)
        weight = ((query * key).sum(dim=2) / 2).exp()
        weight = weight / scatter(weight, receiver, dim_size=9)[receiver]
        message = scatter(weight[..., None] * layer.value(pairs["gene"])[sender].view(-1, 2, 4), receiver, dim_size=9)
        read.append(pairs[name] + message.flatten(start_dim=1))
    wanted = model.decoder.gene_input(section.y[[3]])
    error = (model.cross_head(torch.cat(read, dim=1)[[3]]) - wanted).square().sum() / model.decoder.total_variance
    torch.testing.assert_close(losses["cross"], error)
    torch.testing.assert_close(losses["loss"], losses["regression"] + 0.5 * error)

    section.y.requires_grad_()
    filled = model._attend(*model._section_pairs(section))["image"][3]
    (gradient,) = torch.autograd.grad(filled.sum(), section.y)
    heard = gradient.abs().sum(dim=1).nonzero().flatten().tolist()
    assert heard == sorted(section.edge_index[0, section.edge_index[1] == 3].tolist())


@pytest.mark.parametrize(("contrast_on", "seen"), [("independent", False), ("attended", True)])
@pytest.mark.parametrize("cross", ["single", "neighbourhood"])
def test_only_attended_embeddings_have_seen_the_other_modality(cross, contrast_on, seen, model_of, section_of):
    """Where they have not, the contrast of image i and gene j moves with nothing else."""
    section = section_of(9)
    model = model_of(cross_attention=cross, contrast_on=contrast_on, projection=False, contrast="spot")
    asked = []
    model.contrast.register_forward_pre_hook(lambda _, given: asked.append(given[0]["image"].detach()))
    model.losses(section)
    section.y = section.y.flip(0)
    model.losses(section)
    assert torch.equal(*asked) is not seen


def test_alignment_is_retrieval_of_the_contrasted_pairs(model_of, section_of):
    section = section_of(25)
    model = model_of(contrast="both", projection=False)
    pairs = model.embeddings(section)
    for scale, (image, gene) in EMBEDDINGS.items():
        cosine = F.cosine_similarity(pairs[image][:, None], pairs[gene][None], dim=2)
        share = (cosine.argsort(dim=1, descending=True)[:, :10] == torch.arange(25)[:, None]).any(dim=1).double().mean()
        assert model.alignment(section)[f"retrieval_{scale}"] == pytest.approx(float(share))
    assert model_of(contrast="none").alignment(section) == {}
    assert set(model_of(contrast="spot").alignment(section)) == {"retrieval_spot"}


@pytest.mark.parametrize(
    ("switches", "names"),
    [
        ({}, IMAGES | GENES),
        ({"contrast": "none"}, IMAGES | GENES),
        ({"contrast": "none", "cross_attention": "none"}, IMAGES),
        ({"contrast": "none", "cross_attention": "single"}, IMAGES),
    ],
)
def test_gene_embeddings_are_there_where_a_loss_reads_them(switches, names, model_of, section_of):
    section = section_of(9)
    model = model_of(**switches)
    found = model.embeddings(section)
    assert set(found) == names
    assert model.reads_genes is ("gene" in names)
    assert all(embedding.shape == (9, WIDTH) for embedding in found.values())
    if switches.get("contrast") == "none" and "gene_neighbourhood" in found:
        assert found["gene_neighbourhood"].count_nonzero() == 0
    del section.y
    assert set(model.embeddings(section)) == IMAGES
