"""Sections that cannot be read: one line that says what, where and what to do, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from ..tissue import without_truth
from .conftest import QUICK, Files, cut, settings


def _text(path: Path) -> None:
    path.write_text("not an image")


def _spots(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Files], None]:
    def spoil(files: Files) -> None:
        files.spots = change(files.spots)
        files.write()

    return spoil


def _counts(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Files], None]:
    def spoil(files: Files) -> None:
        files.counts = change(files.counts)
        files.write()

    return spoil


def _cell(row: int, column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype(object)
        table.iloc[row, table.columns.get_loc(column)] = value
        return table

    return change


ST_CASES: dict[str, tuple[Callable[[Files], object], Sequence[str]]] = {
    "image missing": (lambda f: f.image.unlink(), ("section 'A3': no image", "ST-imgs/A/A3/*.jpg is missing")),
    "image unreadable": (lambda f: _text(f.image), ("A3/scan.jpg cannot be read as an image", "JPEG, PNG")),
    "image empty": (lambda f: f.image.write_bytes(b""), ("A3/scan.jpg cannot be read as an image",)),
    "image cut off": (lambda f: cut(f.image), ("A3/scan.jpg is cut off or damaged", "copy or download it again")),
    "spots outside the image": (
        _spots(lambda t: t.assign(pixel_x=t["pixel_x"] + 150)),
        ("section 'A3'", "spots lie outside the image", "300 x 220 px", "give the image that the coordinates"),
    ),
    "counts negative": (
        _counts(_cell(3, "GNAS", -2)),
        ("section 'A3'", "negative counts (lowest -2)", "put raw counts into X"),
    ),
    "counts not integers": (_counts(_cell(3, "GNAS", 1.5)), ("section 'A3'", "not integers (for example 1.5)")),
    "counts not numbers": (
        _counts(_cell(3, "GNAS", "many")),
        ("A3.tsv.gz", "gene 'GNAS' in spot '5x5' is not a number", "download it again"),
    ),
    "coordinates NaN": (
        _spots(_cell(4, "pixel_y", "")),
        ("A3_selection.tsv", "pixel_y in line 6 is not a number", "correct or remove that spot"),
    ),
    "no spot in common": (
        _counts(lambda t: t.set_axis([f"{i}x40" for i in range(len(t))])),
        ("section 'A3'", "A3_selection.tsv and", "A3.tsv.gz have no spot in common", "both belong to this section"),
    ),
    "spot twice in the counts": (
        _counts(lambda t: pd.concat([t, t.iloc[[2]]])),
        ("A3.tsv.gz", "spot '4x5' occurs more than once", "keep one row of each"),
    ),
    "spot twice in the spot file": (
        _spots(lambda t: pd.concat([t, t.iloc[[2]]])),
        ("A3_selection.tsv", "spot '4x5' occurs more than once", "keep one row of each"),
    ),
    "gene twice": (
        _counts(lambda t: t.set_axis(["ERBB2", "GAPDH", "GNAS", "ACTB", "GNAS"], axis=1)),
        ("section 'A3'", "gene 'GNAS' occurs more than once"),
    ),
    "no spot in the spot file": (_spots(lambda t: t[:0]), ("A3_selection.tsv has no spots", "the section is empty")),
    "no spot in the counts": (_counts(lambda t: t[:0]), ("A3.tsv.gz has no spots", "the section is empty")),
    "no spot selected": (
        _spots(lambda t: t.assign(selected=0)),
        ("section 'A3'", "A3_selection.tsv", "leave it out"),
    ),
    "one spot": (
        _spots(lambda t: t[:1]),
        ("A3_selection.tsv", "cannot be fitted from one spot", "at least two array positions"),
    ),
    "counts cut off": (lambda f: cut(f.counts_file), ("A3.tsv.gz cannot be read", "download it again")),
    "counts missing": (lambda f: f.counts_file.unlink(), ("section 'A3': no counts", "A3.tsv.gz (or .tsv) is missing")),
    "spot file missing": (
        lambda f: f.spots_file.unlink(),
        ("section 'A3': no spot positions", "A3_selection.tsv is missing"),
    ),
}


@pytest.mark.filterwarnings("ignore")
class TestSpatialTranscriptomics:
    """Files in the layout of the HER2ST repository."""

    @pytest.fixture
    def given(self, tmp_path, config) -> list[str]:
        return [str(config), *settings({"data.format": "her2st", "data.root": tmp_path / "her2st", **QUICK})]

    # The reader's messages are the same of any command: of what each looks at, one.
    @pytest.mark.parametrize("case", ["image cut off", "counts negative", "coordinates NaN", "one spot"])
    def test_train_refuses(self, repository, given, refuse, tmp_path, case):
        spoil, parts = ST_CASES[case]
        spoil(repository)
        split = settings({"data.panel": "hvg:3", "data.train": "[A1,A2]", "data.test": "[A3]"})
        line = refuse("train", *given, *split, "--out", tmp_path / "runs" / "run")
        for part in parts:
            assert part in line

    @pytest.mark.parametrize("case", ST_CASES)
    def test_prepare_refuses(self, repository, given, refuse, tmp_path, case):
        spoil, parts = ST_CASES[case]
        spoil(repository)
        line = refuse("prepare", *given, "--out", tmp_path / "sections")
        for part in parts:
            assert part in line

    def test_what_was_left_out_is_told_and_no_error(self, repository, given, accept, tmp_path):
        repository.counts = repository.counts[2:]
        repository.write()
        said = accept("prepare", *given, "--out", tmp_path / "sections")
        assert "section 'A3': kept 22 spots, dropped 2 (positions without counts)" in said
        assert ad.read_h5ad(tmp_path / "sections" / "A3.h5ad").n_obs == 22

    def test_one_spot_that_is_left_is_no_section_to_score(self, repository, given, refuse, tmp_path):
        repository.counts = repository.counts[:1]
        repository.write()
        split = settings({"data.panel": "hvg:3", "data.train": "[A1,A2]", "data.test": "[A3]"})
        line = refuse("train", *given, *split, "--out", tmp_path / "run", notices=1)
        assert "section 'A3': one spot" in line
        assert "data.test" in line

    @pytest.fixture
    def panel(self, tmp_path) -> list[str]:
        (tmp_path / "panel.txt").write_text("ERBB2\nKRT7\nGNAS\nCD8A\n")
        return settings({"data.panel": tmp_path / "panel.txt", "data.train": "[A1,A2]", "data.test": "[]"})

    def test_a_panel_gene_that_is_absent_is_named_with_the_choice(self, repository, given, panel, refuse, tmp_path):
        line = refuse("train", *given, *panel, "--out", tmp_path / "run")
        assert "section 'A2': panel gene KRT7, CD8A not measured" in line
        assert "--set data.missing_genes=drop, or change data.panel" in line

    def test_or_dropped_if_so_chosen(self, repository, given, panel, accept, tmp_path):
        choice = settings({"data.missing_genes": "drop"})
        said = accept("train", *given, *panel, *choice, "--out", tmp_path / "run")
        assert "2 of 4 panel genes are absent from a section and dropped: KRT7, CD8A" in said
        assert json.loads((tmp_path / "run" / "model.json").read_text())["genes"] == ["ERBB2", "GNAS"]

    def test_a_panel_of_other_genes_altogether(self, repository, given, panel, refuse, tmp_path):
        (tmp_path / "panel.txt").write_text("CD3E\nCD19\n")
        choice = settings({"data.missing_genes": "drop"})
        line = refuse("train", *given, *panel, *choice, "--out", tmp_path / "run", notices=1)
        assert "none of its 2 genes is in every section; check the species" in line

    @pytest.mark.parametrize(
        ("genes", "says"),
        [
            ("Actb\nGapdh\n", ("looks like mouse genes (Actb, ...)", "like human ones (ERBB2, ...)")),
            ("ENSG00000075640\nENSG00000111640\n", ("has Ensembl ids", "has symbols (ERBB2, ...)")),
        ],
        ids=["another species", "ids"],
    )
    def test_a_panel_of_another_species_or_naming(self, repository, given, panel, refuse, tmp_path, genes, says):
        (tmp_path / "panel.txt").write_text(genes)
        line = refuse("train", *given, *panel, "--out", tmp_path / "run")
        assert f"panel {tmp_path / 'panel.txt'} {says[0]}, section 'A1' {says[1]}" in line

    def test_a_panel_file_that_is_not_there(self, repository, given, refuse, tmp_path):
        more = settings({"data.panel": tmp_path / "none.txt"})
        assert "none.txt" in refuse("train", *given, *more, "--out", tmp_path / "run")


def _image(change: Callable[[Path], object]) -> Callable[[AnnData], None]:
    """Spoil the section's image, of which the test has a copy of its own."""
    return lambda a: change(Path(_metadata(a)["source_image_path"]))


def _metadata(adata: AnnData) -> dict[str, object]:
    return adata.uns["spatial"]["S3"]["metadata"]


def _value(row: int, value: float) -> Callable[[AnnData], None]:
    def spoil(adata: AnnData) -> None:
        counts = adata.X.toarray().astype(np.float32)
        counts[row, 0] = value
        adata.X = sparse.csr_matrix(counts)

    return spoil


def _coordinate(value: float) -> Callable[[AnnData], None]:
    def spoil(adata: AnnData) -> None:
        adata.obsm["spatial"][5, 1] = value

    return spoil


H5AD_CASES: dict[str, tuple[Callable[[AnnData], object], Sequence[str]]] = {
    "image missing": (_image(Path.unlink), ("S3.jpg does not exist", "give the full-resolution image")),
    "image unreadable": (_image(_text), ("S3.jpg cannot be read as an image",)),
    "image cut off": (_image(cut), ("S3.jpg is cut off or damaged", "copy or download it again")),
    "image not named": (
        lambda a: _metadata(a).pop("source_image_path"),
        ("section 'S3'", "metadata['source_image_path'] is missing"),
    ),
    "no scale": (
        lambda a: _metadata(a).pop("microns_per_pixel"),
        ("section 'S3'", "pixel", "give"),
    ),
    "spots outside the image": (
        _coordinate(1e5),
        ("section 'S3': 1 of 64 spots lie outside the image", "give the image that the coordinates"),
    ),
    "counts negative": (_value(2, -1), ("section 'S3': X has negative counts (lowest -1)",)),
    "counts not integers": (_value(2, 0.25), ("section 'S3': X", "not integers", "0.25")),
    "counts NaN": (_value(2, np.nan), ("section 'S3': X", "not numbers")),
    "coordinates NaN": (
        _coordinate(np.nan),
        ("section 'S3': 1 spots", "coordinates", "not numbers"),
    ),
    "spot twice": (
        lambda a: setattr(a, "obs_names", ["same", "same", *a.obs_names[2:]]),
        ("section 'S3': spot name 'same' occurs more than once", "make obs_names unique"),
    ),
    "no name": (lambda a: a.obs.pop("section"), ("obs['section'] is missing", "adata.obs['section'] = 'NAME'")),
    "a name that is no file's": (
        lambda a: a.obs.__setitem__("section", pd.Categorical(["block 1/2"] * 64)),
        ("section 'block 1/2'", "adata.obs['section']"),
    ),
    "two sections": (
        lambda a: a.obs.__setitem__("section", pd.Categorical(["A", "B"] * 32)),
        ("it holds 2 (", "split it by obs['section'] first"),
    ),
    "no positions": (lambda a: a.obsm.pop("spatial"), ("section 'S3': obsm['spatial'] is missing",)),
    "no library": (lambda a: a.uns.pop("spatial"), ("section 'S3': uns['spatial'] has 0 libraries",)),
}


@pytest.mark.filterwarnings("ignore")
class TestSections:
    """Sections saved as h5ad."""

    @pytest.fixture
    def section(self, tiny_sections, tmp_path) -> AnnData:
        """A section with an image of its own, to be spoilt."""
        section = without_truth(tiny_sections["S3"])
        metadata = _metadata(section)
        metadata["source_image_path"] = str(shutil.copy(metadata["source_image_path"], tmp_path / "S3.jpg"))
        return section

    @pytest.fixture(scope="class")
    def sound(self, tiny_sections, tmp_path_factory) -> Path:
        """The file of a section that nothing is wrong with."""
        path = tmp_path_factory.mktemp("sound") / "S1.h5ad"
        without_truth(tiny_sections["S1"]).write_h5ad(path)
        return path

    @pytest.fixture
    def write(self, sound, tmp_path) -> Callable[[AnnData], Path]:
        """Write S3 beside S1."""

        def write(section: AnnData) -> Path:
            folder = tmp_path / "sections"
            folder.mkdir()
            shutil.copy(sound, folder)
            section.write_h5ad(folder / "S3.h5ad")
            return folder

        return write

    @pytest.fixture
    def train(self, config, tmp_path) -> list[str]:
        """A training command on those two."""
        given = {"data.root": tmp_path / "sections", "data.train": "[S1]", "data.test": "[S3]", **QUICK}
        return ["train", str(config), *settings(given), "--out", str(tmp_path / "run")]

    @pytest.mark.parametrize("case", H5AD_CASES)
    def test_train_and_predict_refuse(self, section, write, train, tiny_run, refuse, tmp_path, case):
        spoil, parts = H5AD_CASES[case]
        spoil(section)
        path = write(section) / "S3.h5ad"
        for command in (train, ["predict", tiny_run.folder, path, "--out", tmp_path / "predicted"]):
            if command[0] == "predict" and case.startswith("counts"):
                continue  # a prediction does not look at the genes
            line = refuse(*command)
            for part in parts:
                assert part in line

    def test_predict_takes_any_genes(self, section, write, tiny_run, accept, tmp_path):
        section.X = np.log1p(section.X.toarray()) - 0.5
        section.var_names = ["same", "same", *section.var_names[2:]]
        path = write(section) / "S3.h5ad"
        accept("predict", tiny_run.folder, path, "--out", tmp_path / "predicted")
        predicted = ad.read_h5ad(tmp_path / "predicted" / "S3.h5ad")
        assert np.isfinite(predicted.X).all()
        assert "observed" not in predicted.layers

    @pytest.mark.parametrize("n", [0, 1])
    def test_a_section_of_no_spot_or_one(self, section, write, train, tiny_run, refuse, tmp_path, n):
        path = write(section[:n].copy()) / "S3.h5ad"
        says = "section 'S3': no spots" if n == 0 else "one spot"
        assert says in refuse(*train)
        assert says in refuse("predict", tiny_run.folder, path, "--out", tmp_path / "predicted")

    def test_isolated_spots_are_allowed(self, section, write, train, tiny_run, accept, tmp_path):
        lonely = section.obs_names[27]
        row, column = section.obs.loc[lonely, ["array_row", "array_col"]]
        near = ((section.obs["array_row"] - row).abs() <= 1) & ((section.obs["array_col"] - column).abs() <= 1)
        apart = section[~near.to_numpy() | (section.obs_names == lonely)].copy()
        path = write(apart) / "S3.h5ad"
        accept("predict", tiny_run.folder, path, "--out", tmp_path / "predicted")
        predicted = ad.read_h5ad(tmp_path / "predicted" / "S3.h5ad")
        assert not predicted[lonely].obsp["spatial_connectivities"].nnz
        assert np.isfinite(predicted.X).all()
        without_test = [*train, *settings({"data.train": "[S1,S3]", "data.test": "[]"})]
        accept(*without_test)
        assert (tmp_path / "run" / "model.safetensors").exists()

    @pytest.mark.parametrize(
        ("content", "says"),
        [(None, "does not exist"), (b"", "cannot be read as h5ad"), (b"text", "cannot be read as h5ad")],
        ids=["missing", "empty", "text"],
    )
    def test_a_file_that_is_no_section(self, tiny_run, refuse, tmp_path, content, says):
        path = tmp_path / "S3.h5ad"
        if content is not None:
            path.write_bytes(content)
        line = refuse("predict", tiny_run.folder, path, "--out", tmp_path / "predicted")
        assert str(path) in line
        assert says in line

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
    def test_a_file_that_is_cut_off(self, section, write, tiny_run, refuse, tmp_path, share):
        path = write(section) / "S3.h5ad"
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        line = refuse("predict", tiny_run.folder, path, "--out", tmp_path / "predicted")
        assert f"{path} cannot be read as h5ad" in line

    def test_a_prediction_is_no_section_to_train_on(self, section, write, train, tiny_run, refuse):
        path = write(section) / "S3.h5ad"
        shutil.copy(tiny_run.folder / "predictions" / "S3.h5ad", path)
        assert "section 'S3': X holds predicted expression" in refuse(*train)

    def test_two_files_of_one_section(self, section, write, tiny_run, refuse, tmp_path):
        path = write(section) / "S3.h5ad"
        again = shutil.copy(path, tmp_path / "again.h5ad")
        line = refuse("predict", tiny_run.folder, path, again, "--out", tmp_path / "predicted")
        assert "again.h5ad: a section named 'S3' was given already" in line


class TestVisium:
    """Copies of a real section."""

    @pytest.fixture
    def folder(self, small_visium, tmp_path) -> Path:
        return Path(shutil.copytree(small_visium, tmp_path / "V1"))

    @pytest.mark.parametrize(
        ("spoil", "parts"),
        [
            (lambda f: cut(f / "filtered_feature_bc_matrix.h5"), ("filtered_feature_bc_matrix.h5", "copy it again")),
            (lambda f: cut(f / "spatial" / "tissue_hires_image.png"), ("tissue_hires_image.png is cut off",)),
            (lambda f: _text(f / "spatial" / "tissue_lowres_image.png"), ("tissue_lowres_image.png cannot be read",)),
            (lambda f: (f / "spatial" / "scalefactors_json.json").unlink(), ("scalefactors_json.json is missing",)),
            (lambda f: _positions(f, 4, 1e6), ("spots lie outside the image", "tissue_hires_image.png")),
            (lambda f: _positions(f, 5, np.nan), ("tissue_positions_list.csv", "not a number")),
            (lambda f: _positions(f, 0, "other"), ("barcode 'other' occurs more than once",)),
            (lambda f: _positions(f, 1, 0), ("in tissue", "leave it out")),
        ],
        ids=[
            "counts cut off",
            "image cut off",
            "image unreadable",
            "no scale",
            "outside",
            "NaN",
            "twice",
            "no tissue",
        ],
    )
    def test_prepare_refuses(self, folder, config, refuse, tmp_path, spoil, parts):
        spoil(folder)
        given = settings({"data.format": "visium", "data.root": folder, **QUICK})
        line = refuse("prepare", config, *given, "--out", tmp_path / "sections")
        assert "V1" in line
        for part in parts:
            assert part in line


def _positions(folder: Path, column: int, value: object) -> None:
    path = folder / "spatial" / "tissue_positions_list.csv"
    table = pd.read_csv(path, header=None).astype(object)
    table[column] = value
    table.to_csv(path, header=False, index=False)
