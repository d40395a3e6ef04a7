"""Slides as LazySlide holds them: what is there is used, what lacks is added, and tables are like LazySlide's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nh2st_graph import ConfigError, DataError, ImageError, tl
from nh2st_graph.section import Key

from ..slides import write_pyramid

zs = pytest.importorskip("lazyslide")
wsidata = pytest.importorskip("wsidata")

SIDE, MPP = 512, 8.0
#: Side and distance of tiles, in pixels: 112 and 200 um.
TILE, STEP = 14, 25


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("slides") / "new.tif", SIDE, MPP)


@pytest.fixture
def wsi(slide):
    return wsidata.open_wsi(slide, store=None)


@pytest.fixture
def tiled(wsi):
    """A slide with tiles of LazySlide on its tissue, named out of order."""
    x, y = np.meshgrid(np.arange(120, 280, STEP), np.arange(160, 340, STEP))
    corners = np.stack([x, y], axis=-1).reshape(-1, 2)
    add_tiles(wsi, corners)
    wsi.shapes["tiles"]["tile_id"] = np.random.default_rng(0).permutation(len(corners))
    return wsi


def add_tiles(wsi, corners, key="tiles", side=TILE):
    spec = wsidata.TileSpec(side, side, STEP, STEP, mpp=MPP)
    wsidata.io.add_tiles(wsi, key, corners, spec, np.zeros(len(corners), int))


def add_features(wsi, n_features, key="uni2_tiles", tile_key="tiles"):
    values = np.random.default_rng(1).gamma(2, size=(len(wsi.shapes[tile_key]), n_features)).astype(np.float32)
    wsidata.io.add_features(wsi, key, tile_key, values)
    return values


@pytest.fixture
def no_encoding(monkeypatch):
    """Fail where patches would be encoded, or features taken from the cache."""

    def encode(*args, **kwargs):
        raise AssertionError("encoded again")

    monkeypatch.setattr("nh2st_graph.train._complete.add_features", encode)


def of_uni2(model, **features):
    """The same model, as if its features were those of UNI2-h."""
    wanted = model.config.features.model_copy(update={"encoder": "uni2-h", "encoders": None, **features})
    return replace(model, config=model.config.model_copy(update={"features": wanted}), origin={})


class TestASlideWithoutTiles:
    def test_gets_those_of_the_models_lattice_and_is_predicted_as_its_file_is(self, tiny_run, wsi, slide):
        found = tl.predict(wsi, tiny_run.model)
        section = tl.slide_section(slide, tiny_run.model)
        assert_allclose(found.obsm["spatial"], section.obsm["spatial"])
        assert_allclose(found.X, tl.predict(section, tiny_run.model).X, atol=1e-5)
        assert wsi.tile_spec("tiles").width * MPP == pytest.approx(112)
        assert list(wsi.tables) == ["squidpy-summary_tiles", "nh2st_graph_tiles"]

    def test_needs_a_resolution(self, tiny_run, wsi):
        wsi.set_mpp(None)
        with pytest.raises(DataError, match=r"wsi\.set_mpp"):
            tl.predict(wsi, tiny_run.model)
        add_tiles(wsi, np.array([[x, 200] for x in range(150, 250, STEP)]))
        with pytest.raises(DataError, match=r"wsi\.set_mpp"):
            tl.predict(wsi, tiny_run.model)
        wsi.set_mpp(MPP)
        assert tl.predict(wsi, tiny_run.model).n_obs == 4

    def test_is_a_table_for_lazyslide_and_omicverse(self, tiny_run, wsi):
        found = tl.predict(wsi, tiny_run.model, key_added="breast")
        assert wsi.tables["breast_tiles"] is found
        assert_array_equal(found.obs["tile_id"], wsi.shapes["tiles"]["tile_id"])
        assert set(found.obs["library_id"]) == {"tiles"}
        assert found.uns["histo"] == {"method": "nh2st_graph", "fm_backbone": "squidpy-summary"}
        assert_array_equal(wsi.fetch.features_anndata("breast").X, found.X)

    def test_lazyslide_predicts_the_same_from_what_was_added(self, tiny_run, wsi):
        ours = tl.predict(wsi, tiny_run.model)
        zs.tl.feature_prediction(wsi, tiny_run.model.as_lazyslide("theirs"), pbar=False)
        assert_allclose(wsi.tables["theirs_tiles"].X, ours.X, atol=1e-5)

    def test_comes_back_from_the_disk_with_all_of_it(self, tiny_run, slide, tmp_path, request):
        wsi = wsidata.open_wsi(slide, store=str(tmp_path / "new.zarr"))
        first = tl.predict(wsi, tiny_run.model)
        wsi.write()
        request.getfixturevalue("no_encoding")
        again = wsidata.open_wsi(slide, store=str(tmp_path / "new.zarr"))
        assert_array_equal(again.tables["nh2st_graph_tiles"].layers["lower"], first.layers["lower"])
        assert_array_equal(tl.predict(again, tiny_run.model).X, first.X)


class TestTilesThatAreThere:
    def test_are_encoded_around_their_centres_and_once(self, tiny_run, tiled, request):
        first = tl.predict(tiled, tiny_run.model)
        assert_array_equal(first.obs_names, tiled.shapes["tiles"]["tile_id"].astype(str))
        assert_allclose(first.obsm["spatial"], tiled.shapes["tiles"].centroid.get_coordinates())
        request.getfixturevalue("no_encoding")
        assert_array_equal(tl.predict(tiled, tiny_run.model).X, first.X)

    def test_that_were_moved_are_encoded_again(self, tiny_run, tiled):
        first = tl.predict(tiled, tiny_run.model)
        tiled.shapes["tiles"] = tiled.shapes["tiles"].set_geometry(tiled.shapes["tiles"].translate(STEP, 0))
        assert np.abs(tl.predict(tiled, tiny_run.model).X - first.X).max() > 1e-3

    def test_several_sets_are_told_apart_by_name(self, tiny_run, wsi):
        for key, left in (("left", 120), ("right", 200)):
            add_tiles(wsi, np.array([[left, y] for y in range(180, 330, STEP)]), key)
        with pytest.raises(DataError, match=r"left, right.*table_key"):
            tl.predict(wsi, tiny_run.model)
        with pytest.raises(DataError, match="rigt"):
            tl.predict(wsi, tiny_run.model, table_key="rigt")
        found = tl.predict(wsi, tiny_run.model, table_key="right")
        assert found.obsm["spatial"][0, 0] == 200 + TILE / 2
        assert "nh2st_graph_right" in wsi.tables

    def test_without_array_positions_are_not_for_a_method_that_reads_them(self, tiny_run, wsi, tiled, monkeypatch):
        monkeypatch.setattr(type(tiny_run.model.module), "needs", frozenset({"array"}))
        with pytest.raises(DataError, match=r"'tiles' have no array positions.*nh2st_graph"):
            tl.predict(tiled, tiny_run.model)
        del tiled.shapes["tiles"]
        assert "array_row" in tl.predict(wsi, tiny_run.model).obs

    def test_of_another_pitch_are_warned_of(self, tiny_run, wsi, caplog):
        add_tiles(wsi, np.array([[x, y] for y in range(200, 300, 10) for x in range(150, 250, 10)]))
        tl.predict(wsi, tiny_run.model)
        assert "80 um apart, those of training 200 um" in caplog.text


class TestFeaturesThatAreThere:
    @pytest.mark.parametrize("table_key", [None, "uni2_tiles"])
    @pytest.mark.parametrize("embeddings", [False, True])
    def test_of_lazyslide_are_those_of_the_models_encoder(self, tiny_run, tiled, no_encoding, table_key, embeddings):
        model = of_uni2(tiny_run.model)
        if embeddings:
            model = replace(of_uni2(model, embeddings="f"), origin={"encoders": [{"name": "uni2-h", "patch_um": 110}]})
        values = add_features(tiled, model.n_features)
        found = tl.predict(tiled, model, table_key=table_key)
        corners = tiled.shapes["tiles"].bounds[["minx", "miny"]].to_numpy()
        ours = np.column_stack(list(model.as_lazyslide().predict(values, corners).values()))
        assert_allclose(found.X, ours, atol=1e-5)
        assert found.uns[Key.uns.prediction]["section"] == "new"

    @pytest.mark.parametrize("key", ["uni2_tiles", "squidpy-summary_tiles"])
    def test_stay_those_of_their_tiles_when_these_are_sorted(self, tiny_run, tiled, key):
        model = tiny_run.model if key.startswith("squidpy") else of_uni2(tiny_run.model)
        add_features(tiled, model.n_features)
        first = tl.predict(tiled, model)
        tiled.shapes["tiles"] = tiled.shapes["tiles"].sort_values("tile_id")
        again = tl.predict(tiled, model, table_key=key)
        assert list(again.obs["tile_id"]) == sorted(first.obs["tile_id"])
        assert_allclose(again[first.obs_names].X, first.X, atol=1e-5)

    def test_need_no_file_of_the_slide(self, tiny_run, tiled, monkeypatch):
        first = tl.predict(tiled, tiny_run.model)
        for file in ("gone.tif", None):
            monkeypatch.setattr(tiled.reader, "file", file)
            assert_array_equal(tl.predict(tiled, tiny_run.model).X, first.X)
        del tiled.tables["squidpy-summary_tiles"]
        with pytest.raises(ImageError, match="source_image_path"):
            tl.predict(tiled, tiny_run.model)
        del tiled.shapes["tiles"]
        with pytest.raises(DataError, match="no tiles can be laid"):
            tl.predict(tiled, tiny_run.model)

    def test_of_tiles_of_another_size_are_not(self, tiny_run, wsi, monkeypatch, caplog):
        def make(*args):
            raise ConfigError("no weights here")

        add_tiles(wsi, np.array([[x, 200] for x in range(150, 250, STEP)]), side=2 * TILE)
        model = of_uni2(tiny_run.model)
        add_features(wsi, model.n_features)
        monkeypatch.setattr("nh2st_graph.im.make_encoders", make)
        with pytest.raises(ConfigError, match="no weights here"):
            tl.predict(wsi, model)
        assert "tiles of 224 um, the model reads patches of 112 um; encoding" in caplog.text
        with pytest.raises(DataError, match="uni2_tiles has features of tiles of 224 um"):
            tl.predict(wsi, model, table_key="uni2_tiles")

    def test_of_another_encoder_are_refused(self, tiny_run, tiled):
        add_features(tiled, 3, "conch_tiles")
        with pytest.raises(DataError, match=r"conch_tiles has 3 features.*squidpy:summary"):
            tl.predict(tiled, tiny_run.model, table_key="conch_tiles")
        tl.predict(tiled, tiny_run.model)
        other = [{**each, "encoder": "other"} for each in tiny_run.model.origin["encoders"]]
        model = replace(tiny_run.model, origin={**tiny_run.model.origin, "encoders": other})
        with pytest.raises(DataError, match="other encoders"):
            tl.predict(tiled, model, table_key="squidpy-summary_tiles")

    def test_are_not_written_over(self, tiny_run, tiled):
        add_features(tiled, 3, "squidpy-summary_tiles")
        first = tl.predict(tiled, tiny_run.model)
        assert tiled.tables["squidpy-summary_tiles"].n_vars == 3
        assert tiled.tables["nh2st_graph-squidpy-summary_tiles"].n_vars == tiny_run.model.n_features
        assert_array_equal(tl.predict(tiled, tiny_run.model).X, first.X)

    def test_none_for_a_model_of_embeddings(self, tiny_run, tiled):
        model = replace(of_uni2(tiny_run.model, embeddings="f"), origin={"encoders": [{"name": "uni2-h"}]})
        with pytest.raises(DataError, match=r"no table of features of uni2 .*table_key"):
            tl.predict(tiled, model)


def test_a_slide_is_one_section(tiny_run, wsi):
    with pytest.raises(DataError, match="library_key"):
        tl.predict(wsi, tiny_run.model, library_key="sample")
