"""Predicting files: sections, stores and slides; what is there already, the bar, and memory."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from numpy.testing import assert_array_equal
from tifffile import TiffWriter

from nh2st_graph import ConfigError, DataError, ImageError, ModelError, RunError, read, tl
from nh2st_graph.confidence import OF_KNOWN, OF_NEW
from nh2st_graph.slide import _tiff
from nh2st_graph.study._memory import peak_memory
from nh2st_graph.tl._found import readable
from nh2st_graph.train import Standardizer

from ..prepared import complete_section
from ..slides import tissue_image, write_pyramid

Write = Callable[..., Path]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def write(tiny_sections, tmp_path) -> Write:
    def write(name: str, section: AnnData, folder: str = "given") -> Path:
        read.write_h5ad(section, tmp_path / folder / f"{name}.h5ad")
        return tmp_path / folder / f"{name}.h5ad"

    return write


@pytest.fixture(scope="module")
def store(tiny_sections, tmp_path_factory) -> Path:
    """A section as SpatialData. Copy what you change."""
    path = tmp_path_factory.mktemp("store") / "S3.zarr"
    read.write_spatialdata(tiny_sections["S3"], path)
    return path


@pytest.fixture
def without_scale(tiny_sections) -> AnnData:
    section = tiny_sections["S3"].copy()
    del section.uns["spatial"]["S3"]["metadata"]["microns_per_pixel"]
    return section


class TestRefusesBeforeItLoads:
    """What arguments and the description of the model rule out."""

    @pytest.fixture
    def model(self, tiny_run, tmp_path) -> Path:
        """A description whose weights are never read."""
        (tmp_path / "model").mkdir()
        return Path(shutil.copy(tiny_run.folder / "model.json", tmp_path / "model")).parent

    @staticmethod
    def describe(model: Path, part: str, **changes: str) -> None:
        about = json.loads((model / "model.json").read_text())
        about["config"][part].update(changes)
        (model / "model.json").write_text(json.dumps(about))

    @pytest.mark.parametrize("inside", ["nothing", "S3.h5ad"])
    def test_a_folder_that_is_no_store(self, model, tmp_path, inside):
        (tmp_path / "h2").mkdir()
        (tmp_path / "h2" / inside).touch()
        with pytest.raises(DataError, match=r"h2 holds no sections: .*SpatialData") as caught:
            tl.predict_run(model, [tmp_path / "h2"], tmp_path / "out")
        assert ("S3.h5ad" in str(caught.value)) == (inside == "S3.h5ad")
        assert "data." not in caught.value.at("flag")

    def test_a_method_that_needs_trust(self, model, tmp_path):
        self.describe(model, "model", name="helper:Thing")
        for check in (
            lambda **how: tl.check_prediction(model, [], tmp_path / "out", **how),
            lambda **how: tl.check_evaluation(model, **how),
        ):
            with pytest.raises(ModelError, match=r"'helper:Thing' is code of a file .*trust=True"):
                check()
        tl.check_prediction(model, [], tmp_path / "out", trust=True)

    def test_an_encoder_that_needs_trust_on_a_slide(self, model, tmp_path):
        self.describe(model, "features", encoder="timm:resnet18@weights.pth")
        slide = write_pyramid(tmp_path / "s.tif", 64, 0.5)
        with pytest.raises(ModelError, match=r"the file weights\.pth is not opened .*trust=True"):
            tl.check_prediction(model, [slide], tmp_path / "out")
        tl.check_prediction(model, [slide], tmp_path / "out", trust=True)
        mine = tmp_path / "mine.pth"
        with pytest.raises(ConfigError, match=r"mine\.pth does not exist"):
            tl.check_prediction(model, [slide], tmp_path / "out", encoder=f"timm:resnet18@{mine}")
        mine.touch()
        tl.check_prediction(model, [slide], tmp_path / "out", encoder=f"timm:resnet18@{mine}")

    def test_several_sections_of_one_file_do_not_go_into_one(self, model, tiny_sections, tmp_path):
        both = ad.concat({name: tiny_sections[name] for name in ("S1", "S3")}, label="slide", index_unique="-")
        both.write_h5ad(tmp_path / "both.h5ad")
        with pytest.raises(RunError, match=r"one\.h5ad.* is one file for 2 sections"):
            tl.check_prediction(model, [tmp_path / "both.h5ad"], tmp_path / "one.h5ad", library_key="slide")
        with pytest.raises(DataError, match="library_key='nope'") as caught:
            tl.check_prediction(model, [tmp_path / "both.h5ad"], tmp_path / "out", library_key="nope")
        assert "--library-key nope" in caught.value.at("flag", {"library_key"})


@pytest.fixture
def two_scenes(tmp_path) -> Path:
    """An OME-TIFF of two scans of equal standing: white glass, and tissue."""
    path = tmp_path / "two.ome.tif"
    with TiffWriter(path, ome=True) as file:
        for name, pixels in {"glass": np.full((600, 600, 3), 243, np.uint8), "tissue": tissue_image(600, 2.0)}.items():
            about = {"axes": "YXS", "Name": name, "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0}
            file.write(pixels, photometric="rgb", tile=(64, 64), metadata=about)
    return path


class TestScenes:
    def test_several_are_listed_before_anything_is_loaded(self, tiny_run, two_scenes, tmp_path):
        with pytest.raises(ImageError, match=r"glass.*tissue"):
            tl.check_prediction(tiny_run.folder, [two_scenes], tmp_path / "out")

    def test_the_chosen_one_is_predicted(self, tiny_run, two_scenes, tmp_path):
        alone = write_pyramid(tmp_path / "alone.tif", 600, 2.0, image=tissue_image(600, 2.0), levels=1)
        written = tl.predict_run(tiny_run.folder, [f"{two_scenes}#tissue", alone], tmp_path / "out")
        assert [path.name for path in written] == ["two_tissue.h5ad", "alone.h5ad"]
        chosen, same = (read.h5ad_section(path) for path in written)
        assert chosen.n_obs > 0
        assert_array_equal(chosen.X, same.X)
        assert_array_equal(chosen.obsm["spatial"], same.obsm["spatial"])
        with pytest.raises(DataError, match="no tissue found"):
            tl.predict_run(tiny_run.folder, [f"{two_scenes}#glass"], tmp_path / "out")


class TestPredictFiles:
    def test_one_file_a_section_by_its_name_and_at_the_end_what_can_be_read(
        self, tiny_run, tiny_sections, write, tmp_path, caplog
    ):
        paths = [write("first", tiny_sections["S1"]), write("second", tiny_sections["S3"][:, :0].copy())]
        with caplog.at_level("INFO", logger="nh2st_graph"):
            written = tl.predict_run(tiny_run.folder, paths, tmp_path / "out" / "there")
        said = [record.getMessage() for record in caplog.records if record.name == "nh2st_graph"]
        assert said[-2] == f"S1: {readable(tiny_run.model, OF_KNOWN)}"
        assert said[-1] == f"S3: {readable(tiny_run.model, OF_NEW)}"
        assert written == [tmp_path / "out" / "there" / f"{name}.h5ad" for name in ("S1", "S3")]
        stored = ad.read_h5ad(written[1])
        assert_array_equal(stored.X, tiny_run.evaluation.predictions["S3"].X)
        assert "observed" not in stored.layers
        assert "observed" in ad.read_h5ad(written[0]).layers
        assert sorted((tmp_path / "out" / "there").iterdir()) == written

    def test_a_store_is_predicted_as_its_section_is(self, tiny_run, store, tmp_path):
        (written,) = tl.predict_run(tiny_run.folder, [store], tmp_path / "store")
        assert_array_equal(ad.read_h5ad(written).X, tiny_run.evaluation.predictions["S3"].X)
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match=r"empty holds no sections"):
            tl.predict_run(tiny_run.folder, [tmp_path / "empty"], tmp_path / "none")

    def test_a_model_alone_predicts(self, tiny_run, tiny_sections, write, tmp_path):
        tiny_run.model.save(tmp_path / "model")
        (written,) = tl.predict_run(tmp_path / "model", [write("S3", tiny_sections["S3"])], tmp_path / "out")
        assert_array_equal(ad.read_h5ad(written).X, tiny_run.evaluation.predictions["S3"].X)

    def test_a_section_travels_with_its_image(self, tiny_run, tiny_sections, write, tmp_path):
        """A relative path is looked for beside the file."""
        section = tiny_sections["S3"].copy()
        metadata = section.uns["spatial"]["S3"]["metadata"]
        shutil.copy(metadata["source_image_path"], tmp_path / "scan.jpg")
        metadata["source_image_path"] = "scan.jpg"
        path = write("S3", section, ".")
        (written,) = tl.predict_run(tiny_run.folder, [path], tmp_path / "out")
        assert_array_equal(ad.read_h5ad(written).X, tiny_run.evaluation.predictions["S3"].X)

    def test_none_is_written_where_one_cannot_be(self, tiny_run, tiny_sections, write, tmp_path):
        good, other = write("S1", tiny_sections["S1"]), write("S3", tiny_sections["S3"])
        out = tmp_path / "out"
        with pytest.raises(RunError, match="a section named 'S1' was given already"):
            tl.predict_run(tiny_run.folder, [good, other, write("again", tiny_sections["S1"])], out)
        one_spot = write("one", tiny_sections["S2"][:1].copy())
        with pytest.raises(DataError, match="section 'S2': one spot alone"):
            tl.predict_run(tiny_run.folder, [good, one_spot], out)
        assert not out.exists()
        write("S3", tiny_sections["S3"], "out")
        before = files(out)
        with pytest.raises(RunError, match=r"S3\.h5ad exists already"):
            tl.predict_run(tiny_run.folder, [good, other], out)
        assert files(out) == before


class TestScale:
    def test_is_given_where_a_section_has_none(self, tiny_run, without_scale, tiny_sections, write, tmp_path):
        path = write("S3", without_scale)
        with pytest.raises(DataError, match=r"section 'S3': .*microns_per_pixel"):
            tl.predict_run(tiny_run.folder, [path], tmp_path / "out")
        scale = tiny_sections["S3"].uns["spatial"]["S3"]["metadata"]["microns_per_pixel"]
        (written,) = tl.predict_run(tiny_run.folder, [path], tmp_path / "out", microns_per_pixel=scale)
        assert_array_equal(ad.read_h5ad(written).X, tiny_run.evaluation.predictions["S3"].X)

    def test_is_given_where_a_store_has_none(self, tiny_run, without_scale, tiny_sections, tmp_path):
        read.write_spatialdata(without_scale, tmp_path / "S3.zarr")
        with pytest.raises(DataError, match="no scale"):
            tl.predict_run(tiny_run.folder, [tmp_path / "S3.zarr"], tmp_path / "out")
        scale = tiny_sections["S3"].uns["spatial"]["S3"]["metadata"]["microns_per_pixel"]
        (written,) = tl.predict_run(tiny_run.folder, [tmp_path / "S3.zarr"], tmp_path / "out", microns_per_pixel=scale)
        assert_array_equal(ad.read_h5ad(written).X, tiny_run.evaluation.predictions["S3"].X)

    def test_that_is_given_wins_and_is_said(self, tiny_run, tiny_sections, write, tmp_path, caplog, monkeypatch):
        path = write("S3", tiny_sections["S3"])
        (written,) = tl.predict_run(tiny_run.folder, [path], tmp_path / "out", microns_per_pixel=3.5)
        assert ad.read_h5ad(written).uns["spatial"]["S3"]["metadata"]["microns_per_pixel"] == 3.5
        found = tiny_sections["S3"].uns["spatial"]["S3"]["metadata"]["microns_per_pixel"]
        assert f"section 'S3': the file says {found:.4g} um per pixel; the given 3.5 is used" in caplog.text


def test_a_store_with_several_tables_takes_the_one_that_is_named(tiny_run, store, tmp_path):
    """Such as one that a prediction was put into."""
    spatialdata = pytest.importorskip("spatialdata")
    copied = spatialdata.read_zarr(shutil.copytree(store, tmp_path / "S3.zarr"))
    expected = tl.predict(copied, tiny_run.model, key_added="predicted")
    copied.write_element("predicted")
    with pytest.raises(DataError, match=r"2 candidates for the table \(predicted, table\)"):
        tl.predict_run(tiny_run.folder, [tmp_path / "S3.zarr"], tmp_path / "out")
    (written,) = tl.predict_run(tiny_run.folder, [tmp_path / "S3.zarr"], tmp_path / "out", table="table")
    assert_array_equal(ad.read_h5ad(written).X, expected.X)


def test_outputs_that_are_there_are_kept_on_resume(tiny_run, tiny_sections, write, tmp_path, monkeypatch):
    paths, out = [write(name, tiny_sections[name]) for name in ("S1", "S3")], tmp_path / "out"
    write_store, begun = read.write_spatialdata, []

    def interrupted(*given, **options):
        begun.append(given)
        if len(begun) == 2:
            raise KeyboardInterrupt
        write_store(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(read, "write_spatialdata", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tl.predict_run(tiny_run.folder, paths, out, spatialdata=True)
    assert {path.name for path in out.iterdir()} == {"S1.h5ad", "S1.zarr", "S3.h5ad"}
    before = files(out)
    with pytest.raises(RunError, match=r"S1\.h5ad exists already; .*resume=True.* out,"):
        tl.predict_run(tiny_run.folder, paths, out, spatialdata=True)
    assert files(out) == before

    assert tl.predict_run(tiny_run.folder, paths, out, spatialdata=True, resume=True) == [out / "S3.zarr"]
    after = files(out)
    assert {name: after[name] for name in before} == before
    (table,) = pytest.importorskip("spatialdata").read_zarr(out / "S3.zarr").tables.values()
    assert_array_equal(table.X, tiny_run.evaluation.predictions["S3"].X)
    assert tl.predict_run(tiny_run.folder, paths, out, spatialdata=True, resume=True) == []
    with pytest.raises(RunError, match="another choice of genes"):
        tl.predict_run(tiny_run.folder, paths, out, resume=True, genes=tiny_run.model.genes[:3])


class TestBar:
    """The run was trained without."""

    @pytest.fixture
    def said(self, tiny_run, tiny_sections, write, tmp_path, monkeypatch, capsys) -> Callable[..., str]:
        monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("TERM", "xterm")
        path = write("S3", tiny_sections["S3"])
        assert not tiny_run.model.config.train.progress

        def said(**options: bool) -> str:
            tl.predict_run(tiny_run.folder, [path], tmp_path / "out", **options)
            return capsys.readouterr().err

        return said

    def test_is_drawn_on_a_terminal(self, said, monkeypatch):
        monkeypatch.setenv("FORCE_COLOR", "1")
        drawn = said()
        assert "S3: squidpy:summary" in drawn
        assert "64/64" in drawn

    def test_is_not_drawn_where_it_is_turned_off(self, said, monkeypatch):
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert "squidpy" not in said(progress=False)

    def test_is_not_drawn_into_a_file(self, said, monkeypatch):
        monkeypatch.delenv("FORCE_COLOR", raising=False)
        assert "squidpy" not in said()


def write_slide(path: Path, side: int, microns_per_pixel: float) -> Path:
    """Write a pyramid down to 2048 px of two encoded tiles, tissue and glass, none of it ever in memory."""
    length = 512
    tissue = tissue_image(2 * length)[length // 2 : -length // 2, length // 4 : length // 4 + length]
    encoded = [zlib.compress(square.tobytes(), 1) for square in (np.full_like(tissue, 244), tissue)]

    def tiles(side: int) -> Iterator[bytes]:
        count = side // length
        for row in range(count):
            for column in range(count):
                yield encoded[4 * column // count == 1 and 4 * row // count in (1, 2)]

    levels = [side]
    while levels[-1] > 2048:
        levels.append(levels[-1] // 2)
    options = {"tile": (length, length), "dtype": np.uint8, "compression": "zlib", "photometric": "rgb"}
    first = {"resolution": (1e4 / microns_per_pixel,) * 2, "resolutionunit": "CENTIMETER", "subifds": len(levels) - 1}
    with TiffWriter(path, bigtiff=True) as file:
        for each in levels:
            more = first if each == side else {"subfiletype": 1}
            file.write(tiles(each), shape=(each, each, 3), metadata=None, **options, **more)
    return path


def test_memory_does_not_grow_with_a_slide(tiny_run, tmp_path, monkeypatch):
    """From the file to h5ad and SpatialData, of 8 mm at 4 um per pixel, and then at 0.5: 64 times as many pixels."""
    pytest.importorskip("spatialdata")
    monkeypatch.setattr(_tiff, "KEPT_BYTES", 2**25)
    slides = [write_slide(tmp_path / f"{side}.tif", side, 8192 / side) for side in (2048, 16384)]
    # The small one first, which brings in all the code.
    peaks = []
    for slide in slides:
        with peak_memory() as peak:
            written = tl.predict_run(tiny_run.folder, [slide], tmp_path / "out", spatialdata=True)
        peaks.append(peak.megabytes)
    assert 150 < ad.read_h5ad(written[0]).n_obs < 300
    decoded = 16384**2 * 3 / 1e6
    assert decoded > 800
    assert peaks[1] - peaks[0] < 0.4 * decoded


class TestOtherContent:
    """A prediction is of the file as it is now, by this model."""

    @pytest.fixture
    def file(self, tiny_sections, tiny_config, tmp_path) -> Path:
        """A section with stored features."""
        read.write_h5ad(complete_section(tiny_sections["S3"], tiny_config), tmp_path / "S3.h5ad")
        return tmp_path / "S3.h5ad"

    def test_another_resolution_has_other_features(self, file, tiny_run, tiny_sections, tmp_path, caplog):
        (written,) = tl.predict_run(tiny_run.folder, [file], tmp_path / "out", microns_per_pixel=1.9, progress=False)
        rescaled = tiny_sections["S3"].copy()
        rescaled.uns["spatial"]["S3"]["metadata"]["microns_per_pixel"] = 1.9
        assert_array_equal(read.h5ad(written).X, tl.predict(rescaled, tiny_run.model).X)
        assert "resolution (2 -> 1.9 um per px)); computing them again" in caplog.text

    def test_what_another_model_predicted_is_not_kept(self, file, tiny_run, tmp_path):
        out = tmp_path / "out"
        tl.predict_run(tiny_run.folder, [file], out, progress=False)
        assert tl.predict_run(tiny_run.folder, [file], out, resume=True, progress=False) == []
        other = replace(tiny_run.model, standardize=Standardizer(np.zeros(15, np.float32), np.ones(15, np.float32)))
        other.save(tmp_path / "other")
        with pytest.raises(RunError, match=r"S3\.h5ad holds the prediction of another model"):
            tl.predict_run(tmp_path / "other", [file], out, resume=True, progress=False)
        with pytest.raises(RunError, match=r"S3\.h5ad holds the prediction of another resolution"):
            tl.predict_run(tiny_run.folder, [file], out, resume=True, microns_per_pixel=1.9, progress=False)
