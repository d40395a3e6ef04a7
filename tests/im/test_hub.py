"""Errors of the hub, from the real libraries against a small hub of the test's own."""

from __future__ import annotations

import json
from unittest import mock

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from nh2st_graph import ConfigError
from nh2st_graph.im import make_encoders

from ..hub import Hub
from .small_recipes import FACTS, SWIGLU, model


def put(hub: Hub, repository: str, network: torch.nn.Module, config: dict | None = None) -> None:
    folder = hub.folder / repository
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))


def refused(name: str, message: str) -> None:
    with mock.patch("time.sleep") as slept, pytest.raises(ConfigError, match=message) as error:
        make_encoders(name, "cpu")
    assert "\n" not in str(error.value)
    # Not the time that it takes, which is that of a busy machine.
    assert sum(call.args[0] for call in slept.call_args_list) < 1, "asked again and again"


@pytest.mark.parametrize("kind", ["timm:hf-hub:", "hf:"])
def test_a_gated_repository_says_where_to_ask(kind, hub):
    refused(
        f"{kind}org/gated", r"org/gated is gated; ask for access at http://.*/org/gated, then log in by: hf auth login"
    )


def test_a_recipe_says_where_to_ask(hub, own_recipes):
    own_recipes("small", **FACTS | {"location": "org/gated"})
    for name in ("small", "timm:hf-hub:org/gated"):
        refused(name, r"org/gated is gated; ask for access at https://example.org/small, then .*@WEIGHTS")


@pytest.mark.parametrize("kind", ["timm:hf-hub:", "hf:"])
def test_a_repository_that_is_not_there(kind, hub):
    refused(f"{kind}org/nothing", "the hub has no repository org/nothing")


def test_access_that_is_refused(hub):
    hub.refused["org/private"] = (403, "")
    refused("timm:hf-hub:org/private", r"refuses org/private \(403\); ask for access")


def test_a_repository_without_weights(hub):
    (hub.folder / "org/empty").mkdir(parents=True)
    refused("timm:hf-hub:org/empty", "org/empty lacks a file")


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:hf-hub:org/small", "hf:org/small", "phikon", "uni"])
def test_no_network_is_said_at_once(name, hub):
    hub.stop()
    refused(name, r"not in .*hub-cache, and the hub http://127.0.0.1:.* does not answer \(.*\); connect")
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:hf-hub:org/small", "hf:org/small", "midnight"])
def test_the_switch_that_forbids_the_hub_is_named(name, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(name, "HF_HUB_OFFLINE forbids to ask the hub; unset it")
    assert not hub.asked


def test_a_recipe_loads_from_its_repository_and_then_from_the_cache(hub, own_recipes):
    own_recipes("small", **FACTS | {"arguments": SWIGLU, "prefix_tokens": 3, "input_size": 96, "file": "weights.bin"})
    import timm

    layers = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    (hub.folder / "org/small").mkdir(parents=True)
    torch.save(model(**(SWIGLU | layers)).state_dict(), hub.folder / "org/small/weights.bin")
    (first,) = make_encoders("small", "cpu")
    (second,) = make_encoders("timm:hf-hub:org/small", "cpu")
    assert first.fingerprint == second.fingerprint
    assert (second.um_per_px, second.input_size) == (0.5, 96)
    hub.stop()
    (again,) = make_encoders("small", "cpu")
    assert again.fingerprint == first.fingerprint


def test_weights_that_do_not_fit_are_no_matter_of_the_network(hub, own_recipes):
    own_recipes("small", **FACTS)
    put(hub, "org/small", model(embed_dim=32))
    refused("small", "org/small belongs to another model .*size mismatch")
    config = {"architecture": "test_vit", "num_classes": 0, "pretrained_cfg": {"num_classes": 0}}
    put(hub, "org/other", model(init_values=1e-5), config)
    refused("timm:hf-hub:org/other", "belongs to another model .*ls1.gamma.*; its authors build it")
