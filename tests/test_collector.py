"""What may be taken over from a job or a person, and what may not: names, kinds of files, sizes and the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import MANIFEST, refused, safetensors, whole_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardrails.errors import BundleError
from sandbox.isolation.collector import BUNDLE, MEASUREMENT, MERGED, MODEL, FileEntry, collect
from sandbox.isolation.manifest import read_manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return whole_bundle(tmp_path / "bundle")


def test_a_whole_bundle_is_copied_read_only(bundle: Path, tmp_path: Path) -> None:
    dest = tmp_path / "store" / "collected"
    entries = collect(bundle, dest, BUNDLE)
    assert [entry.path for entry in entries] == sorted(entry.path for entry in entries)
    assert "model/README.md" not in {entry.path for entry in entries}
    for entry in entries:
        copied = dest / entry.path
        data = copied.read_bytes()
        assert entry == FileEntry(entry.path, len(data), hashlib.sha256(data).hexdigest())
        assert data == (bundle / entry.path).read_bytes()
        assert stat.S_IMODE(copied.stat().st_mode) == 0o444
        assert not copied.samefile(bundle / entry.path)
    assert {str(path.relative_to(dest)) for path in dest.rglob("*") if path.is_file()} == {
        e.path for e in entries
    }
    assert read_manifest(dest).data == ("data/train.jsonl",)


def test_an_adapter_alone_is_a_model_too(bundle: Path) -> None:
    (bundle / "model" / "config.json").unlink()
    (bundle / "model" / "model.safetensors").unlink()
    (bundle / "model" / "adapter_config.json").write_text("{}")
    (bundle / "model" / "adapter_model.safetensors").write_bytes(safetensors())
    assert collect(bundle, bundle.parent / "collected", BUNDLE)


def test_the_other_shapes(bundle: Path, tmp_path: Path) -> None:
    assert collect(bundle / "model", tmp_path / "a", MODEL)
    merged = tmp_path / "merged"
    merged.mkdir()
    (bundle / "model").rename(merged / "model")
    assert collect(merged, tmp_path / "b", MERGED)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "measurements.json").write_text('{"series":[]}')
    assert [entry.path for entry in collect(tmp_path / "m", tmp_path / "c", MEASUREMENT)] == [
        "measurements.json"
    ]
    (tmp_path / "m" / "notes.txt").write_text("x")
    refused(tmp_path / "m", "notes.txt: not a file of a measurement", MEASUREMENT)


def test_the_destination_must_be_fresh(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("keep")
    with pytest.raises(BundleError, match="exists already"):
        collect(bundle, tmp_path / "there", BUNDLE)
    assert (tmp_path / "there" / "mine").read_text() == "keep"


@pytest.mark.parametrize("missing", ["proposal.json", "model/config.json", "model/model.safetensors"])
def test_what_is_required_is_required(bundle: Path, missing: str) -> None:
    (bundle / missing).unlink()
    refused(bundle, r"missing.*a bundle needs it")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("model/pytorch_model.bin", "safetensors only"),
        ("model/model.pkl", "safetensors only"),
        ("model/modeling_evil.py", "no code"),
        ("model/optimizer.pt", "safetensors only"),
        ("model/.hidden.json", "remove it"),
        ("model/..safetensors", "remove it"),
        ("model/sub\nline.json", "remove it"),
        ("model/\x1b[2Jx.json", "remove it"),
        ("data/train.parquet", "remove it"),
        ("data/.jsonl", "remove it"),
        ("evil.sh", "remove it"),
        ("requirements.txt", "remove it"),
        ("model/tokenizer.json.safetensors.bin", "safetensors only"),
    ],
)
def test_names_that_no_rule_lists_are_refused(bundle: Path, name: str, advice: str) -> None:
    (bundle / name).write_bytes(pickle.dumps({"a": 1}))
    assert advice in refused(bundle, "not a file of a bundle")


def test_a_name_that_is_not_text_is_refused(bundle: Path) -> None:
    os.close(os.open(os.fsencode(str(bundle / "model")) + b"/\xff\xfe.json", os.O_CREAT | os.O_WRONLY))
    refused(bundle, "not a file of a bundle")


# --- what a name can stand for -------------------------------------------------------------------


def _symlink(path: Path) -> None:
    (path.parent.parent.parent / "secret").write_text("{}")
    path.symlink_to(path.parent.parent.parent / "secret")


def _hard_link(path: Path) -> None:
    (path.parent.parent.parent / "secret").write_text("{}")
    path.hardlink_to(path.parent.parent.parent / "secret")


def _socket(path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has a short limit
    try:
        listener.bind(path.name)
    finally:
        os.chdir(here)
        listener.close()


def _set_id(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0o4755)


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(64 << 10)


@pytest.mark.timeout(30)  # a FIFO without a writer would block for ever
@pytest.mark.parametrize("make", [_symlink, _hard_link, os.mkfifo, _socket, _set_id, _sparse, Path.mkdir])
def test_only_plain_files_are_taken(bundle: Path, make: Callable[[Path], None]) -> None:
    (bundle / "model" / "config.json").unlink()
    make(bundle / "model" / "config.json")
    assert "model/config.json" in refused(bundle, "config.json")


@pytest.mark.parametrize("name", ["model", "data", "adapter"])
def test_a_folder_that_is_a_link_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).rename(bundle.parent / "elsewhere")
    (bundle / name).symlink_to(bundle.parent / "elsewhere")
    refused(bundle, f"{name}: not a folder")


def test_a_source_that_is_a_link_or_absent_is_refused(bundle: Path) -> None:
    link = bundle.parent / "link"
    link.symlink_to(bundle)
    refused(link, "not a folder")
    refused(bundle.parent / "absent", "not a folder")


def test_a_device_is_not_a_file(bundle: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes device nodes")
    (bundle / "model" / "config.json").unlink()
    os.mknod(bundle / "model" / "config.json", 0o020666, os.makedev(1, 5))
    refused(bundle, "not a regular file")


# --- sizes ----------------------------------------------------------------------------------------


def test_files_over_their_limit_are_refused_before_they_are_read(bundle: Path) -> None:
    with (bundle / "model" / "config.json").open("wb") as stream:
        stream.write(b" " * (2 << 20))
    refused(bundle, "more than the 1048576 allowed")


def test_too_many_files_are_refused(bundle: Path) -> None:
    for index in range(300):
        (bundle / "data" / f"{index}.jsonl").write_text("{}\n")
    refused(bundle, "at most 256 files")


def test_a_folder_of_very_many_names_is_refused_without_reading_them(bundle: Path) -> None:
    for index in range(600):
        (bundle / "model" / f"x{index}.txt").touch()
    refused(bundle, "model: a bundle holds at most 256 files")


# --- any tree ---------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    ["proposal.json", "model", "adapter", "data", "config.json", "model.safetensors", "tokenizer.json", "a.jsonl",
     "chat_template.jinja", "model.safetensors.index.json", "pytorch_model.bin", "x.pth", "sitecustomize.py",
     "LD_PRELOAD", "\n", "\x1b[2J", "..name", "-rf", "\u202egpj.exe", "n" * 200, "~", "$(id)", "a b"]
)  # fmt: skip
_CONTENT = st.one_of(
    st.binary(max_size=64),
    st.sampled_from([b"{}", b"[]", b'{"auto_map":"x"}', b"\x80\x04.", b"\xff" * 16, b"{" * 5000]),
    st.just(safetensors()),
)
_KINDS = st.sampled_from(["file", "link", "folder", "fifo", "hard link", "sparse", "sealed"])
_TREES = st.lists(st.tuples(st.lists(_PIECES, min_size=1, max_size=3), _KINDS, _CONTENT), max_size=8)


def _grow(root: Path, pieces: list[str], kind: str, content: bytes) -> None:
    path = root.joinpath(*pieces)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink():
            return
        if kind == "file":
            path.write_bytes(content)
        elif kind == "link":
            path.symlink_to(root.parent / "secret")
        elif kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "hard link":
            path.hardlink_to(root.parent / "secret")
        elif kind == "sparse":
            with path.open("wb") as stream:
                stream.truncate(1 << 20)
        else:
            path.write_bytes(content)
            path.chmod(0o4755)
    except OSError:
        return  # a part of the path is a file already, or this name is taken


@pytest.mark.timeout(120)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees=_TREES, whole=st.booleans())
def test_any_tree_is_taken_whole_or_refused_whole(
    tmp_path_factory: pytest.TempPathFactory, trees: list[tuple[list[str], str, bytes]], whole: bool
) -> None:
    """Nothing of the outside, nothing unlisted, nothing but plain files: or no destination at all."""
    base = tmp_path_factory.mktemp("tree")
    (base / "secret").write_text("secret of the host")
    root = base / "out"
    root.mkdir()
    for pieces, kind, content in trees:
        _grow(root, pieces, kind, content)
    if whole:  # what a good bundle has, unless something else lies there already
        for name, content in (
            ("proposal.json", json.dumps(MANIFEST).encode()),
            ("model/config.json", b"{}"),
            ("model/model.safetensors", safetensors()),
        ):
            _grow(root, name.split("/"), "file", content)
    dest = base / "collected"
    try:
        entries = collect(root, dest, BUNDLE)
    except BundleError as error:
        entries, said = None, str(error)
    if entries is None:
        assert said.isprintable()
        assert not dest.exists()
        return
    taken = {str(path.relative_to(dest)) for path in dest.rglob("*") if not path.is_dir()}
    assert taken == {entry.path for entry in entries}
    for path in dest.rglob("*"):
        assert not path.is_symlink()
        assert path.is_dir() or (path.is_file() and stat.S_IMODE(path.stat().st_mode) == 0o444)
        if path.is_file():
            assert path.stat().st_nlink == 1
            assert b"secret of the host" not in path.read_bytes()
            assert any(rule.matches(str(path.relative_to(dest))) for rule in BUNDLE.rules)


# --- the manifest -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"intent": None}, "intent"),
        ({"intent": ""}, "intent"),
        ({"technique": "a b"}, "technique"),
        ({"schema": "interlock/bundle/v2"}, "schema"),
        ({"base": "latest"}, "base"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"extra": 1}, "extra"),
        ({"claims": {"gain": 0.5}}, "claims"),
        ({"data": ["../../etc/passwd"]}, "data"),
        ({"data": ["data/a.jsonl", "data/a.jsonl"]}, "data"),
        ({"objective": {"nested": {}}}, "objective"),
    ],
)
def test_a_manifest_follows_its_schema(bundle: Path, change: dict[str, object], match: str) -> None:
    (bundle / "proposal.json").write_text(json.dumps({**MANIFEST, **change}))
    assert "proposal.json" in refused(bundle, match)


def test_a_manifest_is_read_as_claims(bundle: Path, tmp_path: Path) -> None:
    base = "sha256:" + "a" * 64
    (bundle / "proposal.json").write_text(
        json.dumps(
            {**MANIFEST, "base": base, "objective": {"loss": "nll", "steps": 3}, "claims": {"gain": "0.1"}}
        )
    )
    collect(bundle, tmp_path / "c", BUNDLE)
    manifest = read_manifest(tmp_path / "c")
    assert str(manifest.base) == base
    assert (manifest.intent, manifest.technique, manifest.seed) == ("to try", "self_supervised", 1)
    assert manifest.objective == {"loss": "nll", "steps": 3}
    assert manifest.claims == {"gain": "0.1"}


def test_data_that_the_manifest_names_must_be_there(bundle: Path, tmp_path: Path) -> None:
    (bundle / "proposal.json").write_text(json.dumps({**MANIFEST, "data": ["data/other.jsonl"]}))
    collect(bundle, tmp_path / "c", BUNDLE)
    with pytest.raises(BundleError, match=r"data/other\.jsonl, which is not in the bundle"):
        read_manifest(tmp_path / "c")
    with pytest.raises(BundleError, match="cannot be read"):
        read_manifest(tmp_path / "absent")
