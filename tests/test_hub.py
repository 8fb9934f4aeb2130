"""sandbox.tasks.hub: datasets are sized before they are downloaded, and counted while they come. A hub on loopback."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import _tree_cache, constants, snapshot_download

from guardrails.errors import ConfigError
from sandbox.tasks import sources
from sandbox.tasks.sources import read_source

COMMIT = "c" * 40
RECORDS = "".join(
    json.dumps({"text": f"a record that is long enough to be measured, number {n}"}) + "\n" for n in range(3)
).encode()
MORE = RECORDS[: RECORDS.rindex(b"{")]
PIECE = b"x" * 65536


class Hub(ThreadingHTTPServer):
    """As much of the hub as a download of a dataset asks for. ``files`` is name → (content, stated size)."""

    daemon_threads = True

    def __init__(self, files: dict[str, tuple[bytes, int]], pieces: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files, self.pieces = files, pieces
        self.got: list[str] = []
        self.sent = 0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

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


@pytest.mark.parametrize("listing", ["kept", "lost"])
def test_a_part_of_a_dataset_in_the_cache_is_gone_on_with(serve, tmp_path, listing):
    hub = serve({"a.jsonl": (RECORDS, len(RECORDS)), "b.jsonl": (MORE, len(MORE))})
    folder = Path(snapshot_download("owner/name", repo_type="dataset", allow_patterns=["a.jsonl"]))
    if listing == "lost":  # or never written, as by older versions of the library
        forget_listing(tmp_path)
    assert [file.name for file in folder.iterdir()] == ["a.jsonl"]
    assert len(read_source("hub:owner/name", tmp_path)) == 5
    assert hub.got == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize("lost", ["listing", "file", "its end"])
def test_what_cannot_be_told_to_be_whole_is_not_taken_from_the_cache(serve, tmp_path, monkeypatch, lost):
    hub = serve({"a.jsonl": (RECORDS, len(RECORDS)), "b.jsonl": (MORE, len(MORE))})
    assert len(read_source("hub:owner/name", tmp_path)) == 5
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(read_source("hub:owner/name", tmp_path)) == 5, "what is whole needs no network"
    (kept,) = (tmp_path / "cache").rglob("snapshots/*/b.jsonl")
    if lost == "listing":
        forget_listing(tmp_path)
    elif lost == "file":
        kept.unlink()
    else:
        kept.resolve().write_bytes(MORE[:-20])
    with pytest.raises(ConfigError, match="hub:owner/name"):
        read_source("hub:owner/name", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    if lost == "its end":  # the library takes it as it is: by its name it is there
        with pytest.raises(ConfigError, match=r"not whole: b.jsonl: \d+ bytes, the hub says \d+") as caught:
            read_source("hub:owner/name", tmp_path)
        assert str(tmp_path / "cache") in caught.value.hint
    else:
        assert len(read_source("hub:owner/name", tmp_path)) == 5
    assert sorted(hub.got) == ["a.jsonl", "b.jsonl"], "and nothing twice"


@pytest.fixture
def whole(serve, tmp_path):
    """A dataset in the cache, taken once as it is; gives the file of its listing, and whatever else lies there."""
    serve({"a.jsonl": (RECORDS, len(RECORDS)), "model.bin": (b"no data", 7)})
    assert len(read_source("hub:owner/name", tmp_path)) == 3
    (listing,) = (tmp_path / "cache").rglob("trees/*.json")
    (snapshot,) = (tmp_path / "cache").rglob("snapshots/*")
    return listing, snapshot


@pytest.mark.parametrize("change", ["shorter", "gone", "unlisted"])
def test_what_the_cache_lacks_is_said_where_the_hub_cannot_be_reached(whole, tmp_path, monkeypatch, change):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    kept = whole[1] / "a.jsonl"
    if change == "shorter":
        kept.resolve().write_bytes(b"{}")
        said = f"a.jsonl: 2 bytes, the hub says {len(RECORDS)} bytes"
    elif change == "gone":
        kept.unlink()
        said = f"a.jsonl: not there, the hub says {len(RECORDS)} bytes"
    else:
        forget_listing(tmp_path)
        said = "the hub's listing of its files is not there"
    with pytest.raises(ConfigError) as caught:
        read_source("hub:owner/name", tmp_path)
    assert "cannot be performed" in caught.value.message, "the hub's side"
    assert caught.value.message.endswith(f"; in the cache: {said}")


def listed(**files: object) -> str:
    return json.dumps({"format_version": 1, "files": files})


def sized(size: object) -> str:
    return listed(**{"a.jsonl": {"size": size, "blob_id": "b"}})


ASKED_ANEW = [
    "3" * 5000,
    "\x00",
    '{"files": {"a.jsonl": 3}}',
    '{"format_version": 1, "files": {"a.jsonl": 3}}',
]
"""Listings that the library takes for none at all."""
REFUSED = [
    "[]", "null", "3", "[" * 100_000, listed(), '{"format_version": 1, "files": []}',
    listed(**{"model.bin": {"size": 7, "blob_id": "b"}}), listed(**{"README.md": {"size": 7, "blob_id": "b"}}),
    listed(**{"a.jsonl": {"size": len(RECORDS), "blob_id": "b", "xet_hash": 3}}),
    sized(float("inf")), sized(-float("inf")), sized(float("nan")), sized(-1), sized(True), sized(None), sized("a"),
    sized([]), sized(float(len(RECORDS))),
]  # fmt: skip


@pytest.mark.parametrize("content", REFUSED)
def test_a_listing_that_lists_nothing_is_refused_clearly(whole, tmp_path, content):
    replace_listing(whole[0], content)
    with pytest.raises(ConfigError, match="hub:owner/name") as caught:
        read_source("hub:owner/name", tmp_path)
    assert str(tmp_path / "cache") in caught.value.hint, "what to remove"


@pytest.mark.parametrize("content", ASKED_ANEW)
def test_a_listing_that_cannot_be_read_is_asked_for_anew(whole, tmp_path, monkeypatch, content):
    replace_listing(whole[0], content)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="in the cache: the hub's listing of its files cannot be read"):
        read_source("hub:owner/name", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert len(read_source("hub:owner/name", tmp_path)) == 3
    assert json.loads(whole[0].read_text())["files"]["a.jsonl"]["size"] == len(RECORDS)


def replace_listing(file: Path, content: str) -> None:
    file.write_text(content)
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()  # as in a new process


@pytest.mark.parametrize(
    "name", ["more.jsonl", "part/more.txt", "README.md", "dataset_info.json", ".hidden.md"]
)
def test_a_file_that_the_hub_never_listed_is_not_learnt_from(whole, tmp_path, monkeypatch, name):
    more = whole[1] / name
    more.parent.mkdir(exist_ok=True)
    more.write_bytes(RECORDS)
    with pytest.raises(ConfigError, match=f"not whole: {name}: the hub's listing does not name it"):
        read_source("hub:owner/name", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=f"in the cache: {name}: the hub's listing does not name it"):
        read_source("hub:owner/name", tmp_path)
    more.unlink()
    assert len(read_source("hub:owner/name", tmp_path)) == 3


def test_a_dataset_without_a_file_to_learn_from_is_refused(serve, tmp_path):
    serve({"model.bin": (b"no data", 7)})
    with pytest.raises(ConfigError, match=r"listing names no file of \.txt, \.md"):
        read_source("hub:owner/name", tmp_path)


def forget_listing(folder: Path) -> None:
    """As if the hub's listing of files had never been kept."""
    (listing,) = (folder / "cache").rglob("trees/*.json")
    listing.unlink()
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()  # as in a new process
