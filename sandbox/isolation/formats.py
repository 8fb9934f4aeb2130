"""Reading what an untrusted program wrote: JSON, JSON Lines, safetensors headers.

Invariants:
- Every size is capped before the bytes are interpreted.
- One text has one meaning: repeated keys, NaN, infinities and anything after the end are refused.
- Nothing read here can name code to run.
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import PurePosixPath
from typing import Any

from guardrails.errors import BundleError

MAX_DEPTH = 64
MAX_VALUES = 4_000_000
MAX_LINE_BYTES = 1 << 20
MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 100_000
MAX_RECORDS = 1_000_000
MAX_TEMPLATE = 256 << 10

# In JSON half of a surrogate pair can be written; no encoding can hold it.
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.safetensors")
# Fields that some library hands to its importer, with the value they always have.
_MODULES = {"megatron_core": "megatron.core"}
# Fields whose values are names of built-in code; one with a slash would be fetched.
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation",
                    "_experts_implementation")  # fmt: skip
# Nothing here may try the same text again and again: a template is as long as its author likes.
_TEMPLATE_REACH = re.compile(
    r"__\w+__|\|\s*+attr\b|\{%[-+]?\s*+(?:import|include|extends|from)\b"
    r"|\brange\s*+\([^)]{0,200}?\d{5}|\*\s*+\d{5}|(?<!\d)\d{5,}+\s*+\*"
)

_TYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


def parse_json(data: bytes, name: str) -> Any:
    """The value of a JSON text; raises BundleError naming the file."""
    # Counting separators is a cheap upper bound on the objects that parsing would make.
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise BundleError(f"{name}: more than {MAX_VALUES} values")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except (UnicodeError, ValueError, RecursionError) as error:
        raise BundleError(f"{name}: not usable JSON: {_short(error)}", hint="plain UTF-8 JSON") from None
    if _depth(value) > MAX_DEPTH:
        raise BundleError(f"{name}: nested deeper than {MAX_DEPTH} levels")
    if _HALF_CHARACTER.search(data) and not _encodable(value):
        raise BundleError(f"{name}: holds half a character, which no text can hold", hint="plain UTF-8 JSON")
    return value


def check_json_lines(data: bytes, name: str) -> None:
    """Raise BundleError unless every line is one JSON object."""
    for index, line in enumerate(data.splitlines(), start=1):
        where = f"{name}:{index}"
        if len(line) > MAX_LINE_BYTES:
            raise BundleError(f"{where}: the line is longer than {MAX_LINE_BYTES} bytes")
        if not isinstance(parse_json(line, where), dict):
            raise BundleError(f"{where}: a record is one JSON object per line")


def refuse_code(value: Any, name: str) -> None:
    """Raise BundleError if a configuration names code of its own that a loader would import."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += item
        elif isinstance(item, dict):
            _refuse_code_names(item, name)
            mapping = item.get("auto_mapping")
            library = mapping.get("parent_library", "") if isinstance(mapping, dict) else mapping or ""
            if library and str(library).split(".")[0] not in ("transformers", "torch"):
                raise BundleError(f"{name}: 'auto_mapping' names a library to import", hint="set it to null")
            stack += item.values()


def _refuse_code_names(item: dict[str, Any], name: str) -> None:
    for key in ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code", "use_kernels"):
        if item.get(key):
            raise BundleError(f"{name}: {key!r} names code to run", hint="remove it")
    for key, usual in _MODULES.items():
        if item.get(key, usual) not in (None, usual):
            raise BundleError(f"{name}: {key!r} names a library to import", hint=f"set it to {usual!r}")
    for key in _IMPLEMENTATIONS:
        parts = item.get(key)
        for part in parts.values() if isinstance(parts, dict) else [parts]:
            if part is not None and not (isinstance(part, str) and re.fullmatch(r"[a-z0-9_|]{1,40}", part)):
                raise BundleError(f"{name}: {key!r} names a kernel to fetch", hint="set it to null")
    if (template := item.get("chat_template")) is not None:
        # Some libraries keep several templates under their names.
        texts = [entry.get("template") if isinstance(entry, dict) else entry
                 for entry in (template if isinstance(template, list) else [template])]  # fmt: skip
        for text in texts:
            if not isinstance(text, str):
                raise BundleError(f"{name}: a chat template is a text, or several under their names")
            check_template(text, name)


def check_template(text: str, name: str) -> None:
    """Raise BundleError for a chat template that reaches for the inside of Python.

    Templates are rendered by a sandbox that refuses this as well; here it is refused before anything
    loads it, together with other files, loops over huge ranges, and repetition by multiplication.
    """
    if len(text) > MAX_TEMPLATE:
        raise BundleError(f"{name}: a chat template has at most {MAX_TEMPLATE} characters")
    reach = _TEMPLATE_REACH.search(text)
    if reach:
        found = ascii(reach.group())[1:-1][:40]
        raise BundleError(f"{name}: the chat template uses {found!r}", hint="use plain loops and conditions")


def check_index(value: Any, name: str) -> None:
    """Raise BundleError unless an index of shards names safetensors files beside it, and nothing else."""
    table = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(table, dict):
        raise BundleError(f"{name}: no weight_map", hint="save the model again")
    for file in table.values():
        if not isinstance(file, str) or PurePosixPath(file).name != file or not _SHARD.fullmatch(file):
            raise BundleError(f"{name}: names {ascii(file)[:80]}, not a safetensors file beside it")


def check_safetensors_header(size_field: bytes, header: bytes, file_size: int, name: str) -> None:
    """Raise BundleError unless the header describes exactly the bytes that follow it."""
    (length,) = struct.unpack("<Q", size_field)
    if not header.startswith(b"{"):
        raise _broken(name, "its header does not begin with an object")
    table = parse_json(header, name)
    if not isinstance(table, dict) or length != len(header):
        raise _broken(name, "its header is not an object")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _broken(name, "its metadata is not a table of texts")
    if len(table) > MAX_TENSORS:
        raise _broken(name, f"it names more than {MAX_TENSORS} tensors")
    spans = sorted(_span(entry, tensor, name) for tensor, entry in table.items())
    end = 0
    for start, stop in spans:
        if start != end:
            raise _broken(name, "its tensors overlap or leave gaps")
        end = stop
    if 8 + length + end != file_size:
        raise _broken(name, "its tensors do not fill the file exactly")


def header_length(size_field: bytes, file_size: int, name: str) -> int:
    """How many header bytes follow the size field; raises BundleError if that cannot be true."""
    if len(size_field) != 8:
        raise _broken(name, "it is shorter than its size field")
    (length,) = struct.unpack("<Q", size_field)
    if not 2 <= length <= min(MAX_HEADER_BYTES, file_size - 8):
        raise _broken(name, f"its header claims {length} bytes")
    return int(length)


def _span(entry: Any, tensor: str, name: str) -> tuple[int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(name, f"tensor {tensor!r:.80} is not described by dtype, shape and data_offsets")
    bits = _TYPE_BITS.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    shape, offsets = entry["shape"], entry["data_offsets"]
    if bits is None or not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or len(shape) > 8:
        raise _broken(name, f"tensor {tensor!r:.80} has an unknown type, shape or place")
    elements = 1
    for size in shape:
        elements *= size
    if offsets[1] - offsets[0] != elements * bits // 8:
        raise _broken(name, f"tensor {tensor!r:.80} is not as long as its shape says")
    return offsets[0], offsets[1]


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def _broken(name: str, what: str) -> BundleError:
    return BundleError(f"{name}: not a valid safetensors file: {what}", hint="save it with safetensors again")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return result


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.20} is too large a number")
    return value


def _depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        item, depth = stack.pop()
        deepest = max(deepest, depth)
        if deepest > MAX_DEPTH:
            return deepest
        if isinstance(item, dict):
            stack += [(below, depth + 1) for below in item.values() if isinstance(below, dict | list)]
        elif isinstance(item, list):
            stack += [(below, depth + 1) for below in item if isinstance(below, dict | list)]
    return deepest


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        return False
    return True


def _short(error: Exception) -> str:
    return ascii(str(error))[1:161]
