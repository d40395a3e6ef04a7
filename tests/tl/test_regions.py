"""Spots in regions that were drawn on a slide: crop, and what predict keeps and leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import geopandas
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nh2st_graph import ConfigError, DataError, RunError, read, tl

from ..slides import write_pyramid

Draw = Callable[..., Path]


@pytest.fixture
def draw(tmp_path) -> Draw:
    """Draw boxes as QuPath exports them: their class, and left, top, right and bottom end."""

    def draw(name: str, **boxes: tuple[float, float, float, float]) -> Path:
        features = []
        for label, (left, top, right, bottom) in boxes.items():
            ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
            about = {"objectType": "annotation", "classification": {"name": label, "color": [200, 0, 0]}}
            features.append(
                {"type": "Feature", "properties": about, "geometry": {"type": "Polygon", "coordinates": [ring]}}
            )
        (tmp_path / name).write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return tmp_path / name

    return draw


@pytest.fixture
def section(tiny_sections) -> ad.AnnData:
    return tiny_sections["S3"].copy()


@pytest.fixture
def half(section, draw) -> Path:
    """The left half of the section."""
    (left, top), (right, bottom) = section.obsm["spatial"].min(axis=0), section.obsm["spatial"].max(axis=0)
    return draw("half.geojson", Tumor=(left, top, (left + right) / 2, bottom))


class TestCrop:
    def test_keeps_the_spots_in_a_region_with_its_name(self, section, half):
        found = tl.crop(section, roi=half)
        x = section.obsm["spatial"][:, 0]
        assert_array_equal(found.obs_names, section.obs_names[x <= (x.min() + x.max()) / 2])
        assert list(found.obs["annotation"].unique()) == ["Tumor"]
        assert "annotation" not in section.obs
        assert found.uns["spatial"].keys() == section.uns["spatial"].keys()

    def test_takes_shapes_as_squidpy_has_them(self, section, half):
        there = tl.crop(section, roi=half)
        table = geopandas.read_file(half)
        assert_array_equal(tl.crop(section, roi=table).obs_names, there.obs_names)
        assert_array_equal(tl.crop(section, roi=table.geometry.iloc[0]).obs_names, there.obs_names)
        left = tl.crop(section, exclude=table.geometry)
        assert {*left.obs_names} == {*section.obs_names} - {*there.obs_names}

    def test_needs_regions(self, section):
        with pytest.raises(ConfigError, match="give roi, exclude, or both"):
            tl.crop(section, roi=None)
        with pytest.raises(DataError, match=r"section 'S3', roi: regions are given as int"):
            tl.crop(section, roi=3)

    def test_says_how_to_load_what_is_backed(self, section, half, tmp_path):
        section.write_h5ad(tmp_path / "backed.h5ad")
        backed = ad.read_h5ad(tmp_path / "backed.h5ad", backed="r")
        for regions in ({"roi": half}, {"exclude": half}):
            with pytest.raises(DataError, match="to_memory"):
                tl.crop(backed, **regions)

    def test_leaves_out_what_is_excluded(self, section, half):
        inside, outside = tl.crop(section, roi=half), tl.crop(section, exclude=half)
        assert {*inside.obs_names} | {*outside.obs_names} == {*section.obs_names}
        assert not {*inside.obs_names} & {*outside.obs_names}
        with pytest.raises(DataError, match="none of its"):
            tl.crop(section, roi=half, exclude=half)

    def test_finds_the_file_of_a_section_by_its_name(self, section, half):
        half.rename(half.with_name("S3.geojson"))
        assert tl.crop(section, roi=half.with_name("{section}.geojson")).n_obs < section.n_obs
        with pytest.raises(DataError, match=r"section 'S3', roi: .*other_S3\.geojson do not exist"):
            tl.crop(section, roi=half.with_name("other_{section}.geojson"))

    def test_says_where_regions_spots_and_slide_are_if_all_are_outside(self, section, draw):
        with pytest.raises(DataError) as caught:
            tl.crop(section, roi=draw("far.geojson", Tumor=(90_000, 91_000, 92_000, 93_000)))
        said = str(caught.value)
        assert "section 'S3': none of its" in said
        assert "(x 90000 to 92000, y 91000 to 93000 px)" in said
        assert "the slide is " in said
        assert f"spots are at x {section.obsm['spatial'][:, 0].min():.0f} to " in said
        section.uns["spatial"]["S3"]["metadata"]["source_image_path"] = "gone.jpg"
        with pytest.raises(DataError, match="its spots are at"):
            tl.crop(section, roi=draw("far.geojson", Tumor=(90_000, 91_000, 92_000, 93_000)))

    def test_does_not_exclude_everything(self, section, draw):
        with pytest.raises(DataError, match=r"all \d+ spots .* \(exclude\)"):
            tl.crop(section, exclude=draw("all.geojson", Fold=(0, 0, 1e6, 1e6)))

    def test_says_if_nothing_is_excluded(self, section, draw, caplog):
        assert tl.crop(section, exclude=draw("far.geojson", Fold=(9e4, 9e4, 9.1e4, 9.1e4))).n_obs == section.n_obs
        assert "none of its" in caplog.text

    def test_counts_from_where_qupath_counts(self, section, half, monkeypatch):
        """QuPath draws from the corner of what was scanned, and OpenSlide's pixels begin at the glass."""
        there = tl.crop(section, roi=half)
        moved = section.copy()
        moved.obsm["spatial"] = moved.obsm["spatial"] + (500, 300)
        monkeypatch.setattr("nh2st_graph.section._library.scan_origin", lambda _: (500, 300))
        assert_array_equal(tl.crop(moved, roi=half).obs_names, there.obs_names)


class TestPredict:
    @pytest.fixture
    def path(self, section, tmp_path) -> Path:
        read.write_h5ad(section, tmp_path / "S3.h5ad")
        return tmp_path / "S3.h5ad"

    def test_numbers_do_not_depend_on_the_region(self, tiny_run, section, path, half, tmp_path):
        (written,) = tl.predict_run(tiny_run.folder, [path], tmp_path / "out", roi=half)
        found = read.h5ad_section(written)
        whole = tiny_run.evaluation.predictions["S3"]
        assert 0 < found.n_obs < whole.n_obs
        assert_array_equal(found.X, whole[found.obs_names].X)
        assert set(found.obs["annotation"]) == {"Tumor"}
        with pytest.raises(RunError, match=r"S3\.h5ad holds the prediction of another region"):
            tl.predict_run(tiny_run.folder, [path], tmp_path / "out", resume=True)
        assert tl.predict_run(tiny_run.folder, [path], tmp_path / "out", roi=half, resume=True) == []

    def test_what_is_excluded_has_no_part(self, tiny_run, section, path, half, tmp_path):
        (written,) = tl.predict_run(tiny_run.folder, [path], tmp_path / "out", exclude=half)
        expected = tl.predict(tl.crop(section, exclude=half), tiny_run.model)
        found = read.h5ad_section(written)
        assert_array_equal(found.obs_names, expected.obs_names)
        assert_allclose(found.X, expected.X, rtol=1e-5)
        assert "annotation" not in found.obs

    def test_is_refused_before_anything_is_loaded(self, tiny_run, path, half, draw, tmp_path):
        for given, error, says in (
            ({"roi": tmp_path / "none.geojson"}, DataError, "do not exist"),
            ({"exclude": path}, DataError, "not a text file|not JSON"),
        ):
            with pytest.raises(error, match=says):
                tl.check_prediction(tiny_run.folder, [path], tmp_path / "out", **given)
        with pytest.raises(ConfigError, match=r"roi='.*half\.geojson' is one file for 2 inputs") as caught:
            tl.check_prediction(tiny_run.folder, [path, path], tmp_path / "out", roi=half)
        assert "--roi " in caught.value.at("flag", {"roi"})
        tl.check_prediction(tiny_run.folder, [path, path], tmp_path / "out", roi=tmp_path / "{section}.geojson")


def test_a_slide_has_no_spots_where_it_is_excluded(tiny_run, draw, tmp_path):
    slide = write_pyramid(tmp_path / "new.tif", 512, 8.0)
    whole = tl.slide_section(slide, tiny_run.model)
    middle = float(np.median(whole.obsm["spatial"][:, 0]))
    left = tl.slide_section(slide, tiny_run.model, exclude=draw("fold.geojson", Fold=(middle, 0, 512, 512)))
    assert_array_equal(left.obs_names, whole.obs_names[whole.obsm["spatial"][:, 0] < middle])
