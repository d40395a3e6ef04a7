from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from nh2st_graph import RunError
from nh2st_graph._files import (
    check_place,
    is_left_over,
    make_folder,
    on_disk,
    one_at_a_time,
    owned,
    owned_new,
    write_text,
    written_aside,
)


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


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_replaces_another_once_it_is_complete(tmp_path, link):
    path, before = tmp_path / "a", tmp_path / ("b" if link else "a")
    before.mkdir()
    (before / "old").touch()
    if link:
        path.symlink_to(before)
    with written_aside(path, folder=True) as aside:
        aside.mkdir()
        (aside / "new").touch()
        assert names(path) == ["old"]
    assert names(path) == ["new"]
    assert names(tmp_path) == (["a", "b"] if link else ["a"])
    assert not link or names(before) == ["old"]


def test_an_old_folder_is_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.mkdir()
    (path / "old").touch()
    replace, moves = Path.replace, []

    def interrupted(self: Path, target: Path) -> Path:
        moves.append(self)
        if len(moves) == 2:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), written_aside(path, folder=True) as aside:
        aside.mkdir()
    assert names(tmp_path) == ["a"]
    assert names(path) == ["old"]


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


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_is_for_those_who_may_read_any_other(tmp_path, mask, expected):
    before = os.umask(mask)
    try:
        with written_aside(tmp_path / "a.safetensors") as aside:
            save_file({"a": np.zeros(1)}, aside)  # which writes it for its owner alone
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == expected


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done: list[str] = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), sync(handle)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (done.append("rename"), rename(path, to))[1])
    write_text(tmp_path / "a.txt", "new")
    assert done == ["sync", "rename"]


class TestOwner:
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch):
        monkeypatch.setattr("nh2st_graph._files._WAIT", 0.02)

    def test_a_second_one_is_refused_in_one_line(self, tmp_path):
        def other() -> None:
            with (
                pytest.raises(RunError, match=r"^run folder .* is in use by another process; .* another folder$"),
                owned(tmp_path, "run folder"),
            ):
                pass

        with owned(tmp_path, "run folder"):
            with ThreadPoolExecutor() as pool:
                pool.submit(other).result()
            with owned(tmp_path, "run folder"):  # an inner block of the owner
                pass
        with owned(tmp_path, "run folder"):  # free again
            pass

    def test_one_that_died_does_not_block(self, tmp_path):
        code = (
            "import sys, pathlib\n"
            "from nh2st_graph._files import owned\n"
            "with owned(pathlib.Path(sys.argv[1]), 'run folder'):\n"
            "    print('mine', flush=True)\n"
            "    sys.stdin.read()\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"mine\n"
            with pytest.raises(RunError, match="in use"), owned(tmp_path, "run folder"):
                pass
            holder.kill()
            holder.wait()
        with owned(tmp_path, "run folder"):
            assert names(tmp_path) == [".lock"]
        assert names(tmp_path) == [], "as it was"

    def test_one_at_a_time_has_it(self, tmp_path, monkeypatch):
        """Also where each that ends removes the file that others are about to lock."""
        monkeypatch.setattr("nh2st_graph._files._WAIT", 20)
        inside, most = [], []

        def work(number: int) -> None:
            with owned(tmp_path, "run folder"):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(24)))
        assert most == [1] * 24


def test_a_file_is_not_written_in_place_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    for path, says in ((tmp_path, "is a folder"), (tmp_path / "file" / "a" / "b.txt", "file is a file")):
        with pytest.raises(RunError, match=says):
            write_text(path, "x")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a system of files in which nobody can make a folder")
def test_a_place_is_tried_before_the_work(tmp_path):
    with pytest.raises(RunError, match=r"/proc/new/out cannot be written: (nothing can be made in )?/proc"):
        check_place(Path("/proc/new/out"))
    with pytest.raises(RunError, match="folder /proc/new cannot be made"):
        make_folder(Path("/proc/new"))
    check_place(tmp_path / "new" / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [FileExistsError, FileNotFoundError])
def test_a_folder_that_another_process_removes_meanwhile_is_made_again(tmp_path, monkeypatch, error):
    make, tries = os.mkdir, []

    def mkdir(path: Path, *args: int) -> None:
        tries.append(path)
        if len(tries) == 1:  # it was there, and is gone when one looks
            raise error(errno.EEXIST, "meanwhile", str(path))
        make(path, *args)

    monkeypatch.setattr(os, "mkdir", mkdir)
    make_folder(tmp_path / "new")
    assert (tmp_path / "new").is_dir()


def test_what_is_no_folder_is_in_the_way_of_one(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match="file is a file"):
        make_folder(tmp_path / "file")
    with pytest.raises(RunError, match="link cannot be made: File exists; give another path"):
        make_folder(tmp_path / "link")


def test_a_folder_that_stays_empty_is_not_left(tmp_path):
    with owned_new(tmp_path / "a" / "b", "folder"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    with owned_new(tmp_path / "a" / "b", "folder"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


class TestDisk:
    """What a full or read-only disk says, whoever meets it."""

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError("Can't synchronously write data (errno = 28, error message = 'No space left on device')"),
            RuntimeError("I/O error: No space left on device (os error 28)"),
        ],
        ids=["system", "HDF5", "Rust"],
    )
    def test_a_full_one(self, tmp_path, error):
        def begin() -> None:
            with written_aside(tmp_path / "a") as aside:
                aside.write_text("half")
                raise error

        with pytest.raises(RunError, match=r"^.*a cannot be written: the disk is full; make room there"):
            begin()
        assert names(tmp_path) == []

    @pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
    def test_a_read_only_one(self, tmp_path, monkeypatch, number):
        def refuse(path: Path, *_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(RunError, match=r"new/a\.txt cannot be written: .*read-only.*; make it writable"):
            write_text(tmp_path / "new" / "a.txt", "x")

    def test_a_file_elsewhere_that_may_not_be_read_is_another_matter(self, tmp_path):
        elsewhere = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/slide.svs")
        with pytest.raises(PermissionError), written_aside(tmp_path / "a"):
            raise elsewhere

    @pytest.mark.parametrize("error", [ValueError("no"), RunError("ours"), OSError("damaged")])
    def test_other_errors_stay(self, tmp_path, error):
        with pytest.raises(type(error), match=str(error)), on_disk(tmp_path):
            raise error


@pytest.mark.parametrize(
    ("left", "expected"), [([], True), ([".lock", ".config.yaml.ab12.part"], True), ([".lock", "config.yaml"], False)]
)
def test_what_a_process_leaves_that_is_killed_early(tmp_path, left, expected):
    for name in left:
        (tmp_path / name).touch()
    assert is_left_over(tmp_path) is expected
    assert not is_left_over(tmp_path / "none")


class TestOneAtATime:
    def test_the_others_wait_and_say_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr("nh2st_graph._files._POLL", 0.001)
        inside, most, waited = [], [], []

        def work(number: int) -> None:
            with one_at_a_time(tmp_path / "new" / ".lock", lambda: waited.append(number)):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.002)
                inside.remove(number)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(8)))
        assert most == [1] * 8
        assert waited
        assert not list(tmp_path.rglob("*.lock"))

    def test_nobody_waits_where_no_lock_can_be_kept(self, tmp_path):
        (tmp_path / "file").touch()
        with one_at_a_time(tmp_path / "file" / ".lock", pytest.fail):
            pass
