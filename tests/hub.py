"""A small Hugging Face hub on this machine, which the real library downloads from and uploads to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest

#: The one commit that every repository has.
COMMIT = "0" * 40


class Hub:
    """Files by ``ORG/NAME``, and repositories that refuse.

    Attributes
    ----------
    folder
        Where the files of repositories are.
    refused
        What is answered about a repository: status and code.
    asked
        Paths of the files that were asked for.
    told
        What was sent to it: path and content.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused: dict[str, tuple[int, str]] = {"org/gated": (403, "GatedRepo")}
        self.asked: list[str] = []
        self.told: list[tuple[str, Any]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.asked.append(self.path)
                self.answer(*hub.find(self.path), body=False)

            def do_GET(self) -> None:
                self.answer(*hub.find(self.path))

            def do_POST(self) -> None:
                lines = self.rfile.read(int(self.headers["Content-Length"])).splitlines()
                self.answer(*hub.take(self.path.partition("?")[0], [json.loads(line) for line in lines]))

            def answer(self, status: int, code: str, content: bytes, body: bool = True) -> None:
                self.send_response(status)
                if code:
                    self.send_header("X-Error-Code", code)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def find(self, path: str) -> tuple[int, str, bytes]:
        """Answer a question for a file, or for the list of files."""
        if path.startswith("/api/models/") and "/tree/" in path:
            repository = path.removeprefix("/api/models/").partition("/tree/")[0]
            files = [each for each in (self.folder / repository).rglob("*") if each.is_file()]
            return 200, "", json.dumps([_listed(each, self.folder / repository) for each in files]).encode()
        if path.removeprefix("/api/models/") in self.refused:
            return *self.refused[path.removeprefix("/api/models/")], b"{}"
        if "/resolve/" not in path:
            return 200, "", b""
        repository, _, file = path.strip("/").partition("/resolve/")
        if repository in self.refused:
            return *self.refused[repository], b""
        if not (self.folder / repository).is_dir():
            return 401, "RepoNotFound", b""  # what the real one says of a repository that is not there
        place = self.folder / repository / file.partition("/")[2]
        return (200, "", place.read_bytes()) if place.is_file() else (404, "EntryNotFound", b"")

    def take(self, path: str, lines: list[Any]) -> tuple[int, str, bytes]:
        """Make a repository or branch, or take a commit."""
        self.told.append((path, lines))
        if path == "/api/repos/create":
            repository = f"{lines[0]['organization']}/{lines[0]['name']}"
            if repository in self.refused:
                return self.refused[repository][0], "", b"{}"
            (self.folder / repository).mkdir(parents=True, exist_ok=True)
            return 200, "", json.dumps({"url": f"{self.url}/{repository}", "id": repository}).encode()
        if "/preupload/" in path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in lines[0]["files"]
            ]
            return 200, "", json.dumps({"files": files}).encode()
        if "/commit/" in path:
            repository = path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in lines:
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    (self.folder / repository / line["value"]["path"]).write_bytes(content)
            done = {"commitUrl": f"{self.url}/{repository}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            return 200, "", json.dumps(done).encode()
        return 200, "", b"{}"


def _listed(file: Path, folder: Path) -> dict[str, Any]:
    return {"type": "file", "path": str(file.relative_to(folder)), "size": file.stat().st_size, "oid": COMMIT}


def start_hub(folder: Path, cache: Path, patch: pytest.MonkeyPatch) -> Hub:
    """Start a hub, which takes the place of the real one until ``patch`` is undone."""
    made = Hub(folder)
    patch.setattr(huggingface_hub.constants, "ENDPOINT", made.url)
    template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return made
