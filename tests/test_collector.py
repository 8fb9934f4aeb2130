"""What may be taken over from a job or a person, and what may not."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardrails.errors import BundleError
from sandbox.isolation import formats
from sandbox.isolation.collector import BUNDLE, MEASUREMENT, MERGED, MODEL, FileEntry, collect
from sandbox.isolation.manifest import read_manifest

MANIFEST = {"schema": "interlock/bundle/v1", "intent": "to try", "technique": "self_supervised", "seed": 1}


def safetensors(**tensors: int) -> bytes:
    """A file of float32 tensors, each of so many elements."""
    header, data = {}, b""
    for name, elements in (tensors or {"weight": 3}).items():
        end = len(data) + 4 * elements
        header[name] = {"dtype": "F32", "shape": [elements], "data_offsets": [len(data), end]}
        data += os.urandom(4 * elements)
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with everything that a bundle may hold."""
    folder = tmp_path / "bundle"
    for name in ("model", "adapter", "data"):
        (folder / name).mkdir(parents=True)
    (folder / "proposal.json").write_text(json.dumps({**MANIFEST, "data": ["data/train.jsonl"]}))
    for name in (
        "config",
        "generation_config",
        "tokenizer",
        "tokenizer_config",
        "special_tokens_map",
        "vocab",
    ):
        (folder / "model" / f"{name}.json").write_text("{}")
    (folder / "model" / "merges.txt").write_text("a b\n")
    (folder / "model" / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model" / "model.safetensors").write_bytes(safetensors(a=2, b=5))
    (folder / "model" / "README.md").write_text("made by a library")
    (folder / "adapter" / "adapter_config.json").write_text('{"auto_mapping": null, "r": 8}')
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(safetensors())
    (folder / "data" / "train.jsonl").write_text('{"text": "one"}\n{"text": "two", "origin": "generated"}\n')
    return folder


def refused(source: Path, match: str, shape: object = BUNDLE) -> str:
    """The message with which collecting is refused; nothing is left behind."""
    dest = source.parent / "collected"
    with pytest.raises(BundleError, match=match) as caught:
        collect(source, dest, shape)  # type: ignore[arg-type]
    assert not dest.exists()
    assert caught.value.exit_status == 3
    assert str(caught.value).isprintable()
    return str(caught.value)


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


# --- JSON -------------------------------------------------------------------------------------------

BROKEN_JSON = {
    "duplicate keys": b'{"a": 1, "a": 2}',
    "nested duplicate keys": b'{"x": [{"a": 1, "a": 2}]}',
    "not a number": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "trailing": b"{} {}",
    "not UTF-8": b'{"a": "\xff"}',
    "truncated": b'{"a": ',
    "empty": b"",
    "deep": b"[" * 100 + b"]" * 100,
    "very deep": b"[" * 200_000 + b"]" * 200_000,
    "huge integer": b'{"a": ' + b"9" * 10_000 + b"}",
    "many values": b"[" + b"0," * 400_000 + b"0]",
    "byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("kind", BROKEN_JSON)
def test_json_has_one_meaning_and_a_bound(bundle: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_VALUES", 300_000)
    (bundle / "model" / "config.json").write_bytes(BROKEN_JSON[kind])
    assert "model/config.json" in refused(bundle, "config.json")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda v: st.lists(v, max_size=4),
        max_leaves=20,
    )
)
def test_ordinary_json_reads_as_python_reads_it(value: object) -> None:
    assert formats.parse_json(json.dumps(value).encode(), "x") == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_bundle_error(data: bytes) -> None:
    try:
        value = formats.parse_json(data, "x")
    except BundleError:
        return
    assert value == json.loads(data)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"a": 1}\nnot json\n', "train.jsonl:2"),
        ("[1]\n", "train.jsonl:1"),
        ('{"a": 1, "a": 2}\n', "train.jsonl:1"),
        ('{"a": 1}\n\n{"a": 2}\n', "train.jsonl:2"),
        ('{"a": "' + "x" * (1 << 20) + '"}\n', "train.jsonl:1"),
    ],
)
def test_records_are_named_by_line(bundle: Path, text: str, where: str) -> None:
    (bundle / "data" / "train.jsonl").write_text(text)
    refused(bundle, where)


@pytest.mark.parametrize(
    "name", ["model/config.json", "model/tokenizer_config.json", "adapter/adapter_config.json"]
)
@pytest.mark.parametrize(
    "value",
    [
        {"auto_map": {"AutoModel": "evil.Model"}},
        {"nested": [{"auto_map": ["a"]}]},
        {"auto_mapping": {"base_model_class": "X", "parent_library": "os"}},
        {"auto_mapping": "evil"},
    ],
)
def test_configurations_name_no_code(bundle: Path, name: str, value: object) -> None:
    (bundle / name).write_text(json.dumps(value))
    refused(bundle, "auto_map")


NAMES_CODE = {
    "remote code": {"auto_map": {"AutoModel": "someone/evil--model.Evil"}},
    "trust": {"trust_remote_code": True},
    "generation": {"custom_generate": "someone/evil"},
    "kernel from a hub": {"_attn_implementation": "someone/evil-attention"},
    "kernel for a part": {"attn_implementation": {"text": "eager", "vision": "someone/evil@main"}},
    "kernel of another type": {"attn_implementation": 7},
    "module to import": {"megatron_core": "antigravity"},
    "deep down": {"a": [{"b": {"auto_map": ["x.Y"]}}]},
    "template": {"chat_template": "{{ ''.__class__.__mro__ }}"},
    "one of several templates": {"chat_template": [{"name": "x", "template": "{{ messages|attr('x') }}"}]},
    "template that is none": {"chat_template": 5},
}


@pytest.mark.parametrize("kind", NAMES_CODE)
def test_no_field_leads_a_loader_to_code(bundle: Path, kind: str) -> None:
    (bundle / "model" / "tokenizer_config.json").write_text(json.dumps(NAMES_CODE[kind]))
    refused(bundle, "model/tokenizer_config.json: ")


@pytest.mark.parametrize(
    "value",
    [
        {"attn_implementation": None, "_attn_implementation": "flash_attention_2", "auto_map": None},
        {"megatron_core": "megatron.core", "trust_remote_code": False},
        {"chat_template": "{% for m in messages %}{{ m['content'] }}{% include_me %}{% endfor %}"},
        {"chat_template": [{"name": "default", "template": "Do not include __ in what you import: {{ x }}"}]},
    ],
)
def test_usual_fields_are_left_alone(bundle: Path, value: object) -> None:
    (bundle / "model" / "tokenizer_config.json").write_text(json.dumps(value))
    assert collect(bundle, bundle.parent / "collected", BUNDLE)


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ ''|attr('__class__') }}",
        "{% include '/etc/passwd' %}",
        "{%- import 'os' as os %}",
        "{% for x in range(999999999) %}{% endfor %}",
        "{{ 'a' * 9999999999 }}",
        "{{ 9999999999 * 'a' }}",
    ],
)
def test_a_template_that_reaches_for_more_is_refused(bundle: Path, template: str) -> None:
    (bundle / "model" / "chat_template.jinja").write_text(template)
    refused(bundle, "the chat template uses")


@pytest.mark.parametrize(
    "table",
    [
        {"w": "../../../etc/passwd"},
        {"w": "/etc/x.safetensors"},
        {"w": "pytorch_model.bin"},
        {"w": ".safetensors"},
        {"w": "a\n.safetensors"},
        {"w": 5},
        ["model.safetensors"],
        None,
    ],
)
def test_an_index_names_files_beside_it(bundle: Path, table: object) -> None:
    index = bundle / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    refused(bundle, "model.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"w": "model-00001-of-00002.safetensors"}}))
    assert collect(bundle, bundle.parent / "collected", BUNDLE)


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"\\uDFFF": 1}', '["\\udc00\\ud800"]'])
def test_half_a_character_is_refused(bundle: Path, text: str) -> None:
    (bundle / "model" / "config.json").write_text(text)
    refused(bundle, "half a character")


def test_a_whole_character_from_two_halves_is_not(bundle: Path) -> None:
    (bundle / "model" / "config.json").write_text('{"a": "\\ud83d\\ude00"}')
    assert collect(bundle, bundle.parent / "collected", BUNDLE)


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


# --- safetensors ------------------------------------------------------------------------------------


def _with_header(header: object, data: bytes = b"", *, claimed: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if claimed is None else claimed) + encoded + data


def _tensor(**changes: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


BROKEN_WEIGHTS = {
    "empty": b"",
    "only a size": struct.pack("<Q", 2),
    "header longer than the file": _with_header({}, claimed=10_000),
    "header of a terabyte": _with_header({}, claimed=1 << 40),
    "header of all bits": _with_header({}, claimed=2**64 - 1),
    "header is a list": _with_header([]),
    "header is not JSON": _with_header(b"\x80\x04pickle"),
    "tensor twice": _with_header(b'{"w":' + json.dumps(_tensor()["w"]).encode() + b',"w":1}', bytes(8)),
    "gap": _with_header(_tensor(data_offsets=[8, 16]), bytes(16)),
    "data missing": _with_header(_tensor(), bytes(4)),
    "data left over": _with_header(_tensor(), bytes(9)),
    "negative shape": _with_header(_tensor(shape=[-2]), bytes(8)),
    "shape of floats": _with_header(_tensor(shape=[2.0]), bytes(8)),
    "shape lies": _with_header(_tensor(shape=[3]), bytes(8)),
    "unknown type": _with_header(_tensor(dtype="OBJECT"), bytes(8)),
    "type is a list": _with_header(_tensor(dtype=["F32"]), bytes(8)),
    "extra field": _with_header(_tensor(loader="os.system"), bytes(8)),
    "overlap": _with_header({**_tensor(), "v": _tensor()["w"]}, bytes(8)),
    "metadata of objects": _with_header({"__metadata__": {"a": {}}, **_tensor()}, bytes(8)),
    "enormous shape": _with_header(_tensor(shape=[2**40, 2**40], data_offsets=[0, 8]), bytes(8)),
    "space before the header": _with_header(b" " + json.dumps(_tensor()).encode(), bytes(8)),
    "header of nested lists": _with_header(b'{"w":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "offsets past all numbers": _with_header(_tensor(data_offsets=[0, 2**63]), bytes(8)),
    "offsets the wrong way": _with_header(_tensor(data_offsets=[8, 0]), bytes(8)),
    "negative offsets": _with_header(_tensor(data_offsets=[-8, 0]), bytes(8)),
    "true as a size": _with_header(_tensor(shape=[True, 2]), bytes(8)),
    "ninety dimensions": _with_header(_tensor(shape=[1] * 90, data_offsets=[0, 4]), bytes(4)),
    "half a character": _with_header(b'{"\\ud800":' + json.dumps(_tensor()["w"]).encode() + b"}", bytes(8)),
    "no pickle, but named so": b"\x93NUMPY" + bytes(64),
    "a pickle": pickle.dumps({"w": [1.0, 2.0]}),
    "a zip": b"PK\x03\x04" + bytes(64),
}


@pytest.mark.parametrize("kind", BROKEN_WEIGHTS)
def test_broken_weights_are_refused(bundle: Path, kind: str) -> None:
    (bundle / "model" / "model.safetensors").write_bytes(BROKEN_WEIGHTS[kind])
    refused(bundle, "model/model.safetensors: ")


def test_a_header_over_the_cap_is_refused_unread(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_HEADER_BYTES", 64)
    (bundle / "model" / "model.safetensors").write_bytes(safetensors(a=1, b=2, c=3))
    refused(bundle, "its header claims")


def test_what_the_library_writes_is_accepted(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    library = pytest.importorskip("safetensors.numpy")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    tensors = {
        "scalar": numpy.array(1.0),
        "empty": numpy.zeros((0, 3), dtype="float32"),
        "half": numpy.ones((2, 3), dtype="float16"),
        "mask": numpy.array([True, False]),
        "counts": numpy.arange(5),
    }
    library.save_file(tensors, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    assert len(collect(tmp_path / "m", tmp_path / "c", MODEL)) == 2


@given(data=st.binary(max_size=64), position=st.integers(0, 200), value=st.integers(0, 255))
def test_a_changed_byte_never_escapes_as_another_error(data: bytes, position: int, value: int) -> None:
    whole = bytearray(_with_header(_tensor(), bytes(8)) + data)
    whole[position % len(whole)] = value
    content = bytes(whole)
    try:
        length = formats.header_length(content[:8], len(content), "x")
        formats.check_safetensors_header(content[:8], content[8 : 8 + length], len(content), "x")
    except BundleError:
        return
    table = json.loads(content[8 : 8 + length])
    spans = [entry["data_offsets"] for name, entry in table.items() if name != "__metadata__"]
    assert max((span[1] for span in spans), default=0) + 8 + length == len(content)


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
