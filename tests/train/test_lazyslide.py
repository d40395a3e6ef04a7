from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from nh2st_graph import ConfigError, DataError, ModelError, tl
from nh2st_graph.section import Key, unknown_patient
from nh2st_graph.train import LazySlideModel, features_name, lazyslide_encoder

from ..slides import write_pyramid

zs = pytest.importorskip("lazyslide")
wsidata = pytest.importorskip("wsidata")
lazyslide_models = pytest.importorskip("lazyslide_models")

SIDE, MPP = 512, 8.0
#: Side and distance of tiles, in pixels; tiles of 112 um are 14.
TILE, STEP = 14, 25


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """LazySlide's registry, as it was before the test."""
    found = lazyslide_models.MODEL_REGISTRY
    monkeypatch.setattr(found, "_data", dict(found._data))
    return found


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("slides") / "new.tif", SIDE, MPP)


@pytest.fixture
def corners() -> np.ndarray:
    """The corners of tiles on two pieces of tissue, each on a lattice of its own, in no order."""
    grid = np.stack(np.meshgrid(np.arange(7), np.arange(9)), axis=-1).reshape(-1, 2) * STEP + 20
    return np.random.default_rng(0).permutation(np.concatenate([grid, grid + np.array([8 * STEP + 11, 7])]))


@pytest.fixture
def features(corners, tiny_run) -> np.ndarray:
    return np.random.default_rng(1).gamma(2, size=(len(corners), tiny_run.model.n_features)).astype(np.float32)


@pytest.fixture
def wsi(slide, corners, features):
    opened = wsidata.open_wsi(slide, store=None)
    wsidata.io.add_tiles(
        opened, "tiles", corners, wsidata.TileSpec(TILE, TILE, STEP, STEP, mpp=MPP), np.zeros(126, int)
    )
    wsidata.io.add_features(opened, "mine_tiles", "tiles", features)
    return opened


def predicted_by_us(model, corners, features) -> AnnData:
    """What ``tl.predict`` says of a section at these places that has these features already."""
    names = [f"{i:03}" for i in range(len(corners))]
    section = AnnData(obs=pd.DataFrame(index=names), obsm={Key.obsm.spatial: corners + TILE / 2})
    section.obs[Key.obs.section] = pd.Categorical(["S"] * len(names))
    section.obs[Key.obs.patient] = pd.Categorical([unknown_patient("S")] * len(names))
    section.obsm[Key.obsm.image] = features
    section.uns[Key.uns.image] = {"encoder": "squidpy:summary", "patch_um": 112.0}
    return tl.predict(section, model)


class TestPrediction:
    def test_is_that_of_predict_on_the_same_positions_and_features(self, tiny_run, wsi, corners, features):
        model = tiny_run.model
        zs.tl.feature_prediction(wsi, model.as_lazyslide(), "mine", batch_size=16, pbar=False)
        table, ours = wsi.tables["nh2st_graph_tiles"], predicted_by_us(model, corners, features)
        assert list(table.var_names) == model.genes
        assert table.X.std(axis=0).min() > 0.01
        np.testing.assert_allclose(table.X, ours.X, atol=1e-5)

    def test_of_any_order_of_tiles(self, tiny_run, corners, features):
        given, order = tiny_run.model.as_lazyslide(), np.random.default_rng(2).permutation(len(corners))
        first, second = given.predict(features, corners), given.predict(features[order], corners[order] + 1000)
        for gene in tiny_run.model.genes:
            np.testing.assert_allclose(first[gene][order], second[gene], atol=1e-5)

    def test_of_a_name_is_that_of_the_model(self, tiny_run, wsi, registry):
        given = tiny_run.model.as_lazyslide("breast")
        assert isinstance(given, lazyslide_models.FeaturePredictionModelProtocol)
        assert "breast" in lazyslide_models.list_models("feature_prediction")
        assert "log expression of 12 genes" in registry.to_dataframe().set_index("key").loc["breast", "description"]
        for model, key in ((given, "by_object"), ("breast", None)):
            zs.tl.feature_prediction(wsi, model, "mine", key_added=key, pbar=False)
        np.testing.assert_array_equal(wsi.tables["breast_tiles"].X, wsi.tables["by_object"].X)

    def test_is_nothing_for_a_gene_that_was_barely_measured(self, tiny_run, corners, features, monkeypatch):
        confidence = tiny_run.model.confidence
        barely = np.arange(len(tiny_run.model.genes)) == 3
        monkeypatch.setattr(type(confidence), "barely_measured", barely)
        found = tiny_run.model.as_lazyslide().predict(features, corners)
        assert [bool(np.isnan(values).all()) for values in found.values()] == list(barely)


class TestRegistered:
    def test_the_last_model_of_a_name_counts(self, tiny_run, registry):
        tiny_run.model.as_lazyslide()
        other = replace(tiny_run.model, selected_epochs=77)
        other.as_lazyslide()
        assert registry["nh2st_graph"]().fitted is other

    def test_a_name_of_lazyslides_own_is_refused(self, tiny_run, registry):
        before = registry["stpath"]
        with pytest.raises(ConfigError, match="stpath"):
            tiny_run.model.as_lazyslide("stpath")
        assert registry["stpath"] is before


class TestRefusals:
    def test_features_of_another_encoder(self, tiny_run, wsi, features):
        wsidata.io.add_features(wsi, "other_tiles", "tiles", features[:, :-1])
        with pytest.raises(DataError, match=rf"\(n_tiles, {features.shape[1]}\).*squidpy:summary"):
            zs.tl.feature_prediction(wsi, tiny_run.model.as_lazyslide(), "other", pbar=False)

    def test_tiles_without_places(self, tiny_run, corners, features):
        given = tiny_run.model.as_lazyslide()
        with pytest.raises(DataError, match="no coordinates"):
            given.predict(features)
        with pytest.raises(DataError, match="coords of shape"):
            given.predict(features, corners[1:])

    def test_a_model_that_reads_pixels(self, tiny_run):
        with pytest.raises(ModelError, match=r"ng\.tl\.predict\(wsi, model\)"):
            changed(tiny_run.model, encoder="timm:resnet18", finetune=True).as_lazyslide()

    def test_a_model_that_reads_array_positions(self, tiny_run, monkeypatch):
        monkeypatch.setattr(type(tiny_run.model.module), "needs", frozenset({"array"}))
        with pytest.raises(ModelError, match="array positions"):
            tiny_run.model.as_lazyslide()

    def test_a_radius_without_a_resolution(self, tiny_run, corners, features):
        config = tiny_run.model.config
        graph = config.graph.model_copy(update={"mode": "radius", "radius_um": 210.0})
        model = replace(tiny_run.model, config=config.model_copy(update={"graph": graph}))
        with pytest.raises(ConfigError, match="microns_per_pixel"):
            model.as_lazyslide()
        near, far = (model.as_lazyslide(microns_per_pixel=um).predict(features, corners) for um in (8.0, 80.0))
        assert any(np.abs(near[gene] - far[gene]).max() > 1e-3 for gene in near)

    def test_without_lazyslide(self, tiny_run, monkeypatch):
        monkeypatch.setattr("nh2st_graph.train._lazyslide.find_spec", lambda _: None)
        with pytest.raises(ConfigError, match=r"nh2st-graph\[wsi\]"):
            tiny_run.model.as_lazyslide()


def test_tiles_of_another_pitch_are_warned_of(tiny_run, corners, features, caplog):
    tiny_run.model.as_lazyslide(microns_per_pixel=8.0).predict(features, corners)
    assert "apart" not in caplog.text
    tiny_run.model.as_lazyslide(microns_per_pixel=2.0).predict(features, corners)
    assert "50 um apart, those of training 200 um" in caplog.text


def changed(model, **features):
    config = model.config
    wanted = type(config.features).model_validate({**config.features.model_dump(), "encoders": None, **features})
    return replace(model, config=config.model_copy(update={"features": wanted}))


@pytest.mark.parametrize(
    ("features", "theirs", "ours"),
    [
        ({"encoder": "uni2-h"}, "uni2", "uni2"),
        ({"encoder": "lazyslide:conch"}, "conch", "conch"),
        # Other weights, another size of the input.
        ({"encoder": "uni2-h@folder/weights.bin"}, None, "uni2-h"),
        ({"encoder": "lazyslide:conch?size=448"}, None, "lazyslide-conch-size-448"),
        # LazySlide cuts off the rim of a patch for timm's own models.
        ({"encoder": "timm:resnet18@folder/w.pt"}, None, "timm-resnet18"),
        ({"encoder": "uni2-h", "views": 4}, None, "uni2-h-4-views"),
        ({"encoder": "uni2-h", "stain": "macenko"}, None, "uni2-h-macenko"),
        ({"encoders": [["uni2-h", 112], ["uni2-h", 224]]}, None, "uni2-h-at-112-um-uni2-h-at-224-um"),
        ({"encoder": "uni2-h?pooling=mean"}, None, "uni2-h-pooling-mean"),
    ],
)
def test_the_table_of_features_is_that_of_the_encoder(tiny_run, features, theirs, ours):
    model = changed(tiny_run.model, **features)
    assert (lazyslide_encoder(model), features_name(model)) == (theirs, ours)
    assert LazySlideModel(model).features_model_name == ours


@pytest.mark.parametrize(("name", "theirs"), [("uni2-h", "uni2"), ("own", "own"), (None, None)])
def test_of_embeddings_it_is_that_of_their_encoder(tiny_run, name, theirs):
    model = replace(changed(tiny_run.model, embeddings="folder"), origin={"encoders": [{"name": name}]})
    assert features_name(model) == theirs
