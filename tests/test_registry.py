"""guardrails.registry: what a digest names is what is stored, or there is an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from guardrails import canonical
from guardrails.canonical import digest
from guardrails.errors import InterlockError, RecordError
from guardrails.registry import ArtifactError, ArtifactStore, TreeEntry, decode_manifest, encode_manifest

SHA = digest(b"x").hex
names = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/"), min_size=1, max_size=6
)
paths = st.lists(names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map("/".join)


@pytest.fixture
def store(folder):
    return ArtifactStore(folder / "store")


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


FILES = {
    "proposal.json": b"{}",
    "model/config.json": b"{1}",
    "model/model.safetensors": b"w" * 5000,
    "data/a.jsonl": b"",
}


# --- blobs ---------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_bytes_come_back_under_their_digest(store, data):
    address = store.put_bytes(data)
    assert address == digest(data) == store.put_bytes(data)
    assert store.get_bytes(address) == data
    assert store.has(address)


def test_a_file_is_the_same_as_its_bytes(store, folder):
    (folder / "file").write_bytes(b"hello")
    assert store.put_file(folder / "file") == store.put_bytes(b"hello")
    (folder / "file").write_bytes(b"changed later")
    assert store.get_bytes(digest(b"hello")) == b"hello"


def test_missing_damaged_and_oversized_blobs_are_errors(store):
    with pytest.raises(ArtifactError, match="cannot be read"):
        store.get_bytes(digest(b"nowhere"))
    assert not store.has(digest(b"nowhere"))
    address = store.put_bytes(b"precious")
    with pytest.raises(ArtifactError, match="larger than 7"):
        store.get_bytes(address, limit=7)
    assert store.get_bytes(address, limit=8) == b"precious"
    path = store.root / "blobs" / address.hex[:2] / address.hex
    assert path.stat().st_mode & 0o222 == 0, "a stored blob is not writable"
    path.chmod(0o644)
    path.write_bytes(b"precioux")
    with pytest.raises(ArtifactError, match="damaged"):
        store.get_bytes(address)
    with pytest.raises(ArtifactError, match="damaged"):
        store.verify(address)


def test_a_damaged_blob_is_healed_by_storing_it_again(store):
    address = store.put_bytes(b"precious")
    path = store.root / "blobs" / address.hex[:2] / address.hex
    path.chmod(0o644)
    path.write_bytes(b"broken")
    store.put_bytes(b"precious")
    assert store.get_bytes(address) == b"precious"


# --- trees ---------------------------------------------------------------------------------


def test_a_tree_comes_back_with_its_names(store, folder):
    address = store.put_tree(tree(folder / "in", FILES))
    assert [entry.path for entry in store.tree(address)] == sorted(FILES)
    store.verify_tree(address)
    store.verify(address)
    store.checkout(address, folder / "out")
    assert {
        str(p.relative_to(folder / "out")): p.read_bytes() for p in (folder / "out").rglob("*") if p.is_file()
    } == FILES
    store.checkout(address, folder / "model", below="model")
    assert sorted(p.name for p in (folder / "model").iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(ArtifactError, match="nothing below mode"):
        store.checkout(address, folder / "none", below="mode")


def test_names_and_contents_are_bound(store, folder):
    one = store.put_tree(tree(folder / "one", {"a": b"1", "b": b"2"}))
    assert store.put_tree(tree(folder / "same", {"b": b"2", "a": b"1"})) == one
    for name, other in enumerate(
        ({"a": b"2", "b": b"1"}, {"a": b"1", "c": b"2"}, {"a": b"12", "b": b""}, {"a": b"1"})
    ):
        assert store.put_tree(tree(folder / f"other-{name}", other)) != one


def test_a_copy_is_independent_of_the_store(store, folder):
    address = store.put_tree(tree(folder / "in", FILES))
    store.checkout(address, folder / "copy")
    for path in (folder / "copy").rglob("*.json"):
        path.chmod(0o644)
        path.write_bytes(b"vandalised")
    store.verify_tree(address)


@pytest.mark.parametrize("kind", ["link", "linked folder", "pipe", "empty"])
def test_only_regular_files_make_a_tree(store, folder, kind):
    source = tree(folder / "in", FILES if kind != "empty" else {})
    source.mkdir(exist_ok=True)
    if kind == "link":
        (source / "link").symlink_to("/etc/passwd")
    elif kind == "linked folder":
        (source / "link").symlink_to(folder)
    elif kind == "pipe":
        os.mkfifo(source / "pipe")
    with pytest.raises(ArtifactError):
        store.put_tree(source)


@pytest.mark.parametrize("name", ["model/model.safetensors", "proposal.json"])
def test_a_tree_with_a_damaged_or_missing_file_is_an_error(store, folder, name):
    address = store.put_tree(tree(folder / "in", FILES))
    path = store.root / "blobs" / digest(FILES[name]).hex[:2] / digest(FILES[name]).hex
    path.chmod(0o644)
    path.write_bytes(b"?" * len(FILES[name]))
    for step in (store.verify_tree, store.verify, lambda a: store.checkout(a, folder / "out1")):
        with pytest.raises(ArtifactError, match="damaged"):
            step(address)
    path.unlink()
    for step in (store.verify_tree, store.verify, lambda a: store.checkout(a, folder / "out2")):
        with pytest.raises(ArtifactError, match="cannot"):
            step(address)


def test_a_store_that_cannot_be_written_says_so(folder):
    (folder / "file").write_text("x")
    with pytest.raises(ArtifactError, match="cannot write"):
        ArtifactStore(folder / "file").put_bytes(b"x")


# --- manifests -----------------------------------------------------------------------------


@given(
    st.dictionaries(paths, st.tuples(st.integers(0, 2**40), st.binary(max_size=2)), min_size=1, max_size=5)
)
def test_a_manifest_reads_back(files):
    entries = [TreeEntry(path, size, digest(data).hex) for path, (size, data) in files.items()]
    folders = {parent for path in files for parent in _parents(path)}
    if folders & set(files):
        with pytest.raises(RecordError, match="also a file"):
            decode_manifest(encode_manifest(entries))
        return
    assert decode_manifest(encode_manifest(entries)) == tuple(sorted(entries))


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "/",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "a/./b",
        "./a",
        "a//b",
        "a/",
        "//a",
        "a\0b",
    ],
)
def test_a_path_that_leaves_its_tree_is_refused(path):
    data = canonical.encode([{"path": path, "sha256": SHA, "size": 1}])
    with pytest.raises(RecordError):
        decode_manifest(data)


@pytest.mark.parametrize(
    "value",
    [
        {}, [], "x", [[]], [{}], [{"path": "a", "size": 1}], [{"path": "a", "sha256": SHA, "size": 1, "mode": 7}],
        [{"path": "a", "sha256": SHA, "size": -1}], [{"path": "a", "sha256": SHA, "size": True}],
        [{"path": "a", "sha256": SHA, "size": "1"}], [{"path": "a", "sha256": "../../x", "size": 1}],
        [{"path": "a", "sha256": SHA.upper(), "size": 1}], [{"path": 1, "sha256": SHA, "size": 1}],
        [{"path": "b", "sha256": SHA, "size": 1}, {"path": "a", "sha256": SHA, "size": 1}],
        [{"path": "a", "sha256": SHA, "size": 1}, {"path": "a", "sha256": SHA, "size": 1}],
        [{"path": "a", "sha256": SHA, "size": 1}, {"path": "a/b", "sha256": SHA, "size": 1}],
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(value):
    with pytest.raises(RecordError):
        decode_manifest(canonical.encode(value))


@given(st.binary(max_size=80))
@example(b'[{"path": "a", "sha256": "' + SHA.encode() + b'", "size": 1}]')
def test_random_bytes_are_no_manifest_unless_canonical(data):
    try:
        entries = decode_manifest(data)
    except InterlockError:
        return
    assert encode_manifest(list(entries)) == data


def test_a_blob_that_looks_like_a_manifest_cannot_write_outside(store, folder):
    evil = canonical.encode([{"path": "../../evil", "sha256": store.put_bytes(b"evil").hex, "size": 4}])
    address = store.put_bytes(evil)
    for step in (store.tree, store.verify_tree, lambda a: store.checkout(a, folder / "deep" / "out")):
        with pytest.raises(RecordError, match="leaves its tree"):
            step(address)
    assert not list(folder.rglob("evil"))


# --- crashes -------------------------------------------------------------------------------

PUBLISHER = """
import sys
from pathlib import Path
from guardrails.registry import ArtifactStore
store = ArtifactStore(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(10**9):
    print(store.put_bytes(b"%d " % number * 40_000).hex, flush=True)
"""


def test_a_kill_leaves_whole_blobs_or_nothing(folder):
    """What was acknowledged is whole; what was not is not there at all, or whole too."""
    store, acknowledged = ArtifactStore(folder / "store"), set()
    root = Path(__file__).parent.parent
    for turn in range(6):
        output = folder / f"{turn}.txt"
        with output.open("wb") as stream:
            child = subprocess.Popen(
                [sys.executable, "-c", PUBLISHER, str(store.root)], stdout=stream, cwd=root
            )
        end = time.monotonic() + 60
        while len(output.read_bytes().splitlines()) < 3 + turn:
            assert child.poll() is None
            assert time.monotonic() < end
            time.sleep(0.003)
        child.send_signal(signal.SIGKILL)
        child.wait()
        acknowledged |= set(output.read_text().split("\n")[1:-1])
    blobs = {path.name: path for path in (store.root / "blobs").rglob("*") if path.is_file()}
    assert acknowledged <= set(blobs)
    for name, path in blobs.items():
        assert digest(path.read_bytes()).hex == name
