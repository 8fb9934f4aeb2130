"""Amounts with units on the command line: seconds and bytes.

Invariants: one text has one meaning (``k`` is 1000, ``Ki`` is 1024); a bare number is seconds or bytes; nothing
that is not finite and above 0 is taken.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

# Only later versions can be subscripted when the program runs.
if TYPE_CHECKING:
    _Number = click.ParamType[float]
else:
    _Number = click.ParamType

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([A-Za-z]*)")
_LARGEST = 2**53


class Amount(_Number):
    """A number with one of the given units."""

    def __init__(self, name: str, units: dict[str, float], example: str) -> None:
        self.name = name
        self._units = units
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The amount in the base unit; fails as Click does, naming the units."""
        if isinstance(value, int | float):
            return value
        found = _NUMBER.fullmatch(str(value).strip())
        factor = self._units.get(found[2].lower()) if found else None
        amount = float(found[1]) * factor if found and factor is not None else 0.0
        if not 0 < amount < _LARGEST:
            known = ", ".join(unit for unit in self._units if unit)
            self.fail(
                f"{str(value)[:40]!r} is not an amount like {self._example}; units: {known}", param, ctx
            )
        return amount


class _Bytes(Amount):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return max(1, int(super().convert(value, param, ctx)))


_SIZES = {"": 1.0, "b": 1.0}
for _power, _letter in enumerate("kmgt", start=1):
    _SIZES |= {_letter: 1000.0**_power, f"{_letter}b": 1000.0**_power}
    _SIZES |= {f"{_letter}i": 1024.0**_power, f"{_letter}ib": 1024.0**_power}

SECONDS = Amount("seconds", {"": 1, "ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600}, "90, 90s or 1.5m")
BYTES = _Bytes("bytes", _SIZES, "1000000, 512MiB or 2G")
