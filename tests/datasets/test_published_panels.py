from __future__ import annotations

import functools
import hashlib
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from nh2st_graph import DataError
from nh2st_graph.datasets import PUBLISHED_PANELS, fetch_panel, is_published


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], None]:
    """Store an array on the server, as the panel ``nh2st:here``."""

    def store(genes: np.ndarray) -> None:
        np.save(tmp_path / "server" / "genes.npy", genes, allow_pickle=True)
        digest = hashlib.sha256((tmp_path / "server" / "genes.npy").read_bytes()).hexdigest()
        published = PUBLISHED_PANELS["nh2st:INT"]._replace(path="genes.npy", digest=digest)
        monkeypatch.setitem(PUBLISHED_PANELS, "nh2st:here", published)

    return store


@pytest.fixture
def repository(
    tmp_path: Path, publish: Callable[[np.ndarray], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A server with one panel, stored as the published ones are: an array of objects."""
    folder = tmp_path / "server"
    folder.mkdir()
    publish(np.array(["ERBB2", "CD3E"], dtype=object))
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setattr("nh2st_graph.datasets._published_panels._HOST", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_panel_is_fetched_once(repository: Path) -> None:
    assert fetch_panel("nh2st:here") == ["ERBB2", "CD3E"]
    (repository / "genes.npy").unlink()
    assert fetch_panel("nh2st:here") == ["ERBB2", "CD3E"]


def test_another_content_is_refused(repository: Path) -> None:
    np.save(repository / "genes.npy", np.array(["ACTB"]))
    with pytest.raises(DataError, match=r"panel='nh2st:here' cannot be fetched"):
        fetch_panel("nh2st:here")


def test_no_network_is_one_line(repository: Path) -> None:
    (repository / "genes.npy").unlink()
    with pytest.raises(DataError, match="cannot be fetched") as error:
        fetch_panel("nh2st:here")
    assert "\n" not in str(error.value)


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(DataError, match=r"panel='nh2st:skins'.*'nh2st:skin'"):
        fetch_panel("nh2st:skins")


def test_names_are_no_files() -> None:
    assert all(is_published(name) for name in PUBLISHED_PANELS)
    assert not is_published("genes.txt")
    assert not is_published("hvg:250")


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_nothing_is_executed(
    repository: Path, publish: Callable[[np.ndarray], None], capsys: pytest.CaptureFixture[str]
) -> None:
    publish(np.array([_Harmful()], dtype=object))
    with pytest.raises(pickle.UnpicklingError, match="array of text"):
        fetch_panel("nh2st:here")
    assert capsys.readouterr().out == ""


def test_text_is_read_as_it_is(repository: Path, publish: Callable[[np.ndarray], None]) -> None:
    publish(np.array(["ERBB2", "CD3E"]))
    assert fetch_panel("nh2st:here") == ["ERBB2", "CD3E"]
