"""Names of timm's models, read without loading timm."""

from __future__ import annotations

import sys

import timm
from timm.models._registry import _deprecated_models, _model_with_tags

from nh2st_graph.im._timm_names import timm_has, timm_names, timm_says

KNOWN = {*timm.list_models(), *_deprecated_models}


def test_files_tell_what_timm_says_itself(monkeypatch):
    assert timm_names() == KNOWN
    assert all(map(timm_has, KNOWN))
    assert not timm_has("resnet1818")
    monkeypatch.delitem(sys.modules, "timm")
    assert timm_names() == KNOWN
    assert all(map(timm_has, KNOWN))
    assert not timm_has("resnet1818")


def test_every_tag_of_weights_stands_in_the_files():
    tags = {name.partition(".")[2] for names in _model_with_tags.values() for name in names} - {""}
    assert all(map(timm_says, tags))
    assert not timm_says("a9_in1k")
