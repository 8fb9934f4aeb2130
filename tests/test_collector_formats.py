"""What stands in the files that are taken over: JSON, templates and weights have one meaning, a bound, and no code."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
from bundles import refused, safetensors, whole_bundle
from hypothesis import given
from hypothesis import strategies as st

from guardrails.errors import BundleError
from sandbox.isolation import formats
from sandbox.isolation.collector import BUNDLE, MODEL, collect


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return whole_bundle(tmp_path / "bundle")


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
