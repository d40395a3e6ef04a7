"""Training and prediction on features that another package computed: no image and no encoder is needed."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_array_equal

from nh2st_graph import ConfigError, DataError, ModelError, RunError, im, load, read, tl
from nh2st_graph.cli import main
from nh2st_graph.config import Config
from nh2st_graph.section import Key

from ..prepared import complete_section

UM_PER_PX = 2
SIDE = 56  # pixels of level 0: 112 um


def trident(path: Path, section: AnnData, encoder: str = "uni_v1", side: int = SIDE, width: int | None = None) -> Path:
    values = np.asarray(section.obsm[Key.obsm.image], np.float32)[:, :width]
    with h5py.File(path, "w") as file:
        file["features"] = values
        file["coords"] = np.rint(section.obsm[Key.obsm.spatial] - side / 2).astype(np.int64)
        file["features"].attrs["encoder"] = encoder
        file["coords"].attrs.update({"patch_size": side, "patch_size_level0": side, "level0_magnification": 5})
    return path


def shell(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    assert end.value.code == 0


@pytest.fixture(scope="module")
def featured(few_spots: dict[str, AnnData]) -> dict[str, AnnData]:
    """The sections with features of an encoder; they are shared: copy what you change."""
    done = {name: each.copy() for name, each in few_spots.items()}
    for each in done.values():
        im.features(each, "squidpy:summary", 112.0, progress=False)
    return done


@pytest.fixture(scope="module")
def places(featured: dict[str, AnnData], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sections as h5ad whose images are gone, and files of TRIDENT."""
    root, files = (tmp_path_factory.mktemp(name) for name in ("prepared", "embeddings"))
    for name, section in featured.items():
        bare = AnnData(X=section.X, obs=section.obs, var=section.var, uns=section.uns)
        bare.obsm[Key.obsm.spatial] = section.obsm[Key.obsm.spatial]
        bare = bare.copy()
        del bare.uns[Key.uns.image]
        bare.uns["spatial"][name]["metadata"]["source_image_path"] = "/elsewhere/slide.tif"
        bare.write_h5ad(root / f"{name}.h5ad")
        trident(files / f"{name}.h5", section)
    return root, files


@pytest.fixture(scope="module")
def config(quick_config: Config, places: tuple[Path, Path]) -> Config:
    root, files = places
    changes = {"data.format": "h5ad", "data.root": str(root), "evaluate.figures": False}
    features = {"embeddings": f"{files}/{{section}}.h5", "encoder": "uni", "patch_um": 112}
    return quick_config.change({**changes, "features": features})


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tl.Run:
    """A run on embeddings; it is shared: copy what you change."""
    return tl.train_run(config, tmp_path_factory.mktemp("embedded") / "run")


def test_predictions_are_those_of_the_encoders_features(run, config, featured):
    by_encoder = config.change({"features": {"embeddings": None, "encoder": "squidpy:summary"}})
    model = tl.fit([featured["S1"], featured["S2"]], by_encoder, test_sections=[featured["S3"]])
    assert_array_equal(tl.predict(featured["S3"], model).X, run.evaluation.predictions["S3"].X)


def test_what_a_model_says_of_them(run, capsys):
    (known,) = json.loads((run.folder / "model.json").read_text())["origin"]["encoders"]
    assert known == {"encoder": "embeddings", "name": "uni", "n_features": known["n_features"], "patch_um": 112.0}
    shell("info", run.folder)
    assert "embeddings of uni" in capsys.readouterr().out


class TestPrediction:
    @pytest.fixture
    def new(self, places: tuple[Path, Path], tmp_path: Path) -> Path:
        """A section without genes and image."""
        section = read.h5ad_section(places[0] / "S3.h5ad")[:, :0].copy()
        (tmp_path / "new").mkdir()
        section.write_h5ad(tmp_path / "new" / "S3.h5ad")
        return tmp_path / "new" / "S3.h5ad"

    @pytest.mark.parametrize("place", ["", "S3.h5", "{section}.h5"])
    def test_takes_them_from_a_place(self, run, places, new, tmp_path, place):
        (path,) = tl.predict_run(run.folder, [new], tmp_path / "out", embeddings=places[1] / place)
        assert_array_equal(read.h5ad_section(path).X, run.evaluation.predictions["S3"].X)

    def test_takes_them_from_the_section(self, run, places, new):
        section, model = read.h5ad_section(new), load(run.folder)
        with pytest.raises(ModelError, match=r"'S3' has no embeddings.*uni, patches of 112 um.*ng\.im\.embeddings"):
            tl.predict(section, model)
        im.embeddings(section, places[1] / "S3.h5", key_added="mine")
        assert_array_equal(tl.predict(section, model).X, run.evaluation.predictions["S3"].X)

    def test_opens_files_that_the_model_names_only_if_it_is_trusted(self, run, new, tmp_path):
        with pytest.raises(ModelError, match=r"section 'S3' has no embeddings.* trust=True"):
            tl.predict_run(run.folder, [new], tmp_path / "out")
        (path,) = tl.predict_run(run.folder, [new], tmp_path / "out", trust=True)
        assert_array_equal(read.h5ad_section(path).X, run.evaluation.predictions["S3"].X)

    @pytest.mark.parametrize(
        ("changed", "says"),
        [
            ({"encoder": "uni_v2"}, "features of uni_v2, not of uni"),
            ({"width": 3}, "n_features: .* -> 3"),
            ({"side": 2 * SIDE}, "112"),
        ],
    )
    def test_refuses_another_encoder_length_or_scale(self, run, featured, new, tmp_path, changed, says):
        trident(tmp_path / "S3.h5", featured["S3"], **changed)
        with pytest.raises((ModelError, DataError), match=says) as error:
            tl.predict_run(run.folder, [new], tmp_path / "out", embeddings=tmp_path)
        assert "'S3'" in str(error.value)
        assert not (tmp_path / "out").exists()

    def test_refuses_them_for_a_model_of_an_encoder(self, tiny_run, places, featured, tmp_path):
        featured["S3"].write_h5ad(tmp_path / "S3.h5ad")
        with pytest.raises(ModelError, match="encoder: squidpy -> embeddings"):
            tl.predict_run(tiny_run.folder, [tmp_path / "S3.h5ad"], tmp_path / "out", embeddings=places[1])

    def test_refuses_an_encoder_for_a_model_of_them(self, run, featured, tmp_path):
        model = load(run.folder, encoder="squidpy:summary")
        with pytest.raises(ModelError, match="encoder: embeddings -> squidpy"):
            tl.predict(featured["S3"], model)

    def test_in_the_shell(self, run, places, new, tmp_path, capsys):
        shell("predict", run.folder, new, "--embeddings", places[1], "--out", tmp_path / "out")
        assert (tmp_path / "out" / "S3.h5ad").is_file()
        shell("evaluate", shutil.copytree(run.folder, tmp_path / "run"), "--embeddings", places[1])
        assert "0." in capsys.readouterr().out


class TestConfiguration:
    def test_a_place_without_a_file_is_refused_before_anything_is_read(self, config, tmp_path):
        for place, says in (
            (tmp_path, r"no file of section 'S1' \(there: nothing\)"),
            (tmp_path / "nowhere", "nowhere does not exist"),
            (tmp_path / "{section}.h5", r"S1\.h5 does not"),
        ):
            with pytest.raises(DataError, match=says):
                tl.check_run(config.change({"features.embeddings": str(place)}), tmp_path / "run")

    @pytest.mark.parametrize(
        "beside",
        [
            {"encoders": ["squidpy:summary"]},
            {"patch_um": "auto"},
            {"views": 8},
            {"stain": "macenko"},
            {"stain_views": 3},
            {"finetune": True, "encoder": "timm:resnet18"},
            {"floor_centres": True},
        ],
    )
    def test_settings_of_encoders_are_refused(self, beside):
        with pytest.raises(ConfigError, match=rf"features\.embeddings.*features\.{next(iter(beside))}"):
            Config.parse({"features": {"embeddings": "files", **beside}})

    def test_a_method_that_reads_places_is_refused(self, config, tmp_path):
        from nh2st_graph.config import load_config

        path = tmp_path / "config.yaml"
        path.write_text("model: {name: triplex}\nfeatures: {embeddings: files}\n")
        with pytest.raises(ConfigError, match=r"triplex.* cannot read .*features\.embeddings"):
            load_config(path)

    def test_an_entry_of_obsm(self, config, featured, caplog):
        sections = [featured[name].copy() for name in ("S1", "S2", "S3")]
        for each in sections:
            each.obsm["uni2h"] = each.obsm.pop(Key.obsm.image)[:, ::-1]
            del each.uns[Key.uns.image]
        by_key = config.change({"features": {"embeddings": "obsm:uni2h", "encoder": "uni2-h"}})
        with caplog.at_level(logging.WARNING):
            model = tl.fit(sections[:2], by_key)
        assert model.origin["encoders"][0]["name"] == "uni2-h"
        assert tl.predict(sections[2], model).n_obs == sections[2].n_obs
        del sections[2].obsm["uni2h"]
        with pytest.raises(DataError, match=r"'S3' has no obsm\['uni2h'\]"):
            tl.predict(sections[2], model)

    def test_training_sections_of_two_encoders(self, config, featured, tmp_path):
        for name, encoder in (("S1", "virchow"), ("S2", "virchow2")):
            trident(tmp_path / f"{name}.h5", featured[name], encoder)
        other = config.change({"features": {"embeddings": str(tmp_path), "encoder": Config().features.encoder}})
        with pytest.raises(DataError, match=r"'S1' and 'S2'.*virchow -> virchow2"):
            tl.fit([featured["S1"], featured["S2"]], other)

    def test_one_file_for_two_sections(self, config, featured, places):
        one = config.change({"features.embeddings": str(places[1] / "S1.h5")})
        with pytest.raises(DataError, match="several sections"):
            tl.fit([featured["S1"], featured["S1"].copy(), featured["S2"]][1:], one)

    def test_paths_are_kept_absolute(self, config, run):
        stored = Config.parse(json.loads((run.folder / "model.json").read_text())["config"])
        assert Path(stored.features.embeddings).is_absolute()


class TestSpotsWithout:
    @pytest.fixture
    def fewer(self, config: Config, featured: dict[str, AnnData], tmp_path: Path) -> Config:
        for name, section in featured.items():
            trident(tmp_path / f"{name}.h5", section[2:])
        return config.change({"features.embeddings": str(tmp_path)})

    def test_are_refused(self, fewer, tmp_path):
        with pytest.raises(DataError, match=r"2 of \d+ spots have no row"):
            tl.train_run(fewer, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_are_left_out(self, fewer, featured, places, tmp_path):
        dropped = fewer.change({"features.missing": "drop"})
        run = tl.train_run(dropped, tmp_path / "run")
        names = list(run.evaluation.predictions["S3"].obs_names)
        assert names == list(featured["S3"].obs_names[2:])
        out = tl.predict_run(run.folder, [places[0] / "S3.h5ad"], tmp_path / "out", embeddings=tmp_path)
        assert list(read.h5ad_section(out[0]).obs_names) == names
        with pytest.raises(DataError, match="2 of"):
            tl.predict(read.h5ad_section(places[0] / "S3.h5ad"), load(run.folder, embeddings=tmp_path))


def test_other_embeddings_are_seen_on_resuming(config, tiny_config, featured, places, tmp_path):
    """The digest of features is part of what weights rest on."""
    shutil.copytree(places[1], tmp_path / "files")
    network = {"model": tiny_config.model.model_dump(), "train.max_epochs": 1, "train.refit": False}
    here = config.change({**network, "features.embeddings": str(tmp_path / "files")})
    scores = tl.train_run(here, tmp_path / "run").folder / "metrics.json"
    scores.unlink()
    tl.train_run(here, tmp_path / "run", resume=True)
    scores.unlink()
    changed = featured["S1"].copy()
    changed.obsm[Key.obsm.image] = changed.obsm[Key.obsm.image] + 1
    trident(tmp_path / "files" / "S1.h5", changed)
    with pytest.raises(
        RunError, match="begun with other data or settings: section 'S1' has other image features; resume"
    ):
        tl.train_run(here, tmp_path / "run", resume=True)


def test_prepared_sections_bring_them(config, places, featured):
    prepared = complete_section(read.h5ad_section(places[0] / "S1.h5ad"), config)
    order = featured["S1"].obs_names.get_indexer(prepared.obs_names)
    assert_array_equal(prepared.obsm[Key.obsm.image], featured["S1"].obsm[Key.obsm.image][order])
    again = complete_section(prepared, config.change({"features.embeddings": "obsm:X_image"}))
    assert_array_equal(again.obsm[Key.obsm.image], prepared.obsm[Key.obsm.image])
    assert isinstance(again.uns[Key.uns.image]["made_from"]["embeddings"], str)
    assert pd.notna(again.uns[Key.uns.image]["patch_um"])
