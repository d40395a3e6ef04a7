from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph import ConfigError, DataError, ModelError
from nh2st_graph.config import Config
from nh2st_graph.models import MclSTExp, find_method

from .drawn import in_order_of_names

GOLDEN = Path(__file__).parent / "golden" / "mclstexp.json"
N_FEATURES, N_GENES = 4, 5


# The authors' numbers. Weights and inputs are drawn as they were for golden/mclstexp.json: weights in the order of
# their sorted names in the authors' code from seed 1, then features, counts and array positions from seed 2.


def _draw_section(n_spots=12, n_features=12, n_genes=9, n_positions=10):
    generator = torch.Generator().manual_seed(2)
    features = torch.randn((n_spots, n_features), generator=generator)
    counts = torch.poisson(3 * torch.rand((n_spots, n_genes), generator=generator), generator=generator)
    place = torch.randperm(n_positions**2, generator=generator)[:n_spots]
    array = torch.stack([place % n_positions, place // n_positions], dim=1)
    return Data(
        x=features,
        y=counts.log1p(),
        array=array,
        seeds=torch.arange(n_spots),
        section="golden",
        num_nodes=n_spots,
    )


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def _check(found, values):
    expected = torch.tensor(values)
    # Relative to what is typical of them: all are of the order of 1, single numbers may be near 0.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.std()))


def _with_encoder(weights):
    return {f"module.{name}": weight for name, weight in weights.items()} | {
        "module.image_encoder.model.0.conv0.weight": torch.zeros(4, 3, 7, 7)
    }


@torch.no_grad()
@pytest.mark.parametrize("wrap", [dict, _with_encoder])
@pytest.mark.parametrize("sentence", ["batch", "section"])
def test_embeddings_and_losses_are_the_authors(golden, wrap, sentence):
    """The section of the golden numbers is one batch, so that both kinds of sentence are theirs."""
    weights, section = wrap(in_order_of_names(golden["shapes"])), _draw_section()
    for temperature, loss in golden["losses"].items():
        settings = {"heads": 2, "temperature": float(temperature), "sentence": sentence}
        model = MclSTExp.from_original(weights, **settings).eval()
        embeddings = model.embeddings(section)
        _check(embeddings["image"], golden["image"])
        _check(embeddings["gene"], golden["spot"])
        assert float(model.losses(section)["loss"]) == pytest.approx(loss, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_predictions_are_the_authors(golden, distance):
    model = MclSTExp.from_original(in_order_of_names(golden["shapes"]), heads=2, k=5, distance=distance).eval()
    section = _draw_section()
    model.remember([section])
    _check(model.predict(Data(x=section.x)), golden["predicted"][distance])


def test_settings_are_read_off_the_weights(golden):
    model = MclSTExp.from_original(in_order_of_names(golden["shapes"]), heads=2, k=600)
    expected = {"width": 16, "depth": 2, "heads": 2, "head_width": 4, "n_positions": 10, "k": 600}
    assert model.config == MclSTExp.Settings(**expected)
    assert (model.n_features, model.n_genes) == (12, 9)


@torch.no_grad()
def test_the_variant_without_a_transformer(golden):
    weights = {
        name: w for name, w in in_order_of_names(golden["shapes"]).items() if not name.startswith("spot_encoder")
    }
    model = MclSTExp.from_original(weights | {"image_ecode.model.0.conv0.weight": torch.zeros(4, 3, 7, 7)})
    section = _draw_section()
    words = section.y + weights["x_embed.weight"][section.array[:, 0]] + weights["y_embed.weight"][section.array[:, 1]]
    assert model.config.depth == 0
    torch.testing.assert_close(model.embeddings(section)["gene"], model.spot_projection(words))


def test_weights_of_something_else_are_refused(golden):
    weights = in_order_of_names(golden["shapes"])
    with pytest.raises(ModelError, match=r"hold 'pe_enc.weight', which the authors' mclSTExp does not have"):
        MclSTExp.from_original(weights | {"pe_enc.weight": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"not of one mclSTExp: .*positions\.y\.weight"):
        MclSTExp.from_original(weights | {"y_embed.weight": torch.zeros(9, 9)}, heads=2)
    with pytest.raises(ModelError, match=r"heads=7 .* 8 columns"):
        MclSTExp.from_original(weights, heads=7)
    with pytest.raises(ModelError, match=r"the weights have no 'x_embed\.weight'"):
        MclSTExp.from_original({name: weight for name, weight in weights.items() if name != "x_embed.weight"})
    with pytest.raises(ConfigError, match="from_original: unknown key"):
        MclSTExp.from_original(weights, top_k=5)


# Sentences, weights and positions, on a small model.


def _section(n_spots=9, seed=0, n_positions=6):
    generator = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(n_spots, N_FEATURES, generator=generator),
        y=torch.randn(n_spots, N_GENES, generator=generator).abs(),
        array=torch.randint(n_positions, (n_spots, 2), generator=generator),
        seeds=torch.arange(n_spots),
        section="small",
        num_nodes=n_spots,
    )


def _model(**switches):
    torch.manual_seed(0)
    small = {"width": 6, "heads": 2, "head_width": 3, "n_positions": 6, "bank_spots": 4, "k": 3}
    return MclSTExp(MclSTExp.Settings(**small | switches), N_FEATURES, N_GENES).eval()


def _alone(model, section, spots):
    """Embeddings of the genes of one sentence."""
    words = section.y + model.positions(section.array)
    return model.spot_projection(model.spot_encoder(words[spots]))


@torch.no_grad()
def test_the_bank_is_of_consecutive_spots_of_one_section():
    model, sections = _model(), [_section(9, 0), _section(3, 1)]
    model.remember(sections)
    sentences = [(0, slice(0, 4)), (0, slice(4, 8)), (0, slice(8, 9)), (1, slice(0, 3))]
    expected = torch.cat([_alone(model, sections[i], spots) for i, spots in sentences])
    torch.testing.assert_close(model.memory["keys"], expected)
    torch.testing.assert_close(model.memory["expression"], torch.cat([section.y for section in sections]))


@torch.no_grad()
def test_a_sentence_of_a_section_is_the_same_in_training_and_in_the_bank():
    model, section = _model(sentence="section"), _section()
    expected = _alone(model, section, slice(None))
    spots = torch.tensor([5, 2, 7])
    torch.testing.assert_close(model.embed_bank(section), expected)
    torch.testing.assert_close(model.embed_genes(section, spots), expected[spots])
    assert model.receptive_hops is None
    of_batch = _model()
    assert of_batch.receptive_hops == 0
    torch.testing.assert_close(of_batch.embed_genes(section, spots), _alone(of_batch, section, spots))
    assert (of_batch.embed_genes(section, spots) - expected[spots]).abs().max() > 1e-2


@torch.no_grad()
def test_the_contrast_equals_its_formula_spot_by_spot():
    p, q = (torch.randn(7, 6, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    costs = []
    for i in range(7):
        of_spot = [float(q[i] @ p[j]) / 2 for j in range(7)]
        of_image = [float(q[j] @ p[i]) / 2 for j in range(7)]
        for similarities in (of_spot, of_image):
            costs.append(math.log(sum(math.exp(s) for s in similarities)) - similarities[i])
    assert float(_model(temperature=2.0).contrast(p, q)) == pytest.approx(sum(costs) / 14, rel=1e-10)


@pytest.mark.parametrize(("distance", "order"), [("l1", 1), ("l2", 2)])
def test_weights_are_inverse_squares_and_a_spot_on_its_query_takes_all(distance, order):
    generator = torch.Generator().manual_seed(0)
    query, keys = (torch.randn(*shape, generator=generator) for shape in ((4, 1, 6), (4, 5, 6)))
    weigh = _model(distance=distance).averaging
    inverse = 1 / (keys - query).double().norm(p=order, dim=-1) ** 2
    torch.testing.assert_close(weigh(query, keys).double(), inverse / inverse.sum(1, keepdim=True), rtol=1e-5, atol=0)
    keys[:, 3] = query[:, 0]
    torch.testing.assert_close(weigh(query, keys), F.one_hot(torch.full((4,), 3), 5).float())


def test_positions_beyond_the_tables_are_refused_with_the_length_that_would_do():
    section = _section(n_positions=6)
    section.array[4, 1] = 7
    with pytest.raises(DataError, match=r"'small'.*reach 7,.* 6; give n_positions=8 "):
        _model().check(section)
    _model(n_positions=8).check(section)


def test_the_published_settings():
    config = Config.parse({"model": {"name": "mclstexp"}}).model
    assert find_method("mclstexp") is MclSTExp
    assert MclSTExp.needs == {"array"}
    assert (config.width, config.temperature, config.dropout, config.k) == (256, 1.0, 0.0, 200)
    with torch.device("meta"):
        model = MclSTExp(config, 1024, 785)
    assert model.positions.x.weight.shape == model.positions.y.weight.shape == (65536, 785)
    n_block = 785 * 3 * 512 + 512 * 785 + 785 + 2 * (785**2 + 785) + 4 * 785
    assert sum(weight.numel() for weight in model.spot_encoder.parameters()) == 2 * n_block
