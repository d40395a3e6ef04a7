"""Every model says how familiar a section is to it, and keeps that in its files."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_array_equal
from PIL import Image

from nh2st_graph import ModelError, load, tl
from nh2st_graph.im import StainJitter
from nh2st_graph.section import changed_entry, library, section_name

GOLDEN = Path(__file__).parents[1] / "golden"


def restained(section: AnnData, folder: Path) -> AnnData:
    """The section on an image of its own in another stain."""
    own, path = library(section), folder / "restained.png"
    with Image.open(own.source) as image:
        pixels = np.asarray(image.convert("RGB"))
    changed = StainJitter("hed", 0.5, 1).colour_map(None)(pixels.reshape(-1, 3)).reshape(pixels.shape)
    Image.fromarray(changed).save(path, compress_level=1)
    other = section.copy()
    other.uns["spatial"] = {section_name(section): changed_entry(own.entry, source=path)}
    return other


def said(prediction: AnnData) -> dict:
    return prediction.uns["nh2st_prediction"]["familiarity"]


@pytest.fixture(scope="module")
def prediction(tiny_run, tiny_sections) -> AnnData:
    return tl.predict(tiny_sections["S3"], tiny_run.model)


class TestPrediction:
    def test_has_it_for_every_spot(self, prediction):
        found = prediction.obs["familiarity"]
        assert found.dtype == np.float32
        assert found.between(0, 1).all()
        assert found.nunique() > 5
        assert said(prediction)["median"] == pytest.approx(found.median())
        assert said(prediction)["held_out_by"] == "section"
        assert said(prediction)["n_units"] == 2

    def test_has_it_in_the_order_given(self, prediction, tiny_run, tiny_sections):
        order = np.random.default_rng(0).permutation(prediction.n_obs)
        again = tl.predict(tiny_sections["S3"][order].copy(), tiny_run.model)
        pd.testing.assert_series_equal(again.obs["familiarity"], prediction.obs["familiarity"].iloc[order])

    def test_survives_the_disk(self, prediction, tmp_path):
        prediction.write_h5ad(tmp_path / "S3.h5ad")
        again = ad.read_h5ad(tmp_path / "S3.h5ad")
        assert_array_equal(again.obs["familiarity"], prediction.obs["familiarity"])
        assert said(again).keys() == said(prediction).keys()
        assert dict(said(again)["tails"]) == said(prediction)["tails"]

    def test_of_a_run_has_it_too(self, tiny_run):
        assert "familiarity" in ad.read_h5ad(tiny_run.folder / "predictions" / "S3.h5ad").obs

    def test_of_several_sections_judges_each(self, tiny_run, tiny_sections):
        joined = ad.concat(
            {name: tiny_sections[name] for name in ("S2", "S3")}, label="slide", uns_merge="unique", index_unique="-"
        )
        joined.obs["slide"] = joined.obs["slide"].astype("category")
        predicted = tl.predict(joined, tiny_run.model, library_key="slide")
        assert predicted.obs["familiarity"].notna().all()
        assert set(predicted.uns["nh2st_prediction"]["sections"]) == {"S2", "S3"}

    def test_warns_of_a_section_in_another_stain(self, tiny_run, tiny_sections, tmp_path, caplog):
        other = restained(tiny_sections["S3"], tmp_path)
        found = tl.predict(other, tiny_run.model)
        assert said(found)["unlike"]
        assert "stain" in said(found)["reasons"]
        assert "section 'S3' is unlike the training sections" in caplog.text
        assert said(found)["median"] < 0.1

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    def test_of_an_earlier_model_has_none(self):
        section = ad.read_h5ad(GOLDEN / "sections" / "S3.h5ad")
        section.obs["familiarity"] = 1.0  # of another model, whose prediction this was
        model = load(GOLDEN / "linear")
        predicted = tl.predict(section, model)
        assert "familiarity" not in predicted.obs
        assert "familiarity" not in predicted.uns["nh2st_prediction"]
        assert "familiarity" in section.obs


class TestFiles:
    def test_keep_it(self, prediction, tiny_run, tiny_sections, tmp_path):
        tiny_run.model.save(tmp_path)
        again = tl.predict(tiny_sections["S3"], load(tmp_path))
        assert_array_equal(again.obs["familiarity"], prediction.obs["familiarity"])
        assert said(again) == said(prediction)

    def test_without_it_load(self, tiny_run, tiny_sections, tmp_path):
        tiny_run.model.save(tmp_path)
        path = tmp_path / "model.json"
        description = json.loads(path.read_text())
        del description["familiarity"]
        path.write_text(json.dumps(description))
        assert load(tmp_path).familiarity is None

    def test_that_lost_a_part_are_damaged(self, tiny_run, tmp_path):
        tiny_run.model.save(tmp_path)
        path = tmp_path / "model.json"
        description = json.loads(path.read_text())
        description["familiarity"]["spaces"].append("lost")
        path.write_text(json.dumps(description))
        with pytest.raises(ModelError, match="damaged or incomplete"):
            load(tmp_path)


class TestWhateverFeaturesAre:
    """A method that fits itself, so that it is quick: familiarity is about features alone."""

    @pytest.mark.parametrize(
        ("changes", "spaces"),
        [
            (["features.encoder=handcrafted"], ("features", "colour", "structure")),
            (["features.encoder='pixels:24,squidpy:summary'"], ("features", "colour", "structure")),
            (["features.encoder=pixels:4"], ("features",)),
            (["features.standardize=train"], ("features", "colour")),
            (["features.embeddings='obsm:mine'"], ("features",)),
        ],
        ids=str,
    )
    def test_is_learnt_from_two_sections_and_from_bands_of_one(self, tiny_sections, tiny_config, changes, spaces):
        some = {name: tiny_sections[name][::4].copy() for name in ("S1", "S2", "S3")}
        for section in some.values():
            section.obsm["mine"] = np.random.default_rng(0).normal(size=(section.n_obs, 6)).astype(np.float32)
        config = tiny_config.override(["model.name=mean", *changes])
        for names, held_out_by in ((["S1", "S2"], "section"), (["S1"], "band")):
            model = tl.fit([some[name] for name in names], config)
            assert model.familiarity.held_out_by == held_out_by
            found = tl.predict(some["S3"], model)
            assert found.obs["familiarity"].between(0, 1).all()
            assert said(found)["tails"].keys() == set(spaces)

    def test_another_resolution_is_told_where_there_are_scales(self, tiny_sections, tiny_config, caplog):
        config = tiny_config.override(
            ["model.name=mean", "features.encoders=[[handcrafted, 112], [handcrafted, 224]]", "features.cache=null"]
        )
        some = {name: tiny_sections[name][::2].copy() for name in ("S1", "S2", "S3")}
        model = tl.fit([some["S1"], some["S2"]], config)
        assert "resolution" not in said(tl.predict(some["S3"], model))
        other = some["S3"].copy()
        own = library(other)
        other.uns["spatial"] = {"S3": changed_entry(own.entry, microns_per_pixel=own.microns_per_pixel * 2)}
        found = tl.predict(other, model)
        assert said(found)["resolution"] == pytest.approx(0.5, rel=0.35)
        assert "um per pixel" in caplog.text

    def test_patients_are_held_out_where_there_are_three(self, tiny_sections, tiny_config):
        some = [tiny_sections[name][::2].copy() for name in ("S1", "S2", "S3")]
        for section, patient in zip(some, "abc", strict=True):
            section.obs["patient"] = pd.Categorical([patient] * section.n_obs)
        assert tl.fit(some, tiny_config.override(["model.name=mean"])).familiarity.held_out_by == "patient"
