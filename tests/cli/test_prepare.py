"""``prepare FORMAT ROOT``: what is written, what is told of it, and what becomes of the others where one is broken."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nh2st_graph import read
from nh2st_graph.cli import main
from nh2st_graph.section import unknown_patient

from .conftest import MISPLACED, cut, settings, tree


@pytest.fixture
def run(capsys, monkeypatch):
    """Run ``prepare``; give its exit code and what it wrote to both streams."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["prepare", *(str(argument) for argument in arguments)])
        return int(end.value.code or 0), *capsys.readouterr()

    return call


def rows(out: str) -> dict[str, list[str]]:
    """Cells of the table by section."""
    return {name: cells for name, *cells in (re.split(r"\s{2,}", line.strip()) for line in out.splitlines())}


def written(out: str) -> list[str]:
    lines = out.splitlines()
    return [line.strip() for line in lines[lines.index("Written:") + 1 :]]


class TestWrites:
    def test_sections_as_their_reader_gives_them(self, run, repository, tmp_path):
        code, out, _ = run("her2st", tmp_path / "her2st", "--out", tmp_path / "prepared")
        assert code == 0
        paths = [tmp_path / "prepared" / f"A{i}.h5ad" for i in (1, 2, 3)]
        assert written(out) == [str(path) for path in paths]
        assert sorted((tmp_path / "prepared").iterdir()) == paths
        for name, section in read.her2st(tmp_path / "her2st").items():
            stored = read.sections("h5ad", tmp_path / "prepared")[name]
            assert_array_equal(stored.X.toarray(), section.X.toarray())
            assert list(stored.obs_names) == list(section.obs_names)
            assert_allclose(stored.obsm["spatial"], section.obsm["spatial"])

    @pytest.mark.usefixtures("own_formats")
    def test_one_command_a_folder(self, run, repository, tmp_path, monkeypatch):
        """A second one, while the first reads a section."""
        monkeypatch.setattr("nh2st_graph._files._WAIT", 0.02)
        given, seen = [tmp_path / "her2st", "--out", tmp_path / "prepared"], []

        @read.register_format("slow", lambda root: ["A1"])
        def read_slowly(root, names=None):
            with ThreadPoolExecutor() as pool:
                code, _, err = pool.submit(run, "her2st", *given).result()
            seen.append((code, err, list((tmp_path / "prepared").glob("[!.]*"))))
            return read.her2st(root, names)

        code, *_ = run("slow", *given)
        ((second, err, there),) = seen
        assert (code, second) == (0, 2)
        assert "prepared is in use by another process" in err
        assert there == []

    def test_those_that_are_named(self, run, repository, tmp_path):
        given = ["her2st", tmp_path / "her2st", "--out", tmp_path / "prepared"]
        code, out, _ = run(*given, "--section", "A3", "--section", "A1")
        assert code == 0
        assert [Path(path).name for path in written(out)] == ["A3.h5ad", "A1.h5ad"]

    def test_a_section_is_named_once(self, run, repository, tmp_path):
        code, _, err = run("her2st", tmp_path / "her2st", "--out", tmp_path, "--section", "A3", "--section", "A3")
        assert code == 2
        assert "section 'A3'" in err

    def test_a_real_section(self, run, her2st_crops, tmp_path):
        given = ["her2st", her2st_crops, "--section", "C6", "--out", tmp_path]
        code, out, _ = run(*given)
        assert code == 0
        stored = ad.read_h5ad(tmp_path / "C6.h5ad")
        patient, spots, genes, scale, pitch, tissue, *_ = rows(out)["C6"]
        assert (patient, spots, genes) == ("C", f"{stored.n_obs:,}", f"{stored.n_vars:,}")
        (entry,) = stored.uns["spatial"].values()
        assert float(scale) == pytest.approx(entry["metadata"]["microns_per_pixel"], rel=1e-3)
        assert float(pitch) == pytest.approx(200, rel=0.01)
        assert int(tissue.rstrip("%")) >= 95

    def test_options_reach_the_reader(self, run, repository, tmp_path):
        section = read.her2st(tmp_path / "her2st", "A1")["A1"]
        (entry,) = section.uns["spatial"].values()
        (tmp_path / "plain").mkdir()
        shutil.copy(entry["metadata"]["source_image_path"], tmp_path / "plain" / "scan.jpg")
        section.layers["raw"], section.X = section.X, section.X / 7
        section.uns.clear()
        section.write_h5ad(tmp_path / "plain" / "A1.h5ad")
        options = ["--option", "image=scan.jpg", "--option", "layer=raw", "--option", "microns_per_pixel=2.5"]
        code, out, _ = run("anndata", tmp_path / "plain", *options, "--out", tmp_path / "prepared")
        assert code == 0
        stored = read.h5ad_section(tmp_path / "prepared" / "A1.h5ad")
        assert_array_equal(stored.X.toarray(), section.layers["raw"].toarray())
        assert rows(out)["A1"][3:5] == ["2.5", "100"]  # spots lie 40 px apart


class TestTells:
    def test_what_a_section_is(self, run, repository, tmp_path):
        repository.counts = repository.counts[2:]
        repository.write()
        _, out, err = run("her2st", tmp_path / "her2st", "--out", tmp_path / "prepared")
        found = rows(out)
        assert found["A1"][:5] == ["A", "24", "5", "5", "200"]
        assert found["A1"][-1] == "0"
        assert found["A3"][-1] == "2"
        assert re.search(r"'A3'.* 22 spots.* 2 \(", " ".join(err.split()))
        assert [line for line in err.splitlines() if line.startswith("[")] == [f"[{i}/3] done: A{i}" for i in (1, 2, 3)]

    def test_spots_off_the_tissue(self, run, repository, tmp_path):
        section = read.her2st(tmp_path / "her2st", "A1")["A1"]

        def on_tissue(name: str) -> str:
            read.write_h5ad(section, tmp_path / name / "A1.h5ad")
            _, out, _ = run("h5ad", tmp_path / name, "--out", tmp_path / "prepared" / name, "--no-check-placement")
            return rows(out)["A1"][5]

        (entry,) = section.uns["spatial"].values()
        pictured = np.full_like(entry["images"]["hires"], 255)
        entry["images"]["hires"] = pictured
        assert on_tissue("all") == "0%"
        half = np.sort(section.obsm["spatial"][:, 0])[12] - 20
        pictured[:, : int(half * entry["scalefactors"]["tissue_hires_scalef"])] = [200, 60, 160]
        assert on_tissue("half") == "50%"

    def test_what_is_not_known(self, run, repository, tmp_path):
        section = read.her2st(tmp_path / "her2st", "A1")["A1"][:1, :0].copy()
        section.uns.clear()
        section.write_h5ad(tmp_path / "A1.h5ad")
        _, out, _ = run("h5ad", tmp_path / "A1.h5ad", "--out", tmp_path / "prepared")
        found = rows(out)
        assert dict(zip(["patient", *found["patient"]], found["A1"], strict=True)) == {
            "patient": "A",
            "spots": "1",
            "genes": "0",
            "um per pixel": "-",
            "pitch in um": "-",
            "on tissue": "-",
            "dropped": "-",
        }

    def test_sections_whose_patients_nothing_tells(self, run, repository, tmp_path):
        for name, section in read.her2st(tmp_path / "her2st").items():
            section.obs["patient"] = unknown_patient(name)
            read.write_h5ad(section, tmp_path / "saved" / f"{name}.h5ad")
        _, out, _ = run("h5ad", tmp_path / "saved", "--out", tmp_path / "prepared")
        assert "3 sections (A1, A2, A3)" in " ".join(out.split())
        _, out, _ = run("h5ad", tmp_path / "saved", "--section", "A1", "--out", tmp_path / "one")
        assert "sections (" not in out


class TestBroken:
    def test_others_are_written_and_the_command_goes_on_when_it_is_mended(self, run, repository, tmp_path):
        whole = repository.image.read_bytes()
        cut(repository.image)
        given = ["her2st", tmp_path / "her2st", "--out", tmp_path / "prepared"]
        code, out, err = run(*given)
        assert code == 1
        (line,) = [line for line in out.splitlines() if line.startswith("failed: ")]
        assert re.match(r"failed: A3: .*scan\.jpg", line)
        assert "[3/3] failed: A3" in err
        assert set(tree(tmp_path / "prepared")) == {"A1.h5ad", "A2.h5ad"}

        repository.image.write_bytes(whole)
        before = tree(tmp_path / "prepared")
        code, out, _ = run(*given, "--resume")
        assert code == 0
        assert [Path(path).name for path in written(out)] == ["A3.h5ad"]
        assert "2 sections (A1, A2)" in out
        after = tree(tmp_path / "prepared")
        assert {name: after[name] for name in before} == before

        code, out, _ = run(*given, "--resume")
        assert code == 0
        assert "3 sections (A1, A2, A3)" in out
        assert tree(tmp_path / "prepared") == after

    def test_all_leave_nothing(self, run, repository, tmp_path):
        shutil.rmtree(tmp_path / "her2st" / "data" / "ST-imgs")
        code, out, _ = run("her2st", tmp_path / "her2st", "--out", tmp_path / "prepared")
        assert code == 1
        assert out.count("failed: ") == 3
        assert "Written" not in out
        assert not (tmp_path / "prepared").exists()

    def test_the_only_one_is_the_error(self, refuse, repository, tmp_path):
        cut(repository.image)
        line = refuse("prepare", "her2st", tmp_path / "her2st", "--section", "A3", "--out", tmp_path / "prepared")
        assert "A3/scan.jpg" in line


class TestRefuses:
    @pytest.mark.parametrize(
        ("place", "message"),
        [("", "no sections found in {}; check ROOT and FORMAT"), ("none", "{} does not exist; check ROOT")],
    )
    def test_a_place_without_sections_in_the_words_of_the_command(self, run, tmp_path, place, message):
        code, _, err = run("her2st", tmp_path / place, "--out", tmp_path / "out")
        assert (code, err) == (2, f"error: {message.format(tmp_path / place)}\n")
        assert not (tmp_path / "out").exists()

    def test_to_replace_sections(self, refuse, repository, tmp_path):
        given = ["prepare", "her2st", tmp_path / "her2st", "--out", tmp_path / "prepared"]
        (tmp_path / "prepared").mkdir()
        (tmp_path / "prepared" / "A2.h5ad").write_text("mine")
        line = refuse(*given)
        assert "prepared/A2.h5ad" in line
        assert "--resume" in line
        (tmp_path / "prepared" / "A1.h5ad").write_text("mine")
        line = refuse(*given)
        assert "prepared/A1.h5ad" in line
        assert "1 more" in line

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["visum", "ROOT"], ("'visum'", "'visium'", "'visium_hd'")),
            (["visum"], ("'visum'", "'visium'", "'visium_hd'")),
            (["her2st"], ("nh2st-graph prepare her2st ROOT --out",)),
            (["her2st", "ROOT/nowhere"], ("nowhere",)),
            (["her2st", "ROOT", "--section", "A9"], ("'A9'",)),
            (["her2st", "ROOT", "--option", "image=he"], ("'her2st'", "--option image")),
            (["visium_hd", "ROOT", "--option", "bin=8"], ("--option bin", "'bin_um'")),
            (["visium_hd", "ROOT", "--option", "bin_um=small"], ("--option bin_um=small", "integer")),
            (["visium_hd", "ROOT", "--option", "bin_um"], ("--option bin_um", "KEY=VALUE")),
            (["visium_hd", "ROOT", "--option", "bin_um=["], ("--option bin_um=[", "KEY=VALUE")),
            (["her2st", "ROOT", "--set", "seed=1"], ("--set", "FORMAT ROOT", "--option")),
            (["CONFIG", "ROOT"], ("config.yaml", "--set data.root=")),
            (["CONFIG", "--section", "A1"], ("--section", "FORMAT ROOT", "--set data.train")),
            (["CONFIG", "--option", "a=1"], ("--option", "FORMAT ROOT", "--set data.opt")),
            (
                ["CONFIG", "--no-check-placement"],
                ("--no-check-placement", "FORMAT ROOT", "--set features.check_placement"),
            ),
            (["nowhere.yaml"], ("nowhere.yaml",)),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_arguments_that_do_not_go_together(self, refuse, repository, config, tmp_path, arguments, named):
        places = {"ROOT": str(tmp_path / "her2st"), "CONFIG": str(config)}
        given = [re.sub("^(ROOT|CONFIG)", lambda match: places[match[0]], each) for each in arguments]
        line = refuse("prepare", *given, "--out", tmp_path / "prepared")
        for each in named:
            assert each in line


class TestMisplaced:
    @pytest.mark.parametrize("case", MISPLACED)
    def test_spots_are_refused_unless_told_not_to(self, triangle, refuse, run, tmp_path, case):
        spoil, says = MISPLACED[case]
        spoil(triangle)
        read.write_h5ad(triangle, tmp_path / "A1.h5ad")
        given = ["h5ad", tmp_path / "A1.h5ad", "--out", tmp_path / "prepared"]
        line = refuse("prepare", *given)
        assert "section 'A1'" in line
        assert says in line
        assert line.endswith(": --no-check-placement")
        code, out, _ = run(*given, "--no-check-placement")
        assert (code, written(out)) == (0, [str(tmp_path / "prepared" / "A1.h5ad")])

    def test_of_several_the_others_are_written(self, triangle, run, tmp_path):
        read.write_h5ad(triangle, tmp_path / "given" / "A1.h5ad")
        triangle.obs["section"] = triangle.obs["section"].cat.rename_categories(["A2"])
        triangle.obsm["spatial"] /= 4
        read.write_h5ad(triangle, tmp_path / "given" / "A2.h5ad")
        code, out, _ = run("h5ad", tmp_path / "given", "--out", tmp_path / "prepared")
        assert code == 1
        assert [Path(path).name for path in written(out)] == ["A1.h5ad"]
        assert "failed: A2: section 'A2': " in out

    def test_without_a_image_nothing_tells(self, triangle, run, tmp_path):
        triangle.obsm["spatial"] /= 4
        del triangle.uns["spatial"]
        read.write_h5ad(triangle, tmp_path / "A1.h5ad")
        assert run("h5ad", tmp_path / "A1.h5ad", "--out", tmp_path / "prepared")[0] == 0


class TestAdvice:
    """The flag that is told is one of the command as it was given."""

    @pytest.fixture
    def plain(self, triangle, tmp_path) -> Path:
        del triangle.uns["spatial"]
        folder = tmp_path / "plain"
        folder.mkdir()
        triangle.write_h5ad(folder / "A1.h5ad")
        shutil.copy(tmp_path / "A1.png", folder)
        return folder

    def test_an_option_of_a_format_or_of_a_configuration(self, plain, config, refuse, tmp_path):
        out = ["--out", tmp_path / "out"]
        assert "(--option microns_per_pixel=0.5)" in refuse("prepare", "anndata", plain, *out)
        given = settings({"data.format": "anndata", "data.root": plain})
        for command in ("prepare", "train"):
            assert "(--set data.options.microns_per_pixel=0.5)" in refuse(command, config, *given, *out)

    def test_a_switch_of_a_configuration(self, triangle, config, refuse, tmp_path):
        MISPLACED["scaled"][0](triangle)
        read.write_h5ad(triangle, tmp_path / "A1.h5ad")
        given = settings({"data.format": "h5ad", "data.root": tmp_path / "A1.h5ad", "data.panel": "hvg:3"})
        line = refuse("prepare", config, *given, "--out", tmp_path / "out")
        assert "--set features.check_placement=false" in line

    def test_genes_that_are_no_counts(self, triangle, run, refuse, tmp_path):
        triangle.X = triangle.X.astype(np.float32).log1p()
        read.write_h5ad(triangle, tmp_path / "A1.h5ad")
        code, _, err = run("h5ad", tmp_path / "A1.h5ad", "--out", tmp_path / "out")
        assert code == 0
        assert {"'A1'", "X", "integers"} <= set(re.findall(r"'A1'|\w+", err))
        given = ["prepare", "anndata", tmp_path / "A1.h5ad", "--out", tmp_path / "other"]
        assert "--option genes=false" in refuse(*given)
        assert run(*given[1:], "--option", "genes=no")[0] == 0
        assert ad.read_h5ad(tmp_path / "other" / "A1.h5ad").n_vars == 0

    def test_a_cohort(self, triangle, refuse, run, tmp_path):
        triangle.obs["section"] = pd.Categorical(["A1", "A2"] * (triangle.n_obs // 2) + ["A1"] * (triangle.n_obs % 2))
        triangle.uns["spatial"]["A2"] = triangle.uns["spatial"]["A1"]  # each section has an image of its own
        triangle.write_h5ad(tmp_path / "cohort.h5ad")
        for format in ("h5ad", "anndata"):
            given = [format, tmp_path / "cohort.h5ad", "--out", tmp_path / format]
            assert "--option library_key=section" in refuse("prepare", *given)
            code, out, _ = run(*given, "--option", "library_key=section", "--no-check-placement")
            assert code == 0
            assert [Path(path).name for path in written(out)] == ["A1.h5ad", "A2.h5ad"]


def test_what_a_table_does_not_fit_is_said_once(run, repository, tmp_path):
    (tmp_path / "her2st" / "ids.csv").write_text("sample_id,patient\nA1,P\nA2,P\nA03,Q\n")
    code, out, err = run("her2st", tmp_path / "her2st", "--out", tmp_path / "prepared")
    assert code == 0
    assert len(re.findall("'A03'.*'A3'", " ".join(err.split()))) == err.count("'A03'") == 1
    assert [cells[0] for name, cells in rows(out).items() if name in {"A1", "A2", "A3"}] == ["P", "P", "A"]


def test_interrupted_it_keeps_what_is_done(run, repository, tmp_path, monkeypatch):
    write = read.write_h5ad

    def interrupted(adata, path):
        if path.stem == "A2":
            raise KeyboardInterrupt
        write(adata, path)

    monkeypatch.setattr(read, "write_h5ad", interrupted)
    given = ["her2st", tmp_path / "her2st", "--out", tmp_path / "prepared"]
    code, out, err = run(*given)
    assert (code, out) == (130, "")
    assert "--resume" in err.splitlines()[-1]
    assert set(tree(tmp_path / "prepared")) == {"A1.h5ad"}
