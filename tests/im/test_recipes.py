"""The table of encoders: complete, and true of the networks that it builds."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest
import timm
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import nh2st_graph as ng
from nh2st_graph import ConfigError
from nh2st_graph.im import Recipe, recipes, register_recipe
from nh2st_graph.im._without_numbers import without_numbers

from ..examples import draws

RECIPES = recipes()
TRANSFORMERS = [name for name, each in RECIPES.items() if each.source == "transformers" and each.architecture]
TIMM = [name for name, each in RECIPES.items() if each.architecture and name not in TRANSFORMERS]
#: Those that only code of their authors builds.
OTHERS = {"conch", "conch-v1.5", "ctranspath", "genbio-pathfm", "keep"}

FACTS: dict[str, Any] = RECIPES["kaiko-s16"].model_dump(exclude={"name", "file", "also_um_per_px", "lazyslide"})


@cache
def built(architecture: str, arguments: str) -> torch.nn.Module:
    """Build a network of timm without memory: parameters of the ``meta`` device have shapes alone."""
    known = json.loads(arguments)
    for name in known:
        if name.endswith("_layer"):
            known[name] = getattr(timm.layers, known[name], None) or getattr(torch.nn, known[name])
    with without_numbers():
        network: torch.nn.Module = timm.create_model(architecture, pretrained=False, **known)
    return network


def millions(network: torch.nn.Module) -> float:
    return sum(each.numel() for each in network.parameters()) / 1e6


@pytest.mark.parametrize("name", TIMM)
def test_timm_builds_what_is_stated(name):
    recipe = RECIPES[name]
    network = built(recipe.architecture, json.dumps(recipe.arguments))
    size = network.num_features * (2 if recipe.pooling == "cls+mean" else 1)
    prefix = getattr(network, "num_prefix_tokens", 0)
    assert (size, prefix) == (recipe.embedding_size, recipe.prefix_tokens)
    assert millions(network) == pytest.approx(recipe.parameters, rel=0.02)
    if prefix:
        assert network.patch_embed.img_size == (recipe.input_size, recipe.input_size)
        assert getattr(network, "global_pool", None) == ("" if recipe.pooling == "cls+mean" else "token")


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_builds_what_is_stated(name):
    recipe = RECIPES[name]
    kind = getattr(transformers, recipe.architecture)
    config = kind.config_class(**recipe.arguments)
    assert set(recipe.arguments) <= set(config.to_dict())
    with without_numbers():
        network = kind(config)
    size = config.projection_dim if recipe.pooling == "model" else config.hidden_size
    assert size * (2 if recipe.pooling == "cls+mean" else 1) == recipe.embedding_size
    assert 1 + getattr(config, "num_register_tokens", 0) == recipe.prefix_tokens
    # ViT has a pooler besides, which Phikon is published without.
    pooler = millions(network.pooler) if recipe.architecture == "ViTModel" else 0
    assert millions(network) - pooler == pytest.approx(recipe.parameters, rel=0.02)


def test_the_others_have_no_network_here_and_lazyslides_name():
    others = set(RECIPES) - set(TIMM) - set(TRANSFORMERS)
    assert others == OTHERS
    assert all(RECIPES[name].lazyslide for name in others)


def test_names_and_facts_of_lazyslide_agree():
    """What both tables state is the same, but for those that the comments name."""
    from lazyslide_models import MODEL_REGISTRY

    differ = {"h-optimus-0", "midnight"}  # gates, of which others tell otherwise
    for name, recipe in RECIPES.items():
        if recipe.lazyslide is None:
            continue
        card = MODEL_REGISTRY[recipe.lazyslide]
        assert card.encode_dim == recipe.embedding_size, name
        assert bool(card.is_gated) == recipe.gated or name in differ, name
        assert bool(card.commercial) == recipe.commercial, name


def test_statistics_of_timms_own_weights():
    recipe = RECIPES["resnet50-imagenet"]
    config = timm.get_pretrained_cfg(recipe.location)
    assert (recipe.mean, recipe.std, recipe.interpolation) == (config.mean, config.std, config.interpolation)
    for name in ("efficientnet-lite0", "efficientnet-lite2"):
        recipe, config = RECIPES[name], timm.get_pretrained_cfg(RECIPES[name].architecture)
        assert (recipe.mean, recipe.std, recipe.interpolation) == (config.mean, config.std, config.interpolation)
        assert (3, recipe.input_size, recipe.input_size) == config.input_size


@pytest.mark.parametrize("name", RECIPES)
def test_facts_are_plausible(name):
    recipe = RECIPES[name]
    assert recipe.name == name == name.lower()
    assert recipe.access.startswith("https://")
    assert recipe.doi is None or re.fullmatch(r"10\.\d{4,5}/\S+", recipe.doi)
    assert all(0 < value < 1 for value in (*recipe.mean, *recipe.std))
    assert recipe.um_per_px not in recipe.also_um_per_px
    assert not (recipe.commercial and ("NC" in recipe.licence or "non-commercial" in recipe.licence.lower()))
    if recipe.source in {"hub", "transformers"}:
        assert recipe.location in recipe.access


def test_patches_have_the_field_of_their_authors():
    assert RECIPES["uni2-h"].patch_um == 112
    assert RECIPES["conch"].patch_um == 256
    assert RECIPES["gpfm"].patch_um == 128
    assert RECIPES["plip"].patch_um is None


@pytest.mark.usefixtures("own_recipes")
def test_a_registered_recipe_is_known():
    added = ng.im.register_recipe("our-vit", **FACTS)
    assert recipes()["our-vit"] == added == Recipe(name="our-vit", **FACTS)
    with pytest.warns(UserWarning, match="our-vit"):
        register_recipe("our-vit", **FACTS | {"um_per_px": 0.25})
    assert recipes()["our-vit"].patch_um == 56


@pytest.mark.usefixtures("own_recipes")
@draws(10)
@given(st.sets(st.sampled_from(sorted(FACTS)), min_size=1))
def test_every_missing_fact_is_named(left_out):
    with pytest.raises(ConfigError) as refused:
        register_recipe("our-vit", **{name: value for name, value in FACTS.items() if name not in left_out})
    message = str(refused.value)
    assert "\n" not in message
    assert set(re.findall(r"\w+", message.partition("lacks")[2])) >= left_out
    assert "our-vit" not in recipes()


@pytest.mark.usefixtures("own_recipes")
@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"license": "MIT"}, "license"),
        ({"std": (0.2, 0, 0.2)}, "std"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"um_per_px": float("inf")}, "um_per_px"),
        ({"pooling": "max"}, "pooling"),
        ({"prefix_tokens": 0}, "prefix_tokens"),
        ({"architecture": None}, "architecture"),
        ({"licence": None}, "licence"),
    ],
)
def test_wrong_facts_are_refused(wrong, named):
    with pytest.raises(ConfigError, match=named) as refused:
        register_recipe("our-vit", **FACTS | wrong)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("own_recipes")
@pytest.mark.parametrize("name", ["", "our:vit", "our,vit", "our@vit", "our vit", "our?vit", "../vit"])
def test_names_that_a_configuration_cannot_hold(name):
    with pytest.raises(ConfigError, match="name"):
        register_recipe(name, **FACTS)
