"""Models as zip archives: the same model, the same bytes, and nothing that an archive may do to a machine."""

from __future__ import annotations

import json
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import nh2st_graph as ng
from nh2st_graph import ModelError, RunError, tl

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MODEL = ("model.json", "model.safetensors", "log.csv")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def saved(tiny_run, tmp_path_factory) -> Path:
    """An archive, to be copied."""
    path = tmp_path_factory.mktemp("saved") / "tiny model.zip"
    ng.save(ng.load(tiny_run.folder), path)
    return path


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        ng.load(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"model {path}: ")
    return line


class TestSave:
    def test_an_archive_holds_what_a_folder_holds(self, saved, tiny_run, tiny_sections):
        again = ng.load(saved)
        assert len(again.folds) == len(tiny_run.model.folds) > 0
        assert again.digest == tiny_run.model.digest
        assert again.config == tiny_run.model.config
        pd.testing.assert_frame_equal(again.log, ng.load(tiny_run.folder).log)
        section = tiny_sections["S3"]
        assert_array_equal(tl.predict(section, again).X, tl.predict(section, tiny_run.model).X)

    def test_it_has_the_card_first_and_the_scores(self, saved):
        files = ["README.md", *MODEL[:2], "folds.safetensors", "log.csv", "metrics.json", "metrics_per_gene.csv"]
        assert names(saved) == files
        assert sorted(saved.parent.iterdir()) == [saved]

    def test_the_same_model_gives_the_same_bytes(self, saved, tmp_path, monkeypatch):
        monkeypatch.setattr("time.time", lambda: 2e9)
        ng.save(ng.load(saved), tmp_path / saved.name)
        assert (tmp_path / saved.name).read_bytes() == saved.read_bytes()

    def test_a_folder_is_as_save_writes_it(self, tiny_run, tmp_path):
        ng.save(tiny_run.model, tmp_path / "model")
        files = sorted(path.name for path in (tmp_path / "model").iterdir())
        assert files == sorted([*MODEL, "folds.safetensors"])

    def test_an_archive_is_replaced_whole(self, saved, tiny_run, tmp_path, monkeypatch):
        path = Path(shutil.copy(saved, tmp_path))

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("nh2st_graph.train._archive.copyfileobj", fail)
        with pytest.raises(RunError, match=r"\.zip cannot be written: the disk is full"):
            ng.save(tiny_run.model, path)
        assert path.read_bytes() == saved.read_bytes()
        assert list(tmp_path.iterdir()) == [path]

    def test_a_folder_is_not_replaced(self, tiny_run, tmp_path):
        (tmp_path / "there.zip").mkdir()
        with pytest.raises(RunError, match=r"there\.zip is a folder"):
            ng.save(tiny_run.model, tmp_path / "there.zip")
        assert not list((tmp_path / "there.zip").iterdir())

    def test_a_method_that_cannot_be_saved(self, tmp_path, monkeypatch):
        model = ng.load(GOLDEN / "ridge_neighbours")
        monkeypatch.setattr(type(model.module), "memory", lambda self: None)
        with pytest.raises(ModelError, match="'ridge_neighbours' cannot be saved"):
            ng.save(model, tmp_path / "model.zip")
        assert not list(tmp_path.iterdir())

    def test_an_archive_that_another_program_packed(self, saved, tmp_path, tiny_run):
        with zipfile.ZipFile(tmp_path / "packed.ZIP", "w", zipfile.ZIP_DEFLATED) as packed:
            for name in MODEL[:2]:
                packed.write(tiny_run.folder / name, name)
        again = ng.load(tmp_path / "packed.ZIP")
        assert again.digest == tiny_run.model.digest
        assert again.log.empty


def write(path: Path, **files: bytes | str) -> Path:
    """The files of a small model in an archive, some of them changed, and others added."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in MODEL[:2]:
            archive.writestr(name, files.pop(name, (GOLDEN / "ridge_neighbours" / name).read_bytes()))
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_the_small_model_is_read(tmp_path):
    assert ng.load(write(tmp_path / "model.zip")).config.model.name == "ridge_neighbours"


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "/tmp/escaped",
        "..\\escaped",
        "C:\\escaped",
        "folder/model.json",
        "folder/",
        "model.pkl",
        "MODEL.JSON",
        "model.json\0../escaped",
        "",
    ],
)
def test_only_known_names(tmp_path, name):
    path = write(tmp_path / "model.zip")
    with zipfile.ZipFile(path, "a") as archive:
        about = zipfile.ZipInfo("x")
        about.filename = about.orig_filename = name
        archive.writestr(about, b"harmless")
    assert f"the archive holds {name!r}, and a model's holds README.md, model.json" in refused(path)
    assert list(tmp_path.rglob("*")) == [path]
    assert not Path("/tmp/escaped").exists()


def test_a_name_twice(tmp_path):
    path = write(tmp_path / "model.zip")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model.json", b"{}")
    assert "holds model.json twice" in refused(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices(tmp_path, kind):
    path = write(tmp_path / "model.zip")
    about = zipfile.ZipInfo("log.csv")
    about.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(about, b"/etc/hostname")
    assert "log.csv in the archive is a link, or no file" in refused(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_ways_to_pack(tmp_path, method):
    path = write(tmp_path / "model.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("log.csv", b"epoch\n", method)
    assert "log.csv in the archive is encrypted, or packed in a rare way" in refused(path)


def patched(path: Path, name: str, at: int, value: bytes) -> None:
    """Change what the list of an archive says of a file: the fields of APPNOTE 4.3.12, by their places."""
    content = bytearray(path.read_bytes())
    place = -1
    while content[(place := content.index(b"PK\1\2", place + 1)) + 46 :][: len(name)] != name.encode():
        pass
    content[place + at : place + at + len(value)] = value
    path.write_bytes(content)


def test_an_encrypted_file(tmp_path):
    path = write(tmp_path / "model.zip")
    patched(path, "model.json", 8, struct.pack("<H", 1))
    assert "model.json in the archive is encrypted" in refused(path)


@pytest.mark.parametrize(
    ("size", "word"), [(2**32 - 2, "has 4,294,967,294 bytes, and no model has more"), (1, "damaged")]
)
def test_a_declared_size_that_is_wrong(tmp_path, size, word):
    path = write(tmp_path / "model.zip")
    patched(path, "model.json", 24, struct.pack("<I", size))
    assert word in refused(path)


def test_a_bomb(tmp_path):
    path = write(tmp_path / "model.zip", **{"log.csv": bytes(2**24)})
    assert path.stat().st_size < 2**20
    line = refused(path)
    assert "log.csv would grow from 16," in line
    assert "to 16,777,216 bytes, by more than 100 times" in line


def test_a_small_file_may_shrink_as_it_likes(tmp_path):
    ng.load(write(tmp_path / "model.zip", **{"README.md": b"-" * 10_000}))


@pytest.mark.parametrize("name", MODEL[:2])
def test_a_missing_file(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        kept = next(each for each in MODEL if each != name)
        archive.write(GOLDEN / "ridge_neighbours" / kept, kept)
    assert name in refused(tmp_path / "model.zip")


def test_an_archive_that_is_not_there(tmp_path):
    assert "no model.json there; give the folder of a finished run, or a model's .zip" in refused(tmp_path / "no.zip")


@pytest.mark.parametrize(
    "change", [lambda content: b"PK", lambda content: content[: len(content) // 2], lambda content: b"text\n" * 100]
)
def test_a_damaged_archive(tmp_path, change: Callable[[bytes], bytes]):
    path = write(tmp_path / "model.zip")
    path.write_bytes(change(path.read_bytes()))
    assert "the archive is damaged" in refused(path)


def test_a_pickle_under_the_name_of_weights(tmp_path):
    path = write(tmp_path / "model.zip", **{"model.safetensors": b"\x80\x04}\x94."})
    assert "model.safetensors or model.json is damaged" in refused(path)


def test_a_later_format_is_named(tmp_path):
    about = json.loads((GOLDEN / "ridge_neighbours" / "model.json").read_text())
    for change in ({"format": 2}, {"version": "99.0"}):
        assert "install " in refused(write(tmp_path / "model.zip", **{"model.json": json.dumps(about | change)}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_is_read_as_a_model(tmp_path, data):
    """A byte changed anywhere is refused, or changes nothing that is read."""
    path = write(tmp_path / "model.zip")
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    expected = ng.load(GOLDEN / "ridge_neighbours").digest
    try:
        model = ng.load(path)
    except ModelError:
        return
    assert model.digest == expected
