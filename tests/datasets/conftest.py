"""Synthetic sections, made once for all tests of this room, and a server of files on this machine."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from anndata import AnnData
from filelock import FileLock

from nh2st_graph.datasets import synthetic_tissue


@pytest.fixture(scope="session")
def sections(shared_by_all: Path) -> dict[str, AnnData]:
    """The demo's data: four sections of about 240 spots and 70 genes, which the first process makes for all."""
    folder, kept = shared_by_all / "tissue", shared_by_all / "tissue.pickle"
    with FileLock(shared_by_all / "tissue.lock"):
        if not kept.exists():
            kept.write_bytes(pickle.dumps(synthetic_tissue(4, seed=0, folder=folder, n_interaction=20)))
    made: dict[str, AnnData] = pickle.loads(kept.read_bytes())
    return made


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("small")


@pytest.fixture(scope="session")
def small(small_folder: Path) -> AnnData:
    """One section of 6 x 7 spots at a coarse scale."""
    return synthetic_tissue(1, seed=5, folder=small_folder, n_rows=6, n_cols=7, microns_per_pixel=4.0)["S1"]


class FileServer(ThreadingHTTPServer):
    """Serves a folder, by ranges where it is asked for them.

    Attributes
    ----------
    asked
        What was asked for: path, and first byte (None without a range).
    ranges
        Whether ranges are understood.
    breaks_after
        Bytes after which each connection breaks; None: none does.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.asked: list[tuple[str, int | None]] = []
        self.ranges = True
        self.breaks_after: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        file = self.server.folder / self.path.lstrip("/")
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(found[1]) if found else None
        self.server.asked.append((self.path, first))
        if not file.is_file():
            return self.send_error(404)
        content = file.read_bytes()
        if first is not None and self.server.ranges:
            if first >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            content = content[first:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.breaks_after])
        return None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server of an empty folder, and an empty cache."""
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "server").mkdir()
    server = FileServer(tmp_path / "server")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
