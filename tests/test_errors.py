"""Errors have one base, name settings in the words of who reads them, and say what is nearest to an unknown name."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import nh2st_graph as ng
from nh2st_graph import _errors
from nh2st_graph._errors import nearest, reason, setting
from nh2st_graph.section import check_section, panel_counts, targets

PACKAGE = Path(ng.__file__).parent
KNOWN = ["grid", "knn", "radius", "delaunay"]

#: A flag of the command line, and a dotted key of a configuration.
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
KEY = re.compile(r"(?<![\w.])(data|features|graph|model|train|evaluate)\.[a-z_]\w*")


def test_every_error_has_the_one_base_and_is_public():
    for name, kind in vars(_errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert issubclass(kind, (ng.NH2STGraphError, Warning))
            assert getattr(ng, name) is kind
            assert kind.__doc__


def test_a_image_is_data_too():
    assert issubclass(ng.ImageError, ng.DataError)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("cannot\n  be read\t"), "cannot be read"),
        (KeyError(), "KeyError"),
        (OSError("x" * 300), "x" * 200),
    ],
)
def test_reason_is_one_line(error, says):
    assert reason(error) == says


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gird", "did you mean 'grid'?"),
        ("raduis", "did you mean 'radius'?"),
        ("GRID?", "known: delaunay, grid, knn, radius"),
        ("", "known: delaunay, grid, knn, radius"),
    ],
)
def test_nearest(name, says):
    assert nearest(name, KNOWN) == says


def test_several_are_given_nearest_first_up_to_a_number():
    names = ["S1", "S2", "S3", "S4"]
    assert nearest("S5", names, n=2).count(" or ") == 1
    assert nearest("train.max_epoch", ["train.max_epochs", "train.patience"]).startswith(
        "did you mean 'train.max_epochs'"
    )


def test_of_thousands_of_names_the_first_are_listed():
    said = nearest("#", [f"gene{i:05}" for i in range(20_000)])
    assert said.startswith("known: gene00000, gene00001, ")
    assert said.endswith(" and 19,940 more")


@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6))
def test_it_always_says_something_about_what_exists(name, known):
    said = nearest(name, known)
    assert said.startswith(("did you mean ", "known: "))
    assert any(each in said or repr(each) in said for each in known)


@given(st.sampled_from(KNOWN))
def test_a_known_name_is_its_own_nearest(name):
    assert nearest(name, KNOWN).startswith(f"did you mean {name!r}")


class TestSettings:
    """A message says the argument to a caller, the key to the author of a configuration, the flag to a shell."""

    @pytest.mark.parametrize(
        ("name", "value", "argument", "key", "flag"),
        [
            ("data.panel", None, "panel", "data.panel", "data.panel"),
            ("data.panel", "hvg:250", "panel='hvg:250'", "data.panel=hvg:250", "--set data.panel=hvg:250"),
            ("train.progress", False, "progress=False", "train.progress=false", "--set train.progress=false"),
            ("resume", True, "resume=True", "resume=True", "--resume"),
            ("features.check_placement", False, "check_placement=False", None, "--no-check-placement"),
            ("data.options.bin_um", 8, "bin_um=8", "data.options.bin_um=8", "--option bin_um=8"),
            ("data.options.table", "NAME", "table='NAME'", "data.options.table=NAME", "--table NAME"),
        ],
    )
    def test_are_named_for_the_reader(self, name, value, argument, key, flag):
        error = ng.DataError(f"give {setting(name, value)}, then again")
        flags = {"resume", "check_placement", "option", "table"}
        assert str(error) == error.at("argument") == f"give {argument}, then again"
        assert key is None or error.at("key") == f"give {key}, then again"
        assert error.at("flag", flags) == f"give {flag}, then again"

    def test_an_argument_may_have_another_name_than_the_key(self):
        error = ng.ConfigError(setting("data.test", argument="test_sections"))
        assert (str(error), error.at("key")) == ("test_sections", "data.test")

    def test_a_wrapped_error_keeps_its_settings(self):
        inner = ng.DataError(f"no scale; give {setting('data.options.microns_per_pixel', 0.5)}")
        outer = ng.DataError(f"slide.h5ad: {inner.args[0]}")
        assert outer.at("key") == "slide.h5ad: no scale; give data.options.microns_per_pixel=0.5"

    @given(st.text(max_size=20), st.sampled_from(["argument", "key", "flag"]))
    def test_text_without_settings_is_said_as_it_is(self, text, level):
        assert ng.DataError(text).at(level) == text


#: Rooms whose readers know keys and flags: those of the command line, of configurations and of studies.
SPEAK_OF_KEYS = {"cli", "config", "study"}


def raised_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string that stands in a ``raise`` or a message of the log, outside of ``setting(...)``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = [node for node in ast.walk(tree) if isinstance(node, ast.Raise) or is_logged(node)]
    for part in parts:
        yield from texts(part)


def is_logged(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in {"logger", "warnings"}
    )


def texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setting":
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    for child in ast.iter_child_nodes(node):
        yield from texts(child)


def library_files() -> list[Path]:
    files = sorted(PACKAGE.rglob("*.py"))
    return [path for path in files if path.relative_to(PACKAGE).parts[0] not in SPEAK_OF_KEYS]


def test_what_the_library_raises_and_logs_names_no_flag_and_no_key():
    found = [
        f"{path.relative_to(PACKAGE)}:{line} {text!r}"
        for path in library_files()
        for line, text in raised_texts(path)
        if FLAG.search(text) or KEY.search(text)
    ]
    assert not found, "name these by setting(...)"


@pytest.mark.parametrize("text", ["--set", "give --out DIR", "data.panel", "change train.max_epochs"])
def test_flags_and_keys_are_known_when_seen(text):
    assert FLAG.search(text) or KEY.search(text)


@pytest.mark.parametrize(
    "text", ["section 'A'", "a -- b", "well-kept", "ng.gr.spatial_graph", "img.data.attrs", "slide.tif", "the model."]
)
def test_other_words_are_no_flags_and_no_keys(text):
    assert not FLAG.search(text)
    assert not KEY.search(text)


class TestBadInput:
    """Library functions are called for real with what they cannot use."""

    @pytest.fixture
    def section(self, tmp_path) -> AnnData:
        """72 spots on a strip of tissue along x, and the genes A, B and C."""
        image = np.full((400, 400, 3), 245, np.uint8)
        image[80:120, 20:380] = (190, 110, 160)
        Image.fromarray(image).save(tmp_path / "slide.png")
        x, y = np.meshgrid(np.linspace(30, 370, 36), [90.0, 110.0])
        plain = AnnData(np.ones((72, 3), np.float32), obsm={"spatial": np.column_stack([x.ravel(), y.ravel()])})
        plain.var_names, plain.layers["scaled"] = list("ABC"), np.full((72, 3), 0.5)
        return ng.read.anndata_section(plain, tmp_path / "slide.png", 20.0, section="S", patient="P")

    @pytest.fixture(
        params=[
            ("data.missing_genes", lambda s, _: panel_counts(s, ["A", "B", "Z"])),
            ("data.smooth", lambda s, _: targets(s, ["A"], smooth="3x3")),
            ("data.normalize", lambda s, _: check_section(half(s), need=["genes"])),
            ("features.check_placement", lambda s, _: ng.im.check_placement(swapped(s))),
            (None, lambda s, _: ng.read.sections("visum", ".")),
            ("data.root", lambda s, path: ng.read.sections("visium", path / "gone")),
            ("data.format", lambda s, path: ng.read.sections("visium", path)),
            ("data.root", lambda s, path: ng.read.h5ad_section(path / "gone.h5ad")),
            ("data.options.bin", lambda s, path: ng.read.sections("visium_hd", path, bin=8)),
            ("data.options.bin_um", lambda s, path: ng.read.sections("visium_hd", path, bin_um="small")),
            ("data.options.microns_per_pixel", lambda s, path: ng.read.anndata_section(bare(s), path / "slide.png")),
            ("data.options.image", lambda s, _: ng.read.anndata_section(bare(s))),
            ("data.options.layer", lambda s, _: ng.read.anndata_section(s, layer="raw")),
            ("data.options.layer", lambda s, _: ng.read.anndata_section(half(s))),
            (None, lambda s, _: ng.tl.fit([s], model="nosuch")),
            (None, lambda s, _: ng.tl.fit([s], model="histogene", encoder="squidpy:summary", graph="none")),
        ],
        ids=lambda case: str(case[0]),
    )
    def case(self, request) -> tuple[str | None, Callable]:
        return request.param

    def test_is_refused_in_the_readers_words(self, case, section, tmp_path):
        key, call = case
        with pytest.raises(ng.NH2STGraphError) as caught:
            call(section, tmp_path)
        error = caught.value
        assert "\n" not in str(error)
        assert not FLAG.search(str(error))
        assert not KEY.search(str(error))
        assert not FLAG.search(error.at("key"))
        if key is not None:
            assert key in error.at("key")
            assert key.rpartition(".")[2] in error.at("flag")


def half(section: AnnData) -> AnnData:
    """Counts that are halves."""
    changed = section.copy()
    changed.X = changed.X * 0.5
    return changed


def swapped(section: AnnData) -> AnnData:
    changed = section.copy()
    changed.obsm["spatial"] = changed.obsm["spatial"][:, ::-1].copy()
    return changed


def bare(section: AnnData) -> AnnData:
    """Without what is said of the image."""
    changed = section.copy()
    changed.uns.clear()
    return changed


#: Public functions with one number that is none: in quotes, or below what it may be.
NUMBERS: dict[str, Callable[[AnnData, str], object]] = {
    "microns_per_pixel='0.5'": lambda section, image: ng.im.virtual_spots(image, microns_per_pixel="0.5"),
    "pitch_um='100'": lambda section, image: ng.im.virtual_spots(image, pitch_um="100"),
    "min_tissue='0.5'": lambda section, image: ng.im.virtual_spots(image, min_tissue="0.5"),
    "min_focus='0.2'": lambda section, image: ng.im.quality(section, min_focus="0.2"),
    "strength='0.1'": lambda section, image: ng.im.StainJitter(strength="0.1"),
    "batch_size='8'": lambda section, image: ng.im.features(section, batch_size="8"),
    "size_px='64'": lambda section, image: ng.im.patches(section, size_px="64"),
    "patch_um='64'": lambda section, image: ng.im.patches(section, patch_um="64"),
    "n_rings='1'": lambda section, image: ng.gr.spatial_graph(section, n_rings="1"),
    "n_neighs=0": lambda section, image: ng.gr.spatial_graph(section, n_neighs=0),
    "radius_um='100'": lambda section, image: ng.gr.spatial_graph(section, mode="radius", radius_um="100"),
    "k='10'": lambda section, image: ng.tl.retrieve(section, section, k="10"),
    "level='0.1'": lambda section, image: ng.tl.call(section, section.var_names[0], level="0.1"),
    "n='1'": lambda section, image: ng.pl.gene_maps(section, n="1"),
    "n_boot='9'": lambda section, image: ng.metrics.paired_bootstrap(section.to_df(), section.to_df(), n_boot="9"),
    "n_repeats=1.5": lambda section, image: ng.metrics.noise_ceiling(section.to_df(), np.log1p, n_repeats=1.5),
}


@pytest.mark.parametrize(("says", "call"), NUMBERS.items(), ids=NUMBERS)
def test_a_number_that_is_none_is_named(says, call, tiny_sections):
    section = tiny_sections["S3"]
    source = section.uns["spatial"]["S3"]["metadata"]["source_image_path"]
    with pytest.raises(ng.NH2STGraphError, match=re.escape(says)):
        call(section, source)


@pytest.mark.parametrize(
    ("room", "name", "now"),
    [("models", "Floor", "Baseline"), ("models", "make_floor", "make_baseline"), ("nn", "make_operator", "public")],
)
def test_earlier_names_give_the_object_with_a_warning(room, name, now):
    room = importlib.import_module(f"nh2st_graph.{room}")
    with pytest.warns(ng.RenamedWarning, match=rf"{name} .*{now}") as found:
        assert callable(getattr(room, name))
    assert found[0].filename == __file__
    assert name not in room.__all__


@pytest.mark.parametrize("name", ["models.ClosedForm", "nn.Rows", "study.cells", "tl.check_run", "config.flatten"])
def test_what_other_rooms_need_is_there_and_not_among_the_names_for_users(name):
    room, _, name = name.partition(".")
    room = importlib.import_module(f"nh2st_graph.{room}")
    assert hasattr(room, name)
    assert name not in room.__all__


@pytest.mark.parametrize("room", ["models", "nn"])
def test_a_room_has_no_other_names(room):
    with pytest.raises(AttributeError, match="nothing"):
        importlib.import_module(f"nh2st_graph.{room}").nothing  # noqa: B018
