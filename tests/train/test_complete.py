"""Stored features are used where section and encoder are what they were made from, and nowhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from numpy.testing import assert_array_equal
from PIL import Image

from nh2st_graph import ConfigError, DataError, ImageError, im, load, read, tl
from nh2st_graph.config import Config
from nh2st_graph.train import Preparation, Sources, Standardizer

from ..prepared import complete_section

MARK = 1000.0


@pytest.fixture
def done(tiny_sections, tiny_config) -> AnnData:
    """A section with features, each raised by a mark, so that those computed again are known."""
    section = complete_section(tiny_sections["S1"], tiny_config)
    section.obsm["X_image"] += MARK
    return section


def test_a_large_section_in_order_of_its_names_is_not_copied(tiny_sections, tiny_config, monkeypatch):
    monkeypatch.setattr("nh2st_graph.train._complete.LARGE", 1)
    given = tiny_sections["S1"]
    given = given[np.argsort(given.obs_names)].copy()
    held = [(part, list(getattr(given, part))) for part in ("obs", "obsm", "obsp", "uns")]
    found = complete_section(given, tiny_config)
    assert np.shares_memory(found.X.data, given.X.data)
    assert [(part, list(getattr(given, part))) for part, _ in held] == held  # nothing is written into it
    copied = complete_section(given[::-1].copy(), tiny_config)
    assert not np.shares_memory(copied.X.data, given.X.data)
    assert list(copied.obs_names) == list(found.obs_names) == list(given.obs_names)
    assert (copied.X != found.X).nnz == 0
    assert_array_equal(copied.obsm["X_image"], found.obsm["X_image"])


def kept(section: AnnData, config: Config) -> bool:
    return bool((complete_section(section, config).obsm["X_image"] > MARK / 2).all())


def metadata(section: AnnData) -> dict[str, object]:
    entry: dict[str, object] = section.uns["spatial"]["S1"]["metadata"]
    return entry


def other_image(section: AnnData, tmp_path: Path) -> None:
    image = Image.open(str(metadata(section)["source_image_path"]))
    path = tmp_path / "other.png"
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    metadata(section)["source_image_path"] = str(path)


def other_encoder(section: AnnData) -> None:
    known = section.uns["X_image"]["made_from"]
    fingerprint = json.loads(known["encoders"][0])
    known["encoders"] = np.array([json.dumps({**fingerprint, "input_size": 113})], dtype=object)


def other_release(section: AnnData) -> None:
    known = section.uns["X_image"]["made_from"]
    fingerprint = json.loads(known["encoders"][0])
    versions = {**fingerprint["versions"], "squidpy": "0.1"}
    known["encoders"] = np.array([json.dumps({**fingerprint, "versions": versions})], dtype=object)


CHANGES: dict[str, Callable[[AnnData, Path], object]] = {
    "positions": lambda a, _: a.obsm["spatial"].__setitem__((0, 0), a.obsm["spatial"][0, 0] + 1),
    "positions or names": lambda a, _: a.obsm.__setitem__("spatial", a.obsm["spatial"][::-1].copy()),
    "names": lambda a, _: setattr(a, "obs_names", [f"x{name}" for name in a.obs_names]),
    r"resolution \(2 -> 1\.9 um per px\)": lambda a, _: metadata(a).update(microns_per_pixel=1.9),
    "image": other_image,
    r"encoder \(input_size: 113 -> 112\)": lambda a, _: other_encoder(a),
    r"release of squidpy 0\.1": lambda a, _: other_release(a),
    "the way patches are cut": lambda a, _: a.uns["X_image"]["made_from"].update(format=0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_features_of_other_content_are_computed_again_and_said(done, tiny_config, tmp_path, caplog, change):
    CHANGES[change](done, tmp_path)
    assert not kept(done, tiny_config)
    (said,) = [r.getMessage() for r in caplog.records if "computing them again" in r.getMessage()]
    assert said.startswith("section 'S1': its stored image features")
    assert re.search(change, said)


@pytest.mark.parametrize("change", [name for name in CHANGES if name not in {"image", r"release of squidpy 0\.1"}])
def test_they_are_refused_where_the_image_is_not_there(done, tiny_config, tmp_path, change):
    CHANGES[change](done, tmp_path)
    metadata(done)["source_image_path"] = str(tmp_path / "gone.png")
    with pytest.raises(DataError, match=rf"section 'S1': .*{change}.* cannot be computed again: .*gone\.png"):
        complete_section(done, tiny_config)


class TestKept:
    def test_where_nothing_changed(self, done, tiny_config, caplog):
        assert kept(done, tiny_config)
        assert not caplog.records

    def test_through_a_file(self, done, tiny_config, tmp_path):
        read.write_h5ad(done, tmp_path / "S1.h5ad")
        assert kept(read.h5ad_section(tmp_path / "S1.h5ad"), tiny_config)

    def test_by_some_of_the_spots_in_any_order(self, done, tiny_config):
        assert kept(done[np.random.default_rng(0).permutation(done.n_obs)[:20]].copy(), tiny_config)

    def test_where_the_image_is_not_there(self, done, tiny_config, tmp_path, caplog):
        metadata(done)["source_image_path"] = str(tmp_path / "gone.png")
        with caplog.at_level("INFO", "nh2st_graph"):
            assert kept(done, tiny_config)
        assert "stored image features are used without their images" in caplog.text

    def test_beside_other_libraries(self, done, tiny_config):
        entry = done.uns["spatial"].pop("S1")
        done.uns["spatial"] |= {"other": entry, "another": entry}
        assert kept(done, tiny_config)

    def test_of_another_image_that_was_asked_for(self, tiny_sections, tiny_config, tmp_path):
        section = tiny_sections["S1"].copy()
        source = Path(str(metadata(section)["source_image_path"]))
        Image.open(source).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "other.png")
        im.features(section, "squidpy:summary", 112, img=tmp_path / "other.png", check_placement=False, progress=False)
        section.obsm["X_image"] += MARK
        assert kept(section, tiny_config)

    def test_of_another_release_where_the_image_is_not_there(self, done, tiny_config, tmp_path, caplog):
        other_release(done)
        metadata(done)["source_image_path"] = str(tmp_path / "gone.png")
        assert kept(done, tiny_config)
        assert "squidpy 0.1 -> " in caplog.text


class TestOfAnEarlierVersion:
    """Which have the key of the cache alone."""

    @pytest.fixture
    def earlier(self, done) -> AnnData:
        del done.uns["X_image"]["made_from"]
        return done

    def test_are_used_where_their_key_agrees(self, earlier, tiny_config, caplog):
        assert kept(earlier, tiny_config)
        assert not caplog.records

    def test_are_computed_again_where_it_does_not(self, earlier, tiny_config, caplog):
        metadata(earlier)["microns_per_pixel"] = 1.9
        assert not kept(earlier, tiny_config)
        assert "computing them again" in caplog.text

    def test_are_used_and_said_where_it_cannot_be_checked(self, earlier, tiny_config, tmp_path, caplog):
        metadata(earlier)["source_image_path"] = str(tmp_path / "gone.png")
        assert kept(earlier, tiny_config)
        assert "cannot be checked" in caplog.text


def test_patches_at_whole_pixels(tiny_sections, tiny_config):
    """Features are those of a section whose spots lie there; positions stay as they are."""
    section = tiny_sections["S1"].copy()
    section.obsm["spatial"] = section.obsm["spatial"] + 0.7
    at_whole = section.copy()
    at_whole.obsm["spatial"] = np.floor(section.obsm["spatial"])
    floored = complete_section(section, tiny_config.override(["features.floor_centres=true"]))
    exact = complete_section(section, tiny_config)
    assert_array_equal(floored.obsm["X_image"], complete_section(at_whole, tiny_config).obsm["X_image"])
    assert not np.array_equal(floored.obsm["X_image"], exact.obsm["X_image"])
    assert_array_equal(floored.obsm["spatial"], exact.obsm["spatial"])
    floored.obsm["X_image"] += MARK
    assert not kept(floored, tiny_config), "of other centres"
    assert kept(floored, tiny_config.override(["features.floor_centres=true"]))


@pytest.mark.parametrize("encoder", ["squidpy:summary+histogram", "pixels:2", "timm:test_vit@random"])
def test_a_section_without_features_gets_them_from_the_encoder_of_training(few_spots, quick_config, tmp_path, encoder):
    config = quick_config.override([f"features.encoder={encoder}", "features.cache=null"])
    model = tl.fit({"S1": few_spots["S1"]}, config)
    model.save(tmp_path / "model")
    expected = tl.predict(complete_section(few_spots["S3"], config), model)
    for each in (model, load(tmp_path / "model")):
        assert_array_equal(tl.predict(few_spots["S3"], each).X, expected.X)


class TestAuto:
    """Encoders that nobody named."""

    @pytest.fixture(autouse=True)
    def without_the_extra(self, monkeypatch):
        for file in ("_default", "_weights"):
            monkeypatch.setattr(f"nh2st_graph.im.{file}.is_packaged", lambda package: False)

    @pytest.fixture
    def config(self, quick_config: Config) -> Config:
        return quick_config.override(["features.encoder=auto"])

    def test_a_model_says_what_was_chosen(self, few_spots, config, tmp_path, monkeypatch):
        tl.fit({"S1": few_spots["S1"]}, config).save(tmp_path)
        monkeypatch.setattr("nh2st_graph.im._default.is_packaged", lambda package: True)  # installed meanwhile
        model = load(tmp_path)
        assert model.config.features.blocks == [("handcrafted", size) for size in (112, 224, 448)]
        assert tl.predict(few_spots["S3"], model).n_obs == few_spots["S3"].n_obs

    def test_takes_the_features_of_im(self, few_spots, config):
        section = few_spots["S1"].copy()
        im.features(section, progress=False, device="cpu")
        section.obsm["X_image"] += MARK
        assert kept(section, config)
        assert not kept(section, config.override(["features.encoders=[[handcrafted, 112], [handcrafted, 224]]"]))

    def test_a_model_of_the_extra_needs_it(self, tiny_sections, config):
        theirs = config.change({"features.encoders": [["handcrafted", 112], ["efficientnet-lite0", 112]]})
        expected = [{"encoder": "handcrafted"}, {"encoder": "timm", "architecture": "tf_efficientnet_lite0"}]
        preparation = Preparation.of(theirs, [], Standardizer(), Sources(trust=False), expected)
        with pytest.raises(ConfigError, match=r"the model's encoder 'efficientnet-lite0'.*nh2st-graph\[imagenet\]"):
            preparation.prepare(tiny_sections["S1"])

    @pytest.mark.parametrize(
        ("sizes", "says"),
        [
            (112.0, "encoder='squidpy:summary' and patch_um=112.0"),
            ((112.0, 56.0), r"encoders=\[\['squidpy:summary', 112"),
        ],
    )
    def test_other_features_of_a_section_without_image_are_named(self, tiny_sections, config, tmp_path, sizes, says):
        section = tiny_sections["S1"].copy()
        im.features(section, [("squidpy:summary", size) for size in np.atleast_1d(sizes)], progress=False)
        metadata(section)["source_image_path"] = str(tmp_path / "gone.png")
        with pytest.raises(ImageError, match=rf"gone\.png.*the features that it has, give {says}"):
            complete_section(section, config)
