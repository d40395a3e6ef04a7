from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph import ConfigError, DataError, ModelError
from nh2st_graph.config import Config
from nh2st_graph.models import HisToGene, find_method

from .drawn import in_order_of_names

GOLDEN = Path(__file__).parent / "golden" / "histogene.json"
N_GENES = 5


# The authors' numbers. Weights and inputs are drawn as they were for golden/histogene.json: weights in the order of
# their sorted names in the authors' code from seed 1, then images, array positions and counts from seed 2.


def _draw_section(n_spots=12, side=8, n_genes=6, n_positions=10):
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (n_spots, side, side, 3), generator=generator).float()
    place = torch.randperm(n_positions**2, generator=generator)[:n_spots]
    array = torch.stack([place % n_positions, place // n_positions], dim=1)
    counts = torch.poisson(3 * torch.rand((n_spots, n_genes), generator=generator), generator=generator)
    return Data(
        x=images.flatten(start_dim=1),
        array=array,
        y=counts.log1p(),
        seeds=torch.arange(n_spots),
        section="golden",
        num_nodes=n_spots,
    )


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@torch.no_grad()
@pytest.mark.parametrize(
    "wrap", [dict, lambda weights: {"state_dict": weights, "epoch": 99}], ids=["plain", "Lightning"]
)
def test_it_gives_the_authors_numbers(golden, wrap):
    model = HisToGene.from_original(wrap(in_order_of_names(golden["shapes"]))).eval()
    section = _draw_section()
    expected = torch.tensor(golden["predicted"])
    torch.testing.assert_close(model.predict(section), expected, rtol=1e-5, atol=1e-5 * float(expected.std()))
    assert float(model.losses(section)["loss"]) == pytest.approx(golden["loss"], rel=1e-5)


def test_settings_are_read_off_the_weights(golden):
    model = HisToGene.from_original(in_order_of_names(golden["shapes"]), dropout=0.3)
    assert model.config == HisToGene.Settings(width=24, depth=2, head_width=64, n_positions=10, dropout=0.3)
    assert (model.n_features, model.n_genes) == (8 * 8 * 3, 6)


def test_names_in_the_authors_code_are_all_known(golden, caplog):
    with caplog.at_level("INFO", "nh2st_graph"):
        model = HisToGene.from_original(in_order_of_names(golden["shapes"]))
    assert len(model.state_dict()) == len(golden["shapes"])
    assert not caplog.messages, "no weight is left out"


def test_the_defaults_have_the_authors_sizes():
    """As their tutorial prints them: 38.5 M, 67.2 M and (cut off) 806 K weights."""
    with torch.device("meta"):
        model = HisToGene(HisToGene.Settings(), 112 * 112 * 3, 785)
    sizes = [
        round(sum(weight.numel() for weight in part.parameters()) / 1000)
        for part in (model.patch_embedding, model.blocks, model.head)
    ]
    assert sizes == [38536, 67174, 807]
    assert model.positions.x.weight.shape == (64, 1024)


@pytest.mark.parametrize(
    "name",
    ["patch_embedding.weight", "x_embed.weight", "gene_head.1.weight", "vit.transformer.layers.1.1.fn.net.3.bias"],
)
def test_a_weight_that_is_missing_is_named(golden, name):
    weights = in_order_of_names(golden["shapes"])
    del weights[name]
    with pytest.raises(ModelError, match=f"the weights have no '{name}'; give the state_dict"):
        HisToGene.from_original(weights)


def test_weights_of_something_else_are_refused(golden):
    weights = in_order_of_names(golden["shapes"])
    with pytest.raises(ModelError, match=r"hold 'cls_token', which the authors' HisToGene does not have"):
        HisToGene.from_original(weights | {"cls_token": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"not of one HisToGene: .*positions\.y\.weight"):
        HisToGene.from_original(weights | {"y_embed.weight": torch.zeros(10, 3)})
    with pytest.raises(ModelError, match="reads 190 numbers, which are no square RGB patch"):
        HisToGene.from_original(weights | {"patch_embedding.weight": torch.zeros(24, 190)})
    with pytest.raises(ModelError, match=r"heads=7 .* 1024 columns"):
        HisToGene.from_original(weights, heads=7)
    with pytest.raises(ConfigError, match="from_original: unknown key"):
        HisToGene.from_original(weights, drop_out=0.2)


# The method. A small model on patches of 4 by 4 pixels.

SMALL = {"width": 8, "depth": 2, "heads": 2, "head_width": 4, "n_positions": 6}


def _model(n_features=48, seed=0, **settings):
    torch.manual_seed(seed)
    return HisToGene(HisToGene.Settings(**(SMALL | settings)), n_features, N_GENES).double().eval()


def _section(n_spots=9, side=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randint(0, 256, (n_spots, side * side * 3), generator=generator).double(),
        array=torch.randint(0, 6, (n_spots, 2), generator=generator),
        y=torch.rand(n_spots, N_GENES, generator=generator, dtype=torch.float64),
        edge_index=torch.empty(2, 0, dtype=torch.long),
        seeds=torch.arange(n_spots),
        section="C3",
        num_nodes=n_spots,
    )


def test_it_is_known_by_its_name():
    settings = Config.parse({"model": {"name": "histogene", "width": 32}}).model
    assert find_method("histogene") is HisToGene
    assert settings == HisToGene.Settings(width=32)
    assert HisToGene.needs == {"array"}
    assert _model().receptive_hops is None


def test_tokens_are_patches_and_positions_added_one_spot_at_a_time():
    model, section = _model(), _section()
    tokens = []
    for pixels, (x, y) in zip(section.x, section.array.tolist(), strict=True):
        linear = model.patch_embedding.weight @ pixels + model.patch_embedding.bias
        tokens.append(linear + model.positions.x.weight[x] + model.positions.y.weight[y])
    torch.testing.assert_close(model.predict(section), model.head(model.blocks(torch.stack(tokens))))


def test_spots_read_each_other_and_their_order_decides_nothing():
    model, section = _model(), _section()
    predicted = model.predict(section)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = Data(x=section.x[order], array=section.array[order], section="C3")
    torch.testing.assert_close(model.predict(shuffled), predicted[order])
    others = torch.arange(9) != 4
    moved = section.clone()
    moved.x = torch.where(others[:, None], section.x, 255 - section.x)
    assert (model.predict(moved) - predicted)[others].abs().amax(dim=1).min() > 1e-6


@pytest.mark.parametrize("which", [0, 1], ids=["column", "row"])
def test_positions_count(which):
    model, section = _model(), _section()
    moved = section.clone()
    moved.array[:, which] = (moved.array[:, which] + 1) % 6
    assert not torch.allclose(model.predict(moved), model.predict(section))


def test_genes_do_not_reach_the_prediction():
    model, section = _model(), _section()
    changed = section.clone()
    changed.y = -7 * changed.y
    without = Data(**{key: value for key, value in section.to_dict().items() if key != "y"})
    for other in (changed, without):
        assert torch.equal(model.predict(other), model.predict(section))


def test_the_loss_is_the_squared_error_on_the_seeds():
    model, section = _model(), _section()
    section.seeds = torch.tensor([6, 1, 3])
    losses = model.losses(section)
    assert set(losses) == {"loss", *model.loss_parts}
    assert set(losses) == {"loss", "regression"}
    expected = F.mse_loss(model.predict(section)[[6, 1, 3]], section.y[[6, 1, 3]])
    torch.testing.assert_close(losses["loss"], expected)


def test_every_weight_learns():
    model, section = _model(n_positions=6), _section(40)
    model.train().losses(section)["loss"].backward()
    assert [name for name, weight in model.named_parameters() if weight.grad.abs().max() < 1e-12] == []


def test_scaled_pixels_are_those_between_0_and_1():
    section = _section()
    scaled = _model(scale_pixels=True).predict(section)
    assert not torch.allclose(scaled, _model().predict(section))
    section.x = section.x / 255
    torch.testing.assert_close(scaled, _model().predict(section))


def test_positions_beyond_the_tables_are_refused_with_the_length_that_would_do():
    model, section = _model(), _section()
    section.array[2, 1] = 70
    for refuse in (model.check, model.predict):
        with pytest.raises(DataError, match=r"section 'C3': array positions reach 70, .* n_positions=71 or more"):
            refuse(section)
    assert _model(n_positions=71).predict(section).isfinite().all()
    section.array[2, 1] = -1
    with pytest.raises(DataError, match="section 'C3': array positions start at -1"):
        model.check(section)


def test_features_that_are_no_pixels_are_refused_unless_asked_for():
    with pytest.raises(ConfigError, match=r"encoder gives 50 features .*encoder='pixels:SIDE'"):
        _model(n_features=50)
    assert _model(n_features=50, input="features").patch_embedding.in_features == 50
    with pytest.raises(ConfigError, match=r"model\.scale_pixels=true .*model\.input=features"):
        Config.parse({"model": {"name": "histogene", "input": "features", "scale_pixels": True}})
