"""The stain reference of a model: from its training sections alone, kept with it, and the same for every section."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

import nh2st_graph as ng
from nh2st_graph import Config, ConfigError, ImageError, ModelError, im, tl
from nh2st_graph.section import full_image

from ..prepared import complete_section


@pytest.fixture(scope="module")
def train(few_spots) -> dict[str, AnnData]:
    return {name: few_spots[name] for name in ("S1", "S2")}


@pytest.fixture(scope="module")
def config(quick_config) -> Config:
    return quick_config.change({"features.stain": "reinhard"})


@pytest.fixture(scope="module")
def model(train, config) -> tl.FittedModel:
    return tl.fit(train, config)


def negative(section: AnnData, folder: Path) -> AnnData:
    """The section with an image of other colours."""
    path = folder / "negative.png"
    ImageOps.solarize(Image.open(full_image(section).path), 200).save(path)
    copy = section.copy()
    (entry,) = copy.uns["spatial"].values()
    entry["metadata"]["source_image_path"] = str(path)
    return copy


def test_the_reference_is_of_the_training_sections_alone(model, train, few_spots, config, tmp_path):
    assert model.stain == im.stain_reference(train, "reinhard")
    other = tl.fit(train, config, test_sections={"S3": negative(few_spots["S3"], tmp_path)})
    assert other.stain == model.stain


def test_each_fold_has_its_own_reference(model, few_spots, config):
    """As in a study that leaves one section out."""
    fold = tl.fit([few_spots["S2"], few_spots["S3"]], config)
    assert fold.stain == im.stain_reference({name: few_spots[name] for name in ("S2", "S3")}, "reinhard")
    assert fold.stain != model.stain


def test_a_loaded_model_brings_a_new_slide_to_it(model, few_spots, tmp_path):
    model.save(tmp_path)
    again = ng.load(tmp_path)
    assert again.stain == model.stain
    assert again.digest == model.digest
    section = few_spots["S3"]
    predicted = tl.predict(section, again)
    assert_array_equal(predicted.X, tl.predict(section, model).X)
    features = im.features(section, "squidpy:summary", 112, stain=model.stain, progress=False, copy=True)
    prepared = again.preparation.prepare(section).section[features.obs_names]
    assert_array_equal(prepared.obsm["X_image"], features.obsm["X_image"])


def test_without_a_stain_nothing_is_kept(train, quick_config, tmp_path):
    plain = tl.fit(train, quick_config)
    plain.save(tmp_path)
    assert plain.stain is None
    assert "stain" not in json.loads((tmp_path / "model.json").read_text())
    assert "stain" not in plain.preparation.prepare(train["S1"]).section.uns["X_image"]


@pytest.mark.parametrize("wrong", [None, {"method": "reinhard"}, "macenko"])
def test_a_model_without_its_reference_is_refused(model, train, tmp_path, wrong):
    model.save(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    if wrong == "macenko":
        reference = im.stain_reference(train, "macenko")
        wrong = {"method": "macenko", "stain_matrix": reference.stain_matrix.tolist(), "white_point": [255] * 3}
    description["stain"] = wrong
    (tmp_path / "model.json").write_text(
        json.dumps({key: value for key, value in description.items() if value is not None})
    )
    with pytest.raises(ModelError, match="stain"):
        ng.load(tmp_path)


def test_features_are_cached_by_reference(train, tmp_path):
    """One file for each reference, and one without."""
    section = train["S1"].copy()
    references = [None, *(im.stain_reference(train, method) for method in ("reinhard", "macenko"))]
    keys, values = set(), []
    for stain in references:
        im.features(section, "squidpy:summary", stain=stain, cache=tmp_path, progress=False)
        keys |= set(section.uns["X_image"]["cache_key"])
        values.append(section.obsm["X_image"].copy())
    assert len(keys) == len(list(tmp_path.iterdir())) == len(references)
    assert all(np.abs(one - values[0]).max() > 0.5 for one in values[1:])
    im.features(section, "squidpy:summary", stain=references[1], cache=tmp_path, progress=False)
    assert_array_equal(section.obsm["X_image"], values[1])


def test_stored_features_count_with_the_same_reference_only(model, train, config, tiny_config, tmp_path):
    """Features of other colours would be of another encoder."""
    kept = {}
    for name, stain in {"none": None, "own": model.stain, "other": im.stain_reference(train["S1"], "reinhard")}.items():
        section = im.features(train["S1"], "squidpy:summary", 112, stain=stain, progress=False, copy=True)
        section.obsm["X_image"] += 1000
        section.write_h5ad(tmp_path / "section.h5ad")
        section = ng.read.h5ad_section(tmp_path / "section.h5ad")
        kept[name] = bool((model.preparation.prepare(section).section.obsm["X_image"] > 500).all())
        if name != "other":
            plain = complete_section(section, tiny_config)
            assert bool((plain.obsm["X_image"] > 500).all()) == (name == "none")
    assert kept == {"none": False, "own": True, "other": False}


def test_training_needs_the_images(train, config, tmp_path):
    gone = {name: section.copy() for name, section in train.items()}
    im.features(gone["S2"], "squidpy:summary", 112, progress=False)
    (entry,) = gone["S2"].uns["spatial"].values()
    entry["metadata"]["source_image_path"] = str(tmp_path / "gone.png")
    with pytest.raises(ImageError, match=r"stain='reinhard'.*'S2'"):
        tl.fit(gone, config)


def test_sections_are_not_prepared_with_a_reference_of_no_one(config, tmp_path):
    with pytest.raises(ConfigError, match="stain"):
        tl.prepare_sections(config, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()
