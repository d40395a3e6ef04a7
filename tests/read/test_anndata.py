from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy import sparse

from nh2st_graph import DataError, ImageError
from nh2st_graph.read import anndata_section, sections
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
