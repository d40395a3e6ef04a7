"""The reference has every room, and all that is public has a docstring. The pages themselves are built in CI."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import pytest

import nh2st_graph as ng

from .readme import ROOT

_ROOMS = [name for name in ng.__all__ if isinstance(getattr(ng, name), ModuleType)]


@pytest.mark.parametrize("room", _ROOMS)
def test_a_room_stands_in_the_reference_and_documents_its_names(room):
    page = (ROOT / "docs" / "api" / f"{room}.md").read_text(encoding="utf-8")
    assert f".. automodule:: nh2st_graph.{room}\n" in page
    assert re.search(rf"^{room}$", (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    public = {name: getattr(getattr(ng, room), name) for name in getattr(ng, room).__all__}
    documented = {name: each for name, each in public.items() if inspect.isclass(each) or inspect.isroutine(each)}
    assert documented
    assert [name for name, each in documented.items() if not inspect.getdoc(each)] == []


def test_every_page_has_a_place_in_the_contents():
    docs = ROOT / "docs"
    tutorials = {f"tutorials/{path.stem}" for path in (docs / "tutorials").glob("*.md")}
    listed = {*(docs / "index.md").read_text(encoding="utf-8").split()}
    assert len(tutorials) >= 6
    assert tutorials <= listed
