"""sandbox.tasks.hub: datasets are sized before they are downloaded, and counted while they come. A hub on loopback."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from guardrails.errors import ConfigError
from sandbox.tasks import sources
from sandbox.tasks.sources import read_source

COMMIT = "c" * 40
RECORDS = "".join(
    json.dumps({"text": f"a record that is long enough to be measured, number {n}"}) + "\n" for n in range(3)
).encode()
PIECE = b"x" * 65536


class Hub(ThreadingHTTPServer):
    """As much of the hub as a download of a dataset asks for. ``files`` is name → (content, stated size)."""

    daemon_threads = True

    def __init__(self, files: dict[str, tuple[bytes, int]], pieces: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files, self.pieces = files, pieces
        self.got: list[str] = []
        self.sent = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            self.server.got.append(self.path.rpartition("/")[2])
            self._file(body=True)
            return
        tree = [
            {"type": "file", "path": name, "size": size, "oid": f"{number:040d}"}
            for number, (name, (_, size)) in enumerate(self.server.files.items())
        ]
        self._json(tree if "/tree/" in self.path else {"id": "owner/name", "sha": COMMIT, "siblings": []})

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _file(self, *, body: bool) -> None:
        content, size = self.server.files[self.path.rpartition("/")[2]]
        endless = body and self.server.pieces
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{len(content):040d}"')
        self.send_header("Content-Length", str(len(PIECE) * self.server.pieces if endless else size))
        self.end_headers()
        if not body:
            return
        try:
            for piece in [PIECE] * self.server.pieces or [content]:
                self.wfile.write(piece)
                self.server.sent += len(piece)
        except OSError:
            self.close_connection = True


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Starts a hub that the library takes for the real one."""
    hubs: list[Hub] = []

    def start(files: dict[str, tuple[bytes, int]], pieces: int = 0) -> Hub:
        hub = Hub(files, pieces)
        hubs.append(hub)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        return hub

    yield start
    for hub in hubs:
        hub.shutdown()
        hub.server_close()


def test_what_is_within_the_limits_is_downloaded_once(serve, tmp_path):
    hub = serve({"train.jsonl": (RECORDS, len(RECORDS)), "model.bin": (b"no data", 7)})
    assert len(read_source("hub:owner/name", tmp_path)) == 3
    assert hub.got == ["train.jsonl"], "and only what is data"
    assert len(read_source("hub:owner/name", tmp_path)) == 3
    assert hub.got == ["train.jsonl"]


def test_too_much_by_what_the_hub_says_is_refused_before_any_of_it_comes(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    hub = serve({"a.jsonl": (RECORDS, 600), "b.jsonl": (RECORDS, 600)})
    with pytest.raises(ConfigError, match="1200 bytes, more than 1000"):
        read_source("hub:owner/name", tmp_path)
    monkeypatch.setattr(sources, "MAX_FILES", 1)
    with pytest.raises(ConfigError, match="2 files, more than 1"):
        read_source("hub:owner/name", tmp_path)
    assert hub.got == []


def test_a_hub_that_sends_more_than_it_said_is_hung_up_on(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 1 << 20)
    hub = serve({"train.jsonl": (RECORDS, len(RECORDS))}, pieces=4096)
    with pytest.raises(ConfigError, match="more than 1048576 bytes came"):
        read_source("hub:owner/name", tmp_path)
    assert hub.got == ["train.jsonl"]
    assert hub.sent < 64 << 20, "of 256 MiB"
