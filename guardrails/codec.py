"""Records to canonical JSON and back.

Invariants:
- ``encode_record`` and ``decode_record`` are inverse; unknown, missing or ill-typed fields are refused.
- Measured numbers are floats in records and decimal strings in bytes (``canonical.decimal``).
- A field added to a record later must have a default, so that what was written before still decodes.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import StrEnum
from typing import Any, TypeVar

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.errors import RecordError

R = TypeVar("R")
_HINTS: dict[type[Any], dict[str, Any]] = {}


def encode_record(record: Any, *, lean: bool = False) -> dict[str, Any]:
    """A record as a canonical-JSON object; absent optional fields are left out.

    ``lean`` leaves out every field that has its default, at every depth: rows of the projection are
    written so, because then a field that a later version adds does not change the rows of an earlier log.
    """
    encoded = {}
    for item in dataclasses.fields(record):
        value = getattr(record, item.name)
        if value is None or (lean and value == _default(item)):
            continue
        encoded[item.name] = _encode(value, lean=lean)
    return encoded


def decode_record(cls: type[R], data: Any) -> R:
    """The record of class ``cls`` that ``encode_record`` wrote; raises RecordError otherwise."""
    if not isinstance(data, dict):
        raise RecordError(f"{cls.__name__}: an object is needed, not {type(data).__name__}")
    hints = _hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise RecordError(f"{cls.__name__}: unknown field {unknown[0]!r:.80}")
    values = {name: _decode(hints[name], item, f"{cls.__name__}.{name}") for name, item in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise RecordError(f"{cls.__name__}: {error}") from None


def _hints(cls: type[Any]) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _default(item: dataclasses.Field[Any]) -> Any:
    """A field's default; MISSING, which equals no value, where it has none."""
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def _encode(value: Any, *, lean: bool) -> Any:
    if isinstance(value, Digest):
        return str(value)
    if dataclasses.is_dataclass(value):
        return encode_record(value, lean=lean)
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        return canonical.decimal(value)
    if isinstance(value, dict):
        return {key: _encode(item, lean=lean) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_encode(item, lean=lean) for item in value]
    return value


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is types.UnionType or origin is typing.Union:
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return _decode(inner[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise RecordError(f"{where}: an array is needed")
        item_hint = typing.get_args(hint)[0]
        return tuple(_decode(item_hint, item, where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise RecordError(f"{where}: an object is needed")
        item_hint = typing.get_args(hint)[1]
        return {key: _decode(item_hint, item, f"{where}.{key}") for key, item in value.items()}
    return _decode_scalar(hint, value, where)


def _decode_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float:
        return canonical.parse_decimal(value)
    if hint is Digest:
        return Digest.parse(value) if isinstance(value, str) else _refuse(hint, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode_record(hint, value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError:
            return _refuse(hint, value, where)
    if type(value) is not hint:
        return _refuse(hint, value, where)
    return value


def _refuse(hint: Any, value: Any, where: str) -> Any:
    raise RecordError(f"{where}: {value!r:.80} is not {getattr(hint, '__name__', hint)}")
