"""Checks that other distributions bring: a rule names one as ``DISTRIBUTION:NAME``.

Invariants:
- Nothing is imported because it is installed: what loads a check is a rule that names it, in a policy that people
  activated or that its author is about to test.
- A check that is not here, or cannot be loaded, is never a pass: whoever writes a policy is told, and a policy that is in
  force goes on to be read, while its rule yields an error and so blocks.
- Verdicts record the version and the digest of the code of each distribution whose checks they rest on.

An entry point of the group ``interlock.checks`` names a ``Check``; the name that it gives itself does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import cache
from typing import Any, NoReturn

from guardrails import third_party
from guardrails.checks import CHECKS
from guardrails.checks.check import Check, Evidence, Metric
from guardrails.errors import InvalidInputError, NotMeasuredError

ABSENT = "absent"


@dataclass(frozen=True)
class OpaqueParams:
    """Parameters of a check that is not here: kept, and read by nobody.

    Attributes:
        values: Names and values, in order of name.
    """

    values: tuple[tuple[str, Any], ...] = ()


class _AnyMetric(Mapping[str, Metric]):
    """Of a check that is not here nobody knows which metrics it has."""

    def __getitem__(self, name: str) -> Metric:
        return Metric("of a check that is not here")

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def check_of(name: str) -> Check:
    """The check of that name: an own one, one that a distribution brings, or in its place one that measures nothing.

    Raises:
        KeyError: It is neither an own check nor ``DISTRIBUTION:NAME``.
    """
    if name in CHECKS:
        return CHECKS[name]
    if not third_party.is_reference(name):
        raise KeyError(name)
    return _loaded(name)[0]


def reason_absent(name: str) -> str:
    """Why a check cannot be used here; empty where it can."""
    return "" if name in CHECKS else _loaded(name)[1]


def provenance(names: Iterable[str]) -> dict[str, str] | None:
    """Distribution and version, and digest of the code, of each check that a distribution brought; None where none was."""
    return {name: _loaded(name)[2] for name in sorted(set(names)) if name not in CHECKS} or None


@cache
def _loaded(name: str) -> tuple[Check, str, str]:
    """The check, why it is not here (or nothing), and where it is from."""
    try:
        found = third_party.find(third_party.CHECKS, name)
        check = found.load()
        _require_check(name, check)
    except InvalidInputError as error:
        return _absent(name, str(error)), str(error), ABSENT
    return replace(check, name=name), "", f"{found.distribution} {found.version} {found.code}"


def _require_check(name: str, check: Any) -> None:
    whole = isinstance(check, Check) and is_dataclass(check.params) and bool(check.metrics)
    if not whole or not all(isinstance(metric, Metric) for metric in check.metrics.values()):
        raise InvalidInputError(f"{name}: the entry point names no guardrails.checks.Check with metrics")


def _absent(name: str, reason: str) -> Check:
    def measure(metric: str, params: Any, evidence: Evidence, confidence: float) -> NoReturn:
        raise NotMeasuredError(f"the check is not here: {reason}")

    return Check(name, f"Not here: {reason}", OpaqueParams, _AnyMetric(), measure)
