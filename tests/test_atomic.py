from __future__ import annotations

from pathlib import Path

import pytest

from nh2st_graph._atomic import write_text, written_aside


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_name_shows_the_old_content_until_the_new_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written_aside(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
        assert aside.parent == tmp_path, "a rename across disks would be a copy"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("folder", [False, True])
def test_nothing_is_left_of_what_fails(tmp_path, error, folder):
    def begin() -> None:
        with written_aside(tmp_path / "a") as aside:
            if folder:
                aside.mkdir()
                (aside / "part").write_text("half")
            else:
                aside.write_text("half")
            raise error

    with pytest.raises(error):
        begin()
    assert names(tmp_path) == []


def test_a_folder_appears_as_a_whole(tmp_path):
    with written_aside(tmp_path / "a") as aside:
        aside.mkdir()
        (aside / "part").write_text("whole")
        assert not (tmp_path / "a").exists()
    assert names(tmp_path / "a") == ["part"]


def test_two_that_write_the_same_do_not_meet(tmp_path):
    with written_aside(tmp_path / "a") as first, written_aside(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first", "that of the outer block, which ends last"
    assert names(tmp_path) == ["a"]


def test_text_is_utf_8(tmp_path):
    write_text(tmp_path / "a.txt", "µm é\n")
    assert (tmp_path / "a.txt").read_bytes() == "µm é\n".encode()
