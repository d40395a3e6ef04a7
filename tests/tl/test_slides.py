"""Whole slides: predicted without any genes, on the lattice of training, and gone on with after an interruption."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from nh2st_graph import ConfigError, DataError, ImageError, RunError, im, tl
from nh2st_graph.cli import main
from nh2st_graph.im import Lattice, SquidpyEncoder
from nh2st_graph.section import Key
from nh2st_graph.slide import WsiSlide, open_slide
from nh2st_graph.train import training_lattice

from ..slides import philips, tissue_image, write_pyramid

#: Pixels of a slide, and um of each.
SIDE, MPP = 1024, 4.0


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    """4 mm of slide, a disc of tissue of 2 mm, no gene."""
    return write_pyramid(tmp_path_factory.mktemp("slides") / "new.tif", SIDE, MPP)


class TestLattice:
    def test_of_training_is_in_the_model(self, tiny_run, tiny_sections):
        (entry,) = tiny_sections["S1"].uns["spatial"].values()
        spot_um = entry["scalefactors"]["spot_diameter_fullres"] * entry["metadata"]["microns_per_pixel"]
        assert tiny_run.model.lattice == tl.load(tiny_run.folder).lattice
        assert tiny_run.model.lattice.layout == "grid"
        assert tiny_run.model.lattice.pitch_um == pytest.approx(200.0)
        assert tiny_run.model.lattice.spot_um == pytest.approx(spot_um)

    @pytest.mark.parametrize("layout", ["grid", "hex"])
    def test_is_found_again_on_a_slide(self, slide, layout):
        sections = [im.virtual_spots(slide, pitch_um=p, spot_um=60.0, layout=layout) for p in (120.0, 150.0, 180.0)]
        found = training_lattice(sections)
        assert found.layout == layout
        assert (found.pitch_um, found.spot_um) == (pytest.approx(150.0), pytest.approx(60.0))

    def test_of_sections_without_scale_is_not_known(self, tiny_sections):
        section = tiny_sections["S1"].copy()
        del section.uns["spatial"]
        assert training_lattice([section, tiny_sections["S1"][:1]]) is None

    def test_an_older_model_does_not_know_it(self, tiny_run, slide, tmp_path, caplog, monkeypatch):
        for name in ("model.json", "model.safetensors"):
            shutil.copy(tiny_run.folder / name, tmp_path / name)
        description = json.loads((tmp_path / "model.json").read_text())
        del description["lattice"]
        (tmp_path / "model.json").write_text(json.dumps(description))
        model = tl.load(tmp_path)
        assert model.lattice is None
        section = tl.slide_section(slide, model)
        assert "does not know the lattice" in caplog.text
        found = training_lattice([section])
        assert (found.pitch_um, found.spot_um) == (pytest.approx(Lattice().pitch_um), pytest.approx(Lattice().spot_um))
        assert found.layout == Lattice().layout


class TestSlideSection:
    def test_lies_as_the_training_sections_do(self, tiny_run, slide):
        section = tl.slide_section(slide, tiny_run.model)
        assert training_lattice([section]).pitch_um == pytest.approx(200.0)
        assert training_lattice([section]).layout == "grid"
        closer = tl.slide_section(slide, tiny_run.model, pitch_um=100.0)
        assert training_lattice([closer]).pitch_um == pytest.approx(100.0)
        assert 3 < closer.n_obs / section.n_obs < 5
        smaller = tl.slide_section(slide, tiny_run.model, spot_um=70.0)
        assert training_lattice([smaller]).spot_um == pytest.approx(70.0)
        assert list(smaller.obs_names) == list(section.obs_names)

    def test_may_be_of_a_training_patient(self, tiny_run, slide):
        patient = next(iter(tiny_run.model.origin["train"].values()))["patient"]
        section = tl.slide_section(slide, tiny_run.model, patient=patient)
        assert set(section.obs["patient"]) == {patient}
        evidence = [
            tl.predict(each, tiny_run.model).uns["nh2st_prediction"]["evidence"]
            for each in (section, tl.slide_section(slide, tiny_run.model))
        ]
        assert evidence == ["training patients", "new patients"]

    def test_the_models_patch_decides_on_tissue(self, tiny_run, slide):
        section = tl.slide_section(slide, tiny_run.model, pitch_um=60.0, min_tissue=0.8)
        by_hand = im.virtual_spots(
            slide,
            pitch_um=60.0,
            layout="grid",
            patch_um=tiny_run.model.config.features.patch_um,
            min_tissue=0.8,
        )
        assert list(section.obs_names) == list(by_hand.obs_names)


class TestPredict:
    def test_a_slide_and_a_section_side_by_side(self, tiny_run, tiny_sections, slide, tmp_path):
        tiny_sections["S3"].write_h5ad(tmp_path / "S3.h5ad")
        out = tmp_path / "out"
        arguments = [tiny_run.folder, slide, tmp_path / "S3.h5ad", "--out", out, "--pitch-um", 150]
        with pytest.raises(SystemExit) as end:
            main(["predict", *map(str, arguments)])
        assert not end.value.code
        predicted = ad.read_h5ad(out / "new.h5ad")
        assert predicted.n_obs > 80
        assert list(predicted.var_names) == tiny_run.model.genes
        assert np.isfinite(predicted.X).all()
        assert predicted.X.std() > 0
        assert "observed" not in predicted.layers
        assert predicted.obsp[Key.obsp.connectivities].nnz
        radius = np.hypot(*((predicted.obsm["spatial"] - [0.4 * SIDE, SIDE / 2]).T)) * MPP
        assert (radius < 1024 + 50).all()
        (entry,) = predicted.uns["spatial"].values()
        assert entry["metadata"]["source_image_path"] == str(slide)
        assert entry["images"]["hires"].ndim == 3
        assert_array_equal(ad.read_h5ad(out / "S3.h5ad").X, tiny_run.evaluation.predictions["S3"].X)

    def test_into_one_file_and_a_store(self, tiny_run, slide, tmp_path):
        spatialdata = pytest.importorskip("spatialdata")
        written = tl.predict_run(tiny_run.folder, [slide], tmp_path / "there.h5ad", spatialdata=True)
        assert written == [tmp_path / "there.h5ad", tmp_path / "there.zarr"]
        store = spatialdata.read_zarr(written[1])
        (table,) = store.tables.values()
        assert_array_equal(table.X, ad.read_h5ad(written[0]).X)
        written[0].unlink()
        with pytest.raises(RunError, match=r"there\.zarr exists already"):
            tl.predict_run(tiny_run.folder, [slide], written[0], spatialdata=True)

    def test_a_patient_is_for_slides(self, tiny_run, tmp_path):
        with pytest.raises(ConfigError, match="patient='C' is for slides"):
            tl.check_prediction(tiny_run.folder, [tmp_path / "s.h5ad"], tmp_path / "out", patient="C")

    def test_a_file_that_is_there_is_no_folder(self, tiny_run, slide, tmp_path):
        (tmp_path / "afile").touch()
        with pytest.raises(RunError, match=r"afile.* is a file; give a folder"):
            tl.check_prediction(tiny_run.folder, [slide], tmp_path / "afile")

    def test_one_file_holds_one_section(self, tiny_run, slide, tmp_path):
        with pytest.raises(RunError, match=r"out=.* is one file for 2 sections"):
            tl.predict_run(tiny_run.folder, [slide, slide], tmp_path / "there.h5ad")

    @pytest.fixture(scope="class")
    def scanned(self, tiny_run, tmp_path_factory) -> Path:
        """The same slide of two scanners, and as a TIFF that all can read, each with its prediction beside it."""
        folder, image = tmp_path_factory.mktemp("scanned"), tissue_image(SIDE, MPP)
        aperio = f"Aperio Image Library v11\r\n{SIDE}x{SIDE} (256x256)|AppMag = 2.5|MPP = {MPP}"
        tags = {"plain.tif": {}, "philips.tif": philips(MPP), "aperio.svs": {"description": aperio}}
        slides = [
            write_pyramid(
                folder / name,
                SIDE,
                MPP if name == "plain.tif" else None,
                image=image,
                compression="jpeg",
                apart=True,
                **of_scanner,
            )
            for name, of_scanner in tags.items()
        ]
        tl.predict_run(tiny_run.folder, slides, folder)
        return folder

    @pytest.mark.parametrize("name", ["philips.tif", "aperio.svs"])
    def test_a_scanners_slide_by_the_extra(self, scanned, name):
        """wsidata reads it and knows its scale, LazySlide finds its tissue: as of a TIFF that all can read."""
        with open_slide(scanned / name) as opened:
            assert isinstance(opened, WsiSlide)
        ours, theirs = (ad.read_h5ad((scanned / each).with_suffix(".h5ad")) for each in ("plain.tif", name))
        for each in (ours, theirs):
            each.obs_names = [spot.partition("_")[2] for spot in each.obs_names]
        both = ours.obs_names.intersection(theirs.obs_names)
        assert len(both) > 0.8 * len(ours.obs_names.union(theirs.obs_names))
        assert_array_equal(ours[both].obsm["spatial"], theirs[both].obsm["spatial"])
        np.testing.assert_allclose(ours[both].X.mean(axis=0), theirs[both].X.mean(axis=0), atol=0.05)
        for each in (ours, theirs):
            im.features(each, "squidpy:summary", 112.0, cache=False)
        assert_array_equal(ours[both].obsm[Key.obsm.image], theirs[both].obsm[Key.obsm.image])

    def test_what_cannot_be_predicted_is_said_before_anything_is_encoded(self, tiny_run, slide, tmp_path, monkeypatch):
        monkeypatch.setattr(SquidpyEncoder, "encode", None)
        monkeypatch.setitem(sys.modules, "wsidata", None)
        without = write_pyramid(tmp_path / "without.tif", 256)
        blank = write_pyramid(tmp_path / "blank.tif", 0, 8.0, image=np.full((256, 256, 3), 245, np.uint8))
        foreign = tmp_path / "foreign.mrxs"
        foreign.write_bytes(b"slide")
        out = tmp_path / "out"
        for path, error, says in (
            (without, DataError, "without.tif.*microns_per_pixel"),
            (blank, DataError, "no tissue found"),
            (foreign, ImageError, r'no installed reader opens \.mrxs; pip install "nh2st-graph\[wsi\]"'),
            (tmp_path / "none.svs", ImageError, "does not exist"),
        ):
            with pytest.raises(error, match=says):
                tl.predict_run(tiny_run.folder, [slide, path], out)
        with pytest.raises(ConfigError, match="min_tissue=2"):
            tl.predict_run(tiny_run.folder, [slide], out, min_tissue=2)
        assert not out.exists()


class TestInterrupted:
    def test_encoding_goes_on_where_it_was(self, small_parts, slide, monkeypatch):
        section = im.virtual_spots(slide, pitch_um=150.0)
        options = {"encoder": "squidpy:summary", "batch_size": 5, "progress": False}
        expected = im.features(section, cache=False, copy=True, **options).obsm[Key.obsm.image]
        original, encoded = SquidpyEncoder.encode, []

        def dies(self, patches):
            if sum(encoded) >= 60:
                raise KeyboardInterrupt
            encoded.append(len(patches))
            return original(self, patches)

        monkeypatch.setattr(SquidpyEncoder, "encode", dies)
        with pytest.raises(KeyboardInterrupt):
            im.features(section, **options)
        assert len(list(small_parts.iterdir())) == 3, "of 20 spots each, whole batches"

        monkeypatch.setattr(SquidpyEncoder, "encode", lambda self, p: (encoded.append(len(p)), original(self, p))[1])
        encoded.clear()
        im.features(section, **options)
        assert_array_equal(section.obsm[Key.obsm.image], expected)
        assert sum(encoded) == section.n_obs - 60
        assert len(list(small_parts.iterdir())) == 1, "the parts are one now"

    def test_a_damaged_part_is_encoded_again(self, small_parts, slide, monkeypatch):
        section = im.virtual_spots(slide, pitch_um=150.0)
        options = {"encoder": "squidpy:summary", "batch_size": 8, "progress": False}
        original, calls = SquidpyEncoder.encode, []

        def dies(self, patches):
            calls.append(len(patches))
            if len(calls) > 4:
                raise KeyboardInterrupt
            return original(self, patches)

        monkeypatch.setattr(SquidpyEncoder, "encode", dies)
        with pytest.raises(KeyboardInterrupt):
            im.features(section, **options)
        part, _ = sorted(small_parts.iterdir())
        part.write_bytes(part.read_bytes()[:-4])
        monkeypatch.setattr(SquidpyEncoder, "encode", original)
        expected = im.features(section, cache=False, copy=True, **options).obsm[Key.obsm.image]
        im.features(section, **options)
        assert_array_equal(section.obsm[Key.obsm.image], expected)
