from __future__ import annotations

import hashlib
import subprocess

import pytest

from nh2st_graph import DataError
from nh2st_graph.datasets import _download
from nh2st_graph.datasets._download import fetch_file, file_list

CONTENT = bytes(range(256)) * 40
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
GIT = f"git:{hashlib.sha1(b'blob %d' % len(CONTENT) + bytes(1) + CONTENT).hexdigest()}"


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    """Fetch the server's file into a folder that is not there yet."""
    monkeypatch.setattr(_download, "_CHUNK_BYTES", 1024)  # what is lost where a connection breaks
    (server.folder / "file").write_bytes(CONTENT)

    def call(digest=SHA256, name="file"):
        return fetch_file(
            f"{server.url}/{name}", tmp_path / "got" / name, digest, instead="give folder=DIR", progress=False
        )

    return call


@pytest.mark.parametrize("digest", [SHA256, GIT, None], ids=["sha256", "git", "none known"])
def test_a_file_is_fetched_once(fetch, server, digest):
    assert fetch(digest).read_bytes() == CONTENT
    assert fetch(digest).read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert [path.name for path in fetch(digest).parent.iterdir()] == ["file"]


def test_a_bar_shows_how_much_has_come(server, tmp_path, capsys):
    (server.folder / "file").write_bytes(CONTENT)
    path = fetch_file(f"{server.url}/file", tmp_path / "file", SHA256, instead="give folder=DIR")
    assert path.read_bytes() == CONTENT
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err


@pytest.mark.parametrize("digest", [SHA256, GIT])
def test_a_partial_file_is_continued(fetch, server, tmp_path, digest):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "file.part").write_bytes(CONTENT[:1000])
    assert fetch(digest).read_bytes() == CONTENT
    assert server.asked == [("/file", 1000)]


def test_a_connection_that_breaks_is_taken_up_where_it_broke(fetch, server):
    server.breaks_after = 4096
    assert fetch().read_bytes() == CONTENT
    assert server.asked == [("/file", first) for first in (0, 4096, 8192)]


def test_what_arrived_is_kept_for_the_next_call(fetch, server, tmp_path):
    server.breaks_after, server.ranges = 4096, False
    with pytest.raises(DataError, match="no connection"):
        fetch()
    assert (tmp_path / "got" / "file.part").read_bytes() == CONTENT[:4096]
    server.breaks_after, server.ranges = None, True
    assert fetch().read_bytes() == CONTENT
    assert server.asked[-1] == ("/file", 4096)


def test_a_server_without_ranges_gives_the_whole_file(fetch, server, tmp_path):
    server.ranges = False
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "file.part").write_bytes(b"something else")
    assert fetch().read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_thrown_away(fetch, server, tmp_path):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "file.part").write_bytes(bytes(len(CONTENT) + 1))
    assert fetch().read_bytes() == CONTENT
    assert server.asked == [("/file", len(CONTENT) + 1), ("/file", 0)]


@pytest.mark.parametrize("digest", [SHA256, GIT])
def test_a_wrong_checksum_leaves_nothing_behind(fetch, server, tmp_path, digest):
    (server.folder / "file").write_bytes(CONTENT[::-1])
    with pytest.raises(DataError, match=r"file cannot be fetched \(its content differs .*; give folder"):
        fetch(digest)
    assert list((tmp_path / "got").iterdir()) == []
    (server.folder / "file").write_bytes(CONTENT)
    assert fetch(digest).read_bytes() == CONTENT


def test_no_such_file_is_one_line(fetch, server):
    with pytest.raises(DataError, match=r"/nowhere cannot be fetched \(the server answers 404\)") as error:
        fetch(name="nowhere")
    assert "\n" not in str(error.value)
    assert len(server.asked) == 1


def test_no_network_is_one_line(tmp_path):
    # port 9 of this machine: nothing listens there
    with pytest.raises(DataError, match=r"no connection.*folder=DIR") as error:
        fetch_file("http://127.0.0.1:9/x", tmp_path / "x", instead="give folder=DIR", progress=False)
    assert "\n" not in str(error.value)


def test_a_connection_that_brings_nothing_is_given_up(fetch, server):
    server.breaks_after = 0
    with pytest.raises(DataError, match="no connection"):
        fetch()
    assert server.asked == [("/file", 0)]


def test_git_names_are_those_of_git(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    named = subprocess.run(["git", "hash-object", file], capture_output=True, text=True, check=True).stdout.strip()
    assert _download._git_name(file) == named == GIT.removeprefix("git:")


@pytest.mark.parametrize(("name", "words", "sections"), [("her2st", 4, 36), ("visium", 4, 31)])
def test_lists_of_files(name, words, sections):
    listed = file_list(name)
    assert len(listed) == sections
    assert all(len(each) == words for each in listed.values())


def test_a_file_without_an_end_is_not_kept(fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(_download, "_MOST_BYTES", 5000)
    with pytest.raises(DataError, match=r"file sends more than 5,000 bytes"):
        fetch()
    assert not list((tmp_path / "got").iterdir())


def test_a_partial_file_counts(fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(_download, "_MOST_BYTES", len(CONTENT))
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "file.part").write_bytes(CONTENT[:9000])
    assert fetch().read_bytes() == CONTENT
