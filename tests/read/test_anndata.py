from __future__ import annotations

from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy import sparse

from nh2st_graph import DataError, ImageError
from nh2st_graph.gr import spatial_graph
from nh2st_graph.im import features, patches
from nh2st_graph.read import anndata_section, given_sections, section_names, sections
from nh2st_graph.section import check_section, library


@pytest.fixture
def plain():
    """What an analysis has: dense counts, whole-number positions, no names."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2)
    adata = AnnData(
        rng.poisson(2.0, (12, 5)).astype(np.float32),
        obs=pd.DataFrame({"total": 1.0}, index=[f"s{i}" for i in range(12)]),
        var=pd.DataFrame(index=list("ABCDE")),
        obsm={"spatial": 20 + 30 * grid},
    )
    adata.layers["log"] = np.log1p(adata.X)
    return adata


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "slide.png"
    Image.new("RGB", (200, 150)).save(path)
    return path


def with_metadata(adata, **metadata):
    adata.uns["spatial"] = {
        "lib": {"metadata": metadata, "scalefactors": {"spot_diameter_fullres": 11.0}, "images": {}}
    }
    return adata


def test_section_holds_what_was_given(plain, image):
    adata = anndata_section(plain, image, 0.5, section="S", patient="P")
    assert check_section(adata, need=("genes", "image")) is adata
    assert adata.X.format == "csr"
    np.testing.assert_array_equal(adata.X.toarray(), plain.X)
    np.testing.assert_array_equal(adata.obsm["spatial"], plain.obsm["spatial"])
    assert adata.obsm["spatial"].dtype == np.float64
    assert list(adata.obs_names) == list(plain.obs_names)
    assert (set(adata.obs["section"]), set(adata.obs["patient"])) == ({"S"}, {"P"})
    entry = library(adata).entry
    assert list(adata.uns["spatial"]) == ["S"]
    assert entry["metadata"] == {"source_image_path": str(image), "microns_per_pixel": 0.5}
    assert entry["scalefactors"]["spot_diameter_fullres"] == 15.0
    assert entry["images"]["hires"].shape == (150, 200, 3)
    assert "section" not in plain.obs
    assert not plain.uns


def test_a_file_with_its_image_beside_it(plain, tmp_path):
    with_metadata(plain, microns_per_pixel=0.4).write_h5ad(tmp_path / "T1.h5ad")
    Image.new("RGB", (200, 150)).save(tmp_path / "T1.tif")
    adata = anndata_section(tmp_path / "T1.h5ad")
    assert (set(adata.obs["section"]), set(adata.obs["patient"])) == ({"T1"}, {"unknown (T1)"})
    entry = library(adata).entry
    assert entry["metadata"] == {"source_image_path": str(tmp_path / "T1.tif"), "microns_per_pixel": 0.4}
    assert entry["scalefactors"]["spot_diameter_fullres"] == 11.0
    assert anndata_section(tmp_path / "T1.h5ad", microns_per_pixel=0.3).uns["spatial"]["T1"]["metadata"][
        "microns_per_pixel"
    ] == pytest.approx(0.3)


def test_the_image_that_the_file_names(plain, image, tmp_path):
    for named in (image.name, str(image)):
        with_metadata(plain, source_image_path=named, microns_per_pixel=1).write_h5ad(tmp_path / "T1.h5ad")
        assert library(anndata_section(tmp_path / "T1.h5ad")).source == str(image)


def test_counts_of_a_layer(plain, image):
    counts = plain.X.copy()
    plain.layers["counts"] = sparse.csc_matrix(counts)
    plain.X = plain.layers["log"]
    adata = anndata_section(plain, image, 0.5, layer="counts", section="S")
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    assert adata.X.format == "csr"
    with pytest.raises(DataError, match=r"not integers; name the layer with raw counts: layer='NAME' \(there: log, co"):
        anndata_section(plain, image, 0.5, section="S")
    with pytest.raises(DataError, match=r"no layer 'raw'; layer may be: log, counts"):
        anndata_section(plain, image, 0.5, layer="raw", section="S")


def test_names_in_obs_count_unless_others_are_given(plain, image):
    plain.obs["section"], plain.obs["patient"] = "A", "B"
    adata = anndata_section(plain, image, 0.5)
    assert (set(adata.obs["section"]), set(adata.obs["patient"])) == ({"A"}, {"B"})
    assert set(anndata_section(plain, image, 0.5, section="S").obs["section"]) == {"S"}


def test_spots_without_genes(plain, image):
    adata = anndata_section(plain[:, :0].copy(), image, 0.5, section="S")
    assert adata.shape == (12, 0)


class TestBadInput:
    def test_no_scale(self, plain, image):
        with pytest.raises(DataError, match=r"'S': no scale; .* slide\.png \(microns_per_pixel=0\.5\)"):
            anndata_section(plain, image, section="S")

    def test_no_image(self, plain, tmp_path):
        with pytest.raises(ImageError, match=r"'S': no image \(none is named .*\); give image='PATH'"):
            anndata_section(plain, section="S")
        with pytest.raises(ImageError, match=r"no image \(gone\.tif does not exist\)"):
            anndata_section(with_metadata(plain, source_image_path="gone.tif"))

    def test_no_positions(self, plain, image):
        del plain.obsm["spatial"]
        with pytest.raises(DataError, match=r"'S': obsm\['spatial'\] is missing"):
            anndata_section(plain, image, 0.5, section="S")

    def test_outside_the_image(self, plain, image):
        plain.obsm["spatial"] = plain.obsm["spatial"] * 10
        with pytest.raises(ImageError, match="spots lie outside the image"):
            anndata_section(plain, image, 0.5, section="S")

    def test_several_sections(self, plain, image):
        plain.obs["section"] = ["A", "B"] * 6
        with pytest.raises(DataError, match=r"obs\['section'\] names 2 \(A, B\); .*split the AnnData"):
            anndata_section(plain, image, 0.5, section="A")
        del plain.obs["section"]
        plain.uns["spatial"] = {"a": {}, "b": {}}
        with pytest.raises(DataError, match="has 2 libraries; split"):
            anndata_section(plain, image, 0.5, section="A")

    def test_no_name(self, plain, image):
        with pytest.raises(DataError, match="the section has no name; give section='NAME'"):
            anndata_section(plain, image, 0.5)

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            anndata_section(tmp_path / "nowhere.h5ad")
        (tmp_path / "text.h5ad").write_text("no")
        with pytest.raises(DataError, match=r"text\.h5ad cannot be read as h5ad") as error:
            anndata_section(tmp_path / "text.h5ad")
        assert "\n" not in str(error.value)


def test_format(plain, tmp_path):
    for name in ("T2", "T1"):
        with_metadata(plain, microns_per_pixel=0.4).write_h5ad(tmp_path / f"{name}.h5ad")
        Image.new("RGB", (200, 150)).save(tmp_path / f"{name}.jpg")
    found = sections("anndata", tmp_path)
    assert {name: set(adata.obs["section"]) for name, adata in found.items()} == {"T1": {"T1"}, "T2": {"T2"}}
    assert list(sections("anndata", tmp_path / "T2.h5ad")) == ["T2"]
    with pytest.raises(DataError, match="no section 'T3'"):
        sections("anndata", tmp_path, ["T3"])


class TestLibraries:
    """One section may stand beside flags, and beside the libraries of others that it was joined with."""

    def test_a_flag_is_no_library(self, plain, image, tmp_path):
        with_metadata(plain, microns_per_pixel=0.4).uns["spatial"]["is_single"] = np.bool_(True)
        plain.write_h5ad(tmp_path / "cxg.h5ad")
        section = anndata_section(tmp_path / "cxg.h5ad", image)
        assert library(section).microns_per_pixel == 0.4
        assert library(section).spot_diameter == 11.0

    @pytest.fixture
    def joined(self, plain, image):
        parts = {name: anndata_section(plain, image, scale, section=name) for name, scale in (("A", 0.5), ("B", 0.7))}
        return ad.concat(parts, label="library_id", uns_merge="unique", index_unique="-")

    @pytest.mark.parametrize("named", ["section", "library_id", "argument"])
    def test_a_part_of_joined_sections_has_its_own(self, joined, image, named):
        part = joined[joined.obs["library_id"] == "B"].copy()
        if named != "section":
            del part.obs["section"]
        if named == "argument":
            del part.obs["library_id"]
        section = anndata_section(part, image, section="B" if named == "argument" else None)
        assert library(section).microns_per_pixel == 0.7
        assert list(section.uns["spatial"]) == ["B"]

    def test_all_parts_at_once_are_told_how(self, joined, image, tmp_path):
        with pytest.raises(DataError, match=r"names 2 \(A, B\).*library_key='section'"):
            anndata_section(joined, image)
        joined.write_h5ad(tmp_path / "cohort.h5ad")
        found = sections("anndata", tmp_path / "cohort.h5ad", library_key="library_id")
        assert {name: library(each).microns_per_pixel for name, each in found.items()} == {"A": 0.5, "B": 0.7}
        assert section_names("anndata", tmp_path / "cohort.h5ad", library_key="library_id") == ["A", "B"]
        found = sections("h5ad", tmp_path, ["B"], library_key="section")
        assert [each.n_obs for each in found.values()] == [12]
        with pytest.raises(DataError, match="library_key='libary_id'; did you mean 'library_id'"):
            sections("h5ad", tmp_path, library_key="libary_id")

    def test_the_library_of_another_section_is_not_taken(self, joined, tmp_path):
        del joined.uns["spatial"]["A"]
        joined.write_h5ad(tmp_path / "cohort.h5ad")
        with pytest.raises(ImageError, match="'A': no image"):
            sections("anndata", tmp_path / "cohort.h5ad", library_key="library_id")
        given = given_sections(joined, library_key="library_id").sections
        assert library(given["B"]).microns_per_pixel == 0.7
        with pytest.raises(DataError, match=r"'A': .*0 libraries"):
            library(given["A"])

    def test_none_of_several_is_the_sections(self, plain, image):
        plain.uns["spatial"] = {"a": {}, "b": {}}
        with pytest.raises(DataError, match="keep its own library there: one named 'C'"):
            anndata_section(plain, image, 0.5, section="C")


def test_a_backed_file(plain, image, tmp_path):
    plain.X = sparse.csr_matrix(plain.X)
    plain.write_h5ad(tmp_path / "T.h5ad")
    backed = ad.read_h5ad(tmp_path / "T.h5ad", backed="r")
    section = anndata_section(backed, image, 0.5, section="T")
    np.testing.assert_array_equal(section.X.toarray(), plain.X.toarray())
    # A copy cannot be made; results alone are written into the object, and counts stay in the file.
    section.write_h5ad(tmp_path / "S.h5ad")
    backed, whole = ad.read_h5ad(tmp_path / "S.h5ad", backed="r"), section.copy()
    for use in (check_section, partial(features, encoder="squidpy:summary", copy=True)):
        with pytest.raises(DataError, match=r"backed by .*S\.h5ad; load it: adata = adata\.to_memory\(\)"):
            use(backed)
    for each in (backed, whole):
        features(each, "squidpy:summary", 20, progress=False, check_placement=False)
        spatial_graph(each)
    assert backed.isbacked
    np.testing.assert_array_equal(backed.obsm["X_image"], whole.obsm["X_image"])
    assert (backed.obsp["spatial_connectivities"] != whole.obsp["spatial_connectivities"]).nnz == 0


class TestAnalysed:
    """What analyses leave: normalised X, counts in raw."""

    @pytest.fixture
    def analysed(self, plain):
        plain.raw = plain[:, :4].copy()
        plain.X = np.log1p(plain.X)
        return plain

    def test_counts_in_raw(self, analysed, image):
        counts = analysed.raw.X
        with pytest.raises(
            DataError, match=r"\(there: log, raw; whole numbers: raw\); or, only to predict, .*genes=False"
        ):
            anndata_section(analysed, image, 0.5, section="S")
        section = anndata_section(analysed, image, 0.5, section="S", layer="raw")
        np.testing.assert_array_equal(section.X.toarray(), counts)
        assert list(section.var_names) == list("ABCD")

    def test_only_to_predict(self, analysed, image):
        section = anndata_section(analysed, image, 0.5, section="S", genes=False)
        assert section.shape == (12, 0)

    def test_nothing_holds_counts(self, analysed, image):
        del analysed.raw, analysed.layers["log"]
        with pytest.raises(DataError, match="not integers; put raw counts there; or"):
            anndata_section(analysed, image, 0.5, section="S")

    def test_images_do_not_need_genes(self, plain, image):
        section = anndata_section(plain, image, 0.5, section="S")
        section.X = np.log1p(section.X.toarray()) - 1
        section.var_names = list("ABABA")
        check_section(section, need=("image",))
        assert spatial_graph(section, copy=True).obsp["spatial_connectivities"].nnz
        assert len(list(patches(section, 10.0, 8))) == 12


def test_the_argument_for_a_layer_of_a_container_is_named(plain, tmp_path):
    from squidpy.im import ImageContainer

    container = ImageContainer(np.zeros((150, 200, 3), np.uint8), layer="a")
    container.add_img(np.zeros((150, 200, 3), np.uint8), layer="b")
    with pytest.raises(ImageError, match=r"2 layers \(a, b\); name one: image_layer='NAME'"):
        anndata_section(plain, container, 0.5, section="S")


def test_half_precision_becomes_single(plain, image, tmp_path):
    expected = plain.X.copy()
    plain.X = plain.X.astype(np.float16)
    plain.obs["in_tissue"] = [1] * 11 + [0]
    plain.write_h5ad(tmp_path / "half.h5ad")
    for given in (plain, tmp_path / "half.h5ad"):
        found = anndata_section(given, image, 0.5, section="S")
        assert found.X.dtype == np.float32
        np.testing.assert_array_equal(found.X.toarray(), expected[:11])


def test_counts_that_are_not_numbers_are_called_that(plain, image):
    plain.X[3, 2] = np.nan
    with pytest.raises(DataError, match=r"'S'.* NaN") as caught:
        anndata_section(plain, image, 0.5, section="S")
    assert "integers" not in str(caught.value)
