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
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.errors import RecordError

R = TypeVar("R")


def encode_record(record: Any, *, lean: bool = False) -> dict[str, Any]:
    """A record as a canonical-JSON object; absent optional fields are left out.

    ``lean`` leaves out every field that has its default, at every depth: rows of the projection are
    written so, because then a field that a later version adds does not change the rows of an earlier log.
    """
    encoded = {}
    for name, default in _fields(typing.cast("Any", type(record))):
        value = getattr(record, name)
        if value is None or (lean and value == default):
            continue
        # Most fields are plain text, which needs no look at its type.
        encoded[name] = value if type(value) is str else _encode(value, lean=lean)
    return encoded


@cache
def _fields(cls: Any) -> tuple[tuple[str, Any], ...]:
    """The names of a record's fields, each with its default."""
    return tuple((item.name, _default(item)) for item in dataclasses.fields(cls))


def decode_record(cls: type[R], data: Any) -> R:
    """The record of class ``cls`` that ``encode_record`` wrote; raises RecordError otherwise."""
    if type(data) is not dict and not isinstance(data, dict):
        raise RecordError(f"{cls.__name__}: an object is needed, not {type(data).__name__}")
    plan = _plan(typing.cast("Any", cls))
    readers = plan.readers
    values = plan.defaults.copy()
    for name, item in data.items():
        field = readers.get(name)
        if field is None:
            raise RecordError(f"{cls.__name__}: unknown field {min(set(data) - set(readers))!r:.80}")
        # Most fields are plain text, which needs no function to be read.
        values[name] = item if type(item) is field[0] else field[1](item, field[2])
    if plan.is_plain and plan.required <= data.keys():
        for name, factory in plan.factories:
            if name not in values:
                values[name] = factory()
        return made(cls, values)
    try:
        return cls(**{name: values[name] for name in data})
    except TypeError as error:
        raise RecordError(f"{cls.__name__}: {error}") from None


def made(cls: type[R], fields: dict[str, Any]) -> R:
    """What the constructor of a frozen dataclass makes of all its fields, without its checks and a call for each.

    For values that were checked already, and classes of which every record needs several.
    """
    record = object.__new__(cls)
    record.__dict__.update(fields)
    return record


class _Plan(typing.NamedTuple):
    """How records of one class are read: see ``_readers``; ``is_plain``: nothing is checked when one is made."""

    readers: dict[str, tuple[type | None, Read, str]]
    required: frozenset[str]
    defaults: dict[str, Any]
    factories: tuple[tuple[str, Callable[[], Any]], ...]
    is_plain: bool


@cache
def _plan(cls: Any) -> _Plan:
    missing, fields = dataclasses.MISSING, dataclasses.fields(cls)
    defaults = {item.name: item.default for item in fields if item.default is not missing}
    factories = tuple(
        (item.name, item.default_factory) for item in fields if item.default_factory is not missing
    )
    required = frozenset(item.name for item in fields) - defaults.keys() - dict(factories).keys()
    return _Plan(_readers(cls), required, defaults, factories, not hasattr(cls, "__post_init__"))


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


# --- reading: for each type of field one function, made once ---------------------------------

Read = Callable[[Any, str], Any]
"""The value of a field from its JSON; the text says where it stands, for the error."""


_PLAIN = (str, int, bool)


@cache
def _readers(cls: Any) -> dict[str, tuple[type | None, Read, str]]:
    """For each field: the type that is itself in JSON (None: there is none), its function, and where it stands."""
    hints = typing.get_type_hints(cls)
    return {
        name: (hint if hint in _PLAIN else None, _reader(hint), f"{cls.__name__}.{name}")
        for name, hint in hints.items()
    }


@cache
def _reader(hint: Any) -> Read:
    origin = typing.get_origin(hint)
    if origin is types.UnionType or origin is typing.Union:
        return _reader(next(arg for arg in typing.get_args(hint) if arg is not type(None)))
    if origin is tuple:
        return _tuple_of(_reader(typing.get_args(hint)[0]))
    if origin is dict:
        return _dict_of(_reader(typing.get_args(hint)[1]))
    if hint is float:
        return lambda value, where: canonical.parse_decimal(value)
    if hint is Digest:
        return lambda value, where: Digest.parse(value) if type(value) is str else _refuse(hint, value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return lambda value, where: decode_record(hint, value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _word_of(hint)
    return lambda value, where: value if type(value) is hint else _refuse(hint, value, where)


def _tuple_of(read: Read) -> Read:
    def read_tuple(value: Any, where: str) -> Any:
        if not isinstance(value, list):
            raise RecordError(f"{where}: an array is needed")
        return tuple([read(item, where) for item in value])

    return read_tuple


def _dict_of(read: Read) -> Read:
    def read_dict(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise RecordError(f"{where}: an object is needed")
        return {key: read(item, f"{where}.{key}") for key, item in value.items()}

    return read_dict


def _word_of(words: type[StrEnum]) -> Read:
    known = {word.value: word for word in words}

    def read_word(value: Any, where: str) -> Any:
        word = known.get(value) if type(value) is str else None
        return _refuse(words, value, where) if word is None else word

    return read_word


def _refuse(hint: Any, value: Any, where: str) -> Any:
    raise RecordError(f"{where}: {value!r:.80} is not {getattr(hint, '__name__', hint)}")
