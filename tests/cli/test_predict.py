"""``predict``: input that it refuses, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal

from nh2st_graph import read
from nh2st_graph.cli import main
from nh2st_graph.im import SquidpyEncoder

from ..slides import write_pyramid
from ..tissue import without_truth
from .conftest import MISPLACED, QUICK, settings, tree


def _foreign(folder: Path) -> Path:
    (folder / "slide.mrxs").write_bytes(b"slide")
    return folder / "slide.mrxs"


def _text(folder: Path) -> Path:
    (folder / "slide.tif").write_text("no image")
    return folder / "slide.tif"


def _blank(folder: Path) -> Path:
    return write_pyramid(folder / "slide.tif", 0, 8.0, image=np.full((256, 256, 3), 245, np.uint8))


SLIDES: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "without a scale": (
        lambda folder: write_pyramid(folder / "slide.tif", 256),
        ("slide.tif", "--microns-per-pixel"),
    ),
    "without tissue": (_blank, ("slide.tif: no tissue found", "--min-tissue")),
    "of a scanner whose reader is not there": (_foreign, (".mrxs", "nh2st-graph[wsi]")),
    "that is no image": (_text, ("slide.tif",)),
    "that is not there": (lambda folder: folder / "none.svs", ("none.svs does not exist",)),
}


class TestRefuses:
    @pytest.mark.parametrize("case", SLIDES)
    def test_a_slide(self, tiny_run, refuse, tmp_path, monkeypatch, case):
        monkeypatch.setitem(sys.modules, "wsidata", None)
        make, parts = SLIDES[case]
        line = refuse("predict", tiny_run.folder, make(tmp_path), "--out", tmp_path / "predicted")
        for part in parts:
            assert part in line

    @pytest.mark.parametrize("case", MISPLACED)
    def test_misplaced_spots_as_training_does(self, triangle, tiny_run, config, refuse, tmp_path, case):
        spoil, says = MISPLACED[case]
        spoil(triangle)
        read.write_h5ad(triangle, tmp_path / "A1.h5ad")
        given = {"data.format": "h5ad", "data.root": tmp_path / "A1.h5ad", "data.panel": "hvg:3", **QUICK}
        for command in (["predict", tiny_run.folder, tmp_path / "A1.h5ad"], ["train", config, *settings(given)]):
            line = refuse(*command, "--out", tmp_path / "out")
            assert "section 'A1'" in line
            assert says in line

    @pytest.mark.parametrize(
        ("lacks", "says"), [("tables", "has no table"), ("images", "has no image in coordinate system")]
    )
    def test_a_store_without_table_or_image(self, tiny_sections, tiny_run, refuse, tmp_path, lacks, says):
        pytest.importorskip("spatialdata")
        sdata = read.to_spatialdata(without_truth(tiny_sections["S3"]), image="hires")
        for name in list(getattr(sdata, lacks)):
            del sdata[name]
        sdata.write(tmp_path / "store.zarr")
        line = refuse("predict", tiny_run.folder, tmp_path / "store.zarr", "--out", tmp_path / "predicted")
        assert f"{tmp_path / 'store.zarr'}" in line
        assert says in line


class TestFilesOfAnalyses:
    """What concatenation and pandas leave in files."""

    @pytest.fixture
    def cohort(self, tiny_sections: dict[str, AnnData], tmp_path) -> Path:
        parts = {name: without_truth(tiny_sections[name]) for name in ("S1", "S3")}
        joined = ad.concat(parts, label="library_id", uns_merge="unique")
        joined.obs["note"] = pd.array(["a", None] * (joined.n_obs // 2), dtype="string")
        joined.X = joined.X.astype(np.float32).log1p()
        with ad.settings.override(allow_write_nullable_strings=True):
            joined.write_h5ad(tmp_path / "cohort.h5ad")
        return tmp_path / "cohort.h5ad"

    def test_several_sections_by_a_column(self, cohort, tiny_run, refuse, accept, tmp_path):
        command = ["predict", tiny_run.folder, cohort, "--out", tmp_path / "out"]
        line = refuse(*command)
        assert "it holds 2 (S1, S3)" in line
        assert line.endswith("or give --library-key section")
        assert "did you mean 'library_id'" in refuse(*command, "--library-key", "library")
        accept(*command, "--library-key", "library_id")
        found = ad.read_h5ad(tmp_path / "out" / "S3.h5ad")
        assert list(found.uns["spatial"]) == ["S3"]
        assert found.obs["note"].isna().sum() == found.n_obs // 2
        expected = tiny_run.evaluation.predictions["S3"]
        assert_allclose(found[expected.obs_names].X, expected.X, atol=1e-5)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["S1.h5ad", "S3.h5ad"]

    def test_a_part_of_them_keeps_the_libraries_of_all(self, cohort, tiny_run, accept, tmp_path):
        joined = ad.read_h5ad(cohort)
        read.write_h5ad(joined[joined.obs["library_id"] == "S3"].copy(), tmp_path / "part.h5ad")
        accept("predict", tiny_run.folder, tmp_path / "part.h5ad", "--out", tmp_path / "out")
        assert list(ad.read_h5ad(tmp_path / "out" / "S3.h5ad").uns["spatial"]) == ["S3"]

    def test_no_flag_is_told_that_the_command_does_not_have(self, tiny_sections, tiny_run, refuse, tmp_path):
        pytest.importorskip("spatialdata")
        sdata = read.to_spatialdata(without_truth(tiny_sections["S3"]), image="hires")
        sdata.images["other"] = sdata.images["S3_image"]
        sdata.images["another"] = sdata.images["S3_image"]
        del sdata.images["S3_image"]
        sdata.write(tmp_path / "S3.zarr")
        line = refuse("predict", tiny_run.folder, tmp_path / "S3.zarr", "--out", tmp_path / "out")
        assert "2 candidates for the image" in line
        assert "--set" not in line
        assert "prepare takes it: --option image=NAME" in line


class TestInterrupted:
    def test_the_same_command_goes_on_where_it_was(self, tiny_run, accept, small_parts, tmp_path, monkeypatch, capsys):
        """Ctrl-C in the third batch, when the parts of two are kept."""
        slide, out = write_pyramid(tmp_path / "new.tif", 1024, 4.0), tmp_path / "out"
        command = ["predict", str(tiny_run.folder), str(slide), "--pitch-um", "100", "--out", str(out)]
        encode, encoded = SquidpyEncoder.encode, []

        def counted(self, patches):
            if len(patches) > 1:  # one alone tells how many features there are
                encoded.append(len(patches))
            if interrupt and len(encoded) == 3:
                signal.raise_signal(signal.SIGINT)
            return encode(self, patches)

        monkeypatch.setattr(SquidpyEncoder, "encode", counted)
        interrupt = True
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 130
        said = capsys.readouterr().err
        assert "--resume" in said.splitlines()[-1]
        assert "Traceback" not in said
        assert not out.exists()
        assert len(list(small_parts.iterdir())) == 2

        interrupt = False
        encoded.clear()
        accept(*command, "--resume")
        section = ad.read_h5ad(out / "new.h5ad")
        assert sum(encoded) == section.n_obs - 2 * tiny_run.model.config.features.batch_size
        assert [path.name for path in out.iterdir()] == ["new.h5ad"]

        monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "another"))
        accept(*command[:-1], str(tmp_path / "expected"))
        expected = ad.read_h5ad(tmp_path / "expected" / "new.h5ad")
        assert list(section.obs_names) == list(expected.obs_names)
        assert_array_equal(section.X, expected.X)

    def test_between_two_outputs(self, tiny_run, tiny_sections, tmp_path, monkeypatch, capsys, accept):
        paths = [tmp_path / f"{name}.h5ad" for name in ("S1", "S3")]
        for path in paths:
            read.write_h5ad(without_truth(tiny_sections[path.stem]), path)
        write = read.write_h5ad

        def interrupted(adata, path):
            if path.stem == "S3":
                raise KeyboardInterrupt
            write(adata, path)

        command = ["predict", str(tiny_run.folder), *map(str, paths), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(read, "write_h5ad", interrupted)
        with pytest.raises(SystemExit) as end:
            main(command)
        monkeypatch.setattr(read, "write_h5ad", write)
        assert end.value.code == 130
        assert "--resume" in capsys.readouterr().err.splitlines()[-1]
        before = tree(tmp_path / "out")
        assert set(before) == {"S1.h5ad"}

        said = accept(*command, "--resume")
        assert f"kept, since it exists: {tmp_path / 'out' / 'S1.h5ad'}" in said
        after = tree(tmp_path / "out")
        assert after["S1.h5ad"] == before["S1.h5ad"]
        assert_array_equal(ad.read_h5ad(tmp_path / "out" / "S3.h5ad").X, tiny_run.evaluation.predictions["S3"].X)
