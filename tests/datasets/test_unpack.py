"""Archives of data sets: what is in them is unpacked as it should be, or nothing is. Harmless stand-ins throughout."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nh2st_graph import DataError
from nh2st_graph.datasets import _unpack
from nh2st_graph.datasets._unpack import unpack


def entry(name: str, kind: bytes = tarfile.REGTYPE, to: str = "", size: int = 0) -> tarfile.TarInfo:
    about = tarfile.TarInfo(name)
    about.type, about.linkname, about.size = kind, to, size
    return about


def pack(path: Path, *more: tarfile.TarInfo) -> Path:
    """Two files and a folder in ``spatial/``, and what else is given, between them."""
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(entry("spatial", tarfile.DIRTYPE))
        archive.addfile(entry("spatial/a.txt", size=1), io.BytesIO(b"a"))
        for each in more:
            archive.addfile(each, io.BytesIO(bytes(each.size)))
        archive.addfile(entry("spatial/deep/b.txt", size=1), io.BytesIO(b"b"))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(archive: Path, known: str | None = None) -> str:
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(DataError) as caught:
        unpack(archive, archive.parent / "spatial", known or digest(archive))
    line = str(caught.value)
    assert line.startswith(str(archive))
    assert line.endswith("remove it, so that it is fetched again")
    assert "\n" not in line
    assert sorted(archive.parent.rglob("*")) == before
    return line


def test_files_are_unpacked_once(tmp_path):
    archive = pack(tmp_path / "spatial.tar.gz", entry("./spatial/c.txt"))
    unpack(archive, tmp_path / "spatial", digest(archive))
    files = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.txt")}
    assert files == {"spatial/a.txt": "a", "spatial/deep/b.txt": "b", "spatial/c.txt": ""}
    archive.unlink()
    unpack(archive, tmp_path / "spatial", "")


@pytest.mark.parametrize(
    "name", ["../escaped", "spatial/../../escaped", "/tmp/escaped", "other/a.txt", "spatial\\..\\escaped", "spatial2/a"]
)
def test_paths_that_lead_out(tmp_path, name):
    (tmp_path / "in").mkdir()
    line = refused(pack(tmp_path / "in" / "spatial.tar.gz", entry(name)))
    assert f"holds {name!r}, which is not in spatial/" in line
    assert sorted(tmp_path.iterdir()) == [tmp_path / "in"]
    assert not Path("/tmp/escaped").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE]
)
def test_links_and_devices(tmp_path, kind):
    if kind == tarfile.CONTTYPE:  # an old name of a plain file
        archive = pack(tmp_path / "spatial.tar.gz", entry("spatial/link", kind))
        unpack(archive, tmp_path / "spatial", digest(archive))
        return
    assert "is a link, or no file" in refused(pack(tmp_path / "spatial.tar.gz", entry("spatial/link", kind, "a.txt")))


def test_a_link_and_a_file_behind_it(tmp_path):
    outside = entry("spatial/out", tarfile.SYMTYPE, "..")
    assert "'spatial/out'" in refused(pack(tmp_path / "spatial.tar.gz", outside, entry("spatial/out/escaped")))


@pytest.mark.parametrize("name", ["spatial/a.txt", "spatial/a.txt/b"])
def test_a_file_twice(tmp_path, name):
    line = refused(pack(tmp_path / "spatial.tar.gz", entry(name)))
    assert "twice" in line or "cannot be unpacked" in line


def test_too_many_bytes_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(_unpack, "_MOST_BYTES", 2**20)
    archive = pack(tmp_path / "spatial.tar.gz", entry("spatial/zeros", size=2**22))
    assert archive.stat().st_size < 2**14
    assert "more than 1,048,576 bytes" in refused(archive)


def test_a_size_that_is_declared_and_not_there(tmp_path):
    with gzip.open(tmp_path / "spatial.tar.gz", "wb") as file:
        file.write(entry("spatial/huge", size=2**62).tobuf(tarfile.GNU_FORMAT))
    assert "536,870,912 bytes" in refused(tmp_path / "spatial.tar.gz")


def test_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(_unpack, "_MOST_FILES", 3)
    assert "3 files" in refused(pack(tmp_path / "spatial.tar.gz", *(entry(f"spatial/{i}") for i in range(5))))


def test_an_archive_without_the_folder(tmp_path):
    with tarfile.open(tmp_path / "spatial.tar.gz", "w:gz") as archive:
        archive.addfile(entry("spatial", tarfile.DIRTYPE))
    assert "holds no spatial/" in refused(tmp_path / "spatial.tar.gz")


def test_another_archive_than_the_published_one(tmp_path):
    assert "differs from the published archive" in refused(pack(tmp_path / "spatial.tar.gz"), "0" * 64)


@pytest.mark.parametrize("change", [lambda content: content[:90], lambda content: b"text" * 200, lambda content: b""])
def test_a_damaged_archive(tmp_path, change: Callable[[bytes], bytes]):
    archive = pack(tmp_path / "spatial.tar.gz")
    archive.write_bytes(change(archive.read_bytes()))
    assert "cannot be unpacked" in refused(archive) or "holds no spatial/" in refused(archive)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_escapes(tmp_path, data):
    """Bytes changed in the tar file itself: it is unpacked into its folder, or refused in our words."""
    archive = pack(tmp_path / "spatial.tar.gz")
    content = bytearray(gzip.decompress(archive.read_bytes()))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 512 * 6 - 1))] = data.draw(st.integers(0, 255))
    folder = Path(data.draw(st.uuids()).hex)
    (tmp_path / folder).mkdir(exist_ok=True)
    archive = tmp_path / folder / "spatial.tar.gz"
    archive.write_bytes(gzip.compress(bytes(content), 1))
    with suppress(DataError):
        unpack(archive, tmp_path / folder / "spatial", digest(archive))
    assert {path.name for path in (tmp_path / folder).iterdir()} <= {"spatial.tar.gz", "spatial"}
