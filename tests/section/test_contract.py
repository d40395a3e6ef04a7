from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import sparse

from nh2st_graph import DataError, ImageError
from nh2st_graph.section import array_positions, check_section, library, section_name


def _section(n: int = 4, counts: np.ndarray | None = None, source: str = "") -> AnnData:
    counts = np.arange(n * 3).reshape(n, 3) if counts is None else counts
    names = [f"C6_{i}x1" for i in range(n)]
    adata = AnnData(
        X=sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(
            {"section": pd.Categorical(["C6"] * n, ["C6"]), "patient": pd.Categorical(["C"] * n, ["C"])},
            names,
        ),
        obsm={"spatial": np.column_stack([np.arange(n) * 10.0, np.full(n, 5.0)])},
    )
    adata.uns["spatial"] = {"C6": {"metadata": {"source_image_path": source, "microns_per_pixel": 0.7}}}
    return adata


@pytest.fixture
def section(tmp_path):
    path = tmp_path / "scan.png"
    Image.new("RGB", (40, 20)).save(path)
    return _section(source=str(path))


def test_a_good_section_passes_and_comes_back(section):
    section.obsp["spatial_connectivities"] = section.obsp["spatial_distances"] = sparse.eye(4, format="csr")
    section.obsm["X_image"] = np.ones((4, 2), np.float32)
    assert check_section(section) is section
    assert check_section(section, need=("genes", "image", "graph", "features")) is section


def test_it_changes_nothing(section):
    before = section.copy()
    check_section(section, need=("genes", "image"))
    np.testing.assert_array_equal(before.X.toarray(), section.X.toarray())
    np.testing.assert_array_equal(before.obsm["spatial"], section.obsm["spatial"])
    pd.testing.assert_frame_equal(before.obs, section.obs)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_counts_of_any_type_and_form(section, dtype, form):
    section.X = form(section.X.toarray().astype(dtype))
    assert check_section(section, need=("genes",)) is section


@given(hnp.arrays(np.float32, (3, 2), elements=st.floats(-3, 9, width=16)))
def test_counts_pass_exactly_where_they_are_non_negative_integers(counts):
    good = bool((counts >= 0).all() and (counts % 1 == 0).all())
    adata = _section(3, counts)
    if good:
        check_section(adata, need=("genes",))
    else:
        with pytest.raises(DataError, match=r"'C6': X has (negative counts|counts that are not integers)"):
            check_section(adata, need=("genes",))


def test_a_section_without_genes_is_fine_until_they_are_needed(section):
    image_only = section[:, :0].copy()
    check_section(image_only, need=("image",))
    with pytest.raises(DataError, match="'C6': no genes"):
        check_section(image_only, need=("genes",))


def test_one_spot_and_isolated_spots_are_sections(section):
    section.obsp["spatial_connectivities"] = section.obsp["spatial_distances"] = sparse.csr_matrix((4, 4))
    check_section(section, need=("graph",))
    check_section(section[:1].copy(), need=("genes", "image", "graph"))


def _set(place: str, key: str, value):
    return lambda a: getattr(a, place).__setitem__(key, value)


def _metadata(key, value):
    return lambda a: a.uns["spatial"]["C6"]["metadata"].__setitem__(key, value)


def _spatial(value):
    def spoil(adata):
        adata.obsm["spatial"][2, 1] = value

    return spoil


def _array(rows, columns):
    def spoil(adata):
        adata.obs["array_row"], adata.obs["array_col"] = list(rows), list(columns)

    return spoil


def _counts(values):
    def spoil(adata):
        # AnnData would refuse some of these; files of others hold them all the same.
        if hasattr(adata, "_X"):
            adata._X = values
        else:  # anndata from 0.13 on
            adata.X = values

    return spoil


BROKEN = {
    "no name": (lambda a: a.obs.pop("section"), (), r"obs\['section'\] is missing"),
    "no patient": (lambda a: a.obs.pop("patient"), (), r"'C6': obs\['patient'\] is missing"),
    "two sections": (_set("obs", "section", ["C5", "C6"] * 2), (), r"it holds 2 \(C5, C6\)"),
    "plain patient": (_set("obs", "patient", ["C"] * 4), (), r"obs\['patient'\] must be categorical"),
    "spots twice": (
        lambda a: setattr(a, "obs_names", list("abca")),
        (),
        "spot name 'a' occurs more than once",
    ),
    "genes twice": (lambda a: setattr(a, "var_names", list("ABA")), ("genes",), "gene 'A' occurs more than once"),
    "no positions": (lambda a: a.obsm.pop("spatial"), (), r"obsm\['spatial'\] is missing"),
    "three axes": (_set("obsm", "spatial", np.ones((4, 3))), (), r"shape \(4, 3\), expected \(4, 2\)"),
    "text positions": (_set("obsm", "spatial", np.full((4, 2), "1")), (), "not numbers; give x, y"),
    "NaN": (
        _spatial(np.nan),
        (),
        r"1 spots have coordinates that are not numbers, or beyond any image \(first: 'C6_2x1'\)",
    ),
    "infinite": (_spatial(np.inf), (), "coordinates that are not numbers"),
    "far away": (_spatial(1e30), (), r"beyond any image \(first: 'C6_2x1'\)"),
    "sparse positions": (_set("obsm", "spatial", sparse.csr_matrix(np.ones((4, 2)))), (), "is a sparse matrix"),
    "array far away": (_array(range(4), [0, 1, 2, 10**15]), (), r"array_col'\].*'C6_3x1' has 1000000000000000"),
    "array between positions": (
        _array([0, 1, 19.05, 3], range(4)),
        (),
        r"'C6': obs\['array_row'\] of 1 spots is not a whole number \(first: 'C6_2x1' has 19\.05\); .* del adata\.obs",
    ),
    "array position missing": (_array(range(4), [np.nan, 1, 2, 3]), (), r"array_col'\].*'C6_0x1' has nan"),
    "array position infinite": (_array([0, 1, 2, np.inf], range(4)), (), r"array_row'\].*'C6_3x1' has inf"),
    "array position in words": (_array(range(4), ["0", "A1", "2", "3"]), (), r"array_col'\].*'C6_1x1' has A1"),
    "NaN counts": (lambda a: a.X.data.__setitem__(0, np.nan), ("genes",), "X has counts that are not numbers"),
    "text as counts": (_counts(np.full((4, 3), "1", dtype=object)), ("genes",), "X holds object, not real numbers"),
    "complex counts": (_counts(np.full((4, 3), 1 + 2j)), ("genes",), "X holds complex128, not real numbers"),
    "dates as counts": (_counts(np.full((4, 3), "2020", "M8[D]")), ("genes",), "X holds datetime64"),
    "a huge count": (
        lambda a: a.X.data.__setitem__(0, 1e30),
        ("genes",),
        r"X has a count of 1e\+30.*2,147,483,648 reads",
    ),
    "no library": (lambda a: a.uns.pop("spatial"), ("image",), "has 0 libraries, expected 1"),
    "two libraries": (
        lambda a: a.uns.update(spatial={"A": {}, "B": {}}),
        ("image",),
        "has 2 libraries, expected 1; keep its own: one named 'C6'",
    ),
    "no scale": (_metadata("microns_per_pixel", None), ("image",), "'microns_per_pixel'. is None"),
    "scale zero": (_metadata("microns_per_pixel", 0.0), ("image",), "'microns_per_pixel'. is 0.0"),
    "scale NaN": (_metadata("microns_per_pixel", np.nan), ("image",), "'microns_per_pixel'. is nan"),
    "scale text": (_metadata("microns_per_pixel", "0.5"), ("image",), "'microns_per_pixel'. is '0.5'"),
    "no graph": (lambda a: None, ("graph",), r"run ng\.gr\.spatial_graph\(adata\) first"),
    "no features": (
        lambda a: None,
        ("features",),
        r"\(there: spatial\); run ng\.im\.features\(adata\) first",
    ),
    "NaN features": (
        _set("obsm", "X_image", np.full((4, 2), np.nan)),
        ("features",),
        r"obsm\['X_image'\] has values that are not numbers",
    ),
}


@pytest.mark.filterwarnings("ignore:(Variable|Observation) names are not unique")
@pytest.mark.parametrize("case", BROKEN)
def test_broken_contract_says_what_and_where(section, case):
    spoil, need, message = BROKEN[case]
    spoil(section)
    with pytest.raises(DataError, match=message) as caught:
        check_section(section, need=need)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [("y", "x"), ("Y", "X"), ("imagerow", "imagecol"), ("pxl_row", "pxl_col")])
def test_positions_in_a_table_are_x_and_y_in_this_order(section, names):
    spatial = section.obsm["spatial"].copy()
    for turned in (names, names[::-1]):
        section.obsm["spatial"] = pd.DataFrame(spatial, index=section.obs_names, columns=turned)
        if turned == names:
            with pytest.raises(DataError, match=f"'{names[0].lower()}' and '{names[1].lower()}'.* put x first"):
                check_section(section)
        else:
            np.testing.assert_array_equal(np.asarray(check_section(section).obsm["spatial"]), spatial)
    section.obsm["spatial"] = pd.DataFrame(spatial, index=section.obs_names, columns=["xy_1", "xy_2"])
    check_section(section)


def test_an_empty_section_has_no_spots(section):
    with pytest.raises(DataError, match="section 'C6': no spots"):
        check_section(section[:0].copy())


class TestImage:
    @pytest.mark.parametrize("path", [5, 1.5, ["a.png", "b.png"], np.array(["a.png", "b.png"]), {"a": 1}, b"a.png"])
    def test_path_is_no_text(self, section, path):
        library(section).metadata["source_image_path"] = path
        with pytest.raises(ImageError, match=r"'C6': metadata\['source_image_path'\] is .*, not text"):
            check_section(section, need=("image",))

    def test_path_missing(self, section):
        library(section).metadata["source_image_path"] = ""
        with pytest.raises(ImageError, match=r"'source_image_path'. is missing"):
            check_section(section, need=("image",))

    @pytest.mark.parametrize("part", ["metadata", "images", "scalefactors"])
    @pytest.mark.parametrize("value", [3, "text", [1], np.ones(3), None])
    def test_parts_of_the_entry_are_no_mappings(self, section, part, value):
        section.uns["spatial"]["C6"][part] = value
        if part == "metadata":
            with pytest.raises(ImageError, match=r"'C6': metadata.'source_image_path'. is missing"):
                check_section(section, need=("image",))
        else:
            check_section(section, need=("image",))

    def test_file_missing(self, section, tmp_path):
        library(section).metadata["source_image_path"] = str(tmp_path / "gone.png")
        with pytest.raises(ImageError, match=r"gone\.png does not exist"):
            check_section(section, need=("image",))

    @pytest.mark.parametrize(
        ("x", "y", "inside"),
        [(0, 0, True), (39.9, 19.9, True), (40, 5, False), (5, 20, False), (-0.1, 5, False), (5, -1, False)],
    )
    def test_spots_outside(self, section, x, y, inside):
        section.obsm["spatial"][1] = x, y
        if inside:
            check_section(section, need=("image",))
        else:
            with pytest.raises(ImageError, match=r"1 of 4 spots lie outside .*\(40 x 20 px; first: 'C6_1x1' at"):
                check_section(section, need=("image",))

    def test_is_not_opened_unless_needed(self, section, tmp_path):
        library(section).metadata["source_image_path"] = str(tmp_path / "gone.png")
        check_section(section, need=("genes",))


def test_section_name_and_library(section):
    assert section_name(section) == "C6"
    assert library(section).entry is section.uns["spatial"]["C6"]


@pytest.mark.parametrize(
    "form",
    [
        lambda whole: whole,
        lambda whole: whole.astype(np.float32),
        lambda whole: whole.astype(str).astype(object),
        lambda whole: pd.array(whole, dtype="Int64"),
        pd.Categorical,
    ],
    ids=["integers", "floats", "text", "nullable", "categories"],
)
def test_array_positions_are_whole_numbers_however_they_are_kept(section, form):
    rows, columns = np.array([7, 0, 3, 3]), np.array([2, 9, 4, 5])
    section.obs["array_row"], section.obs["array_col"] = form(rows), form(columns)
    found = array_positions(check_section(section))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, np.column_stack([columns, rows]))


def test_a_section_without_array_positions_has_no_array(section):
    assert array_positions(section) is None
    _array(range(4), range(4))(section)
    section.obs["array_row"] = np.nan  # as joining it with sections that have an array leaves it
    assert array_positions(check_section(section)) is None
    del section.obs["array_row"]
    assert array_positions(check_section(section)) is None
