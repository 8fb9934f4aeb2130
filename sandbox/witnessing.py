"""Asking the witnesses that a workspace's configuration names. Nobody else is asked, and nothing without them.

Invariants: a witness that fails keeps none of the others back, and nothing from happening; one that has seen
another history is an alarm, and is said each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from guardrails.decision_log.cosignature import VerifierKey, cosignatures
from guardrails.decision_log.store import Log
from guardrails.decision_log.witness_client import WitnessAddress, ask
from guardrails.errors import InterlockError, LogVerificationError
from sandbox.config import WitnessConfig


@dataclass(frozen=True)
class Told:
    """What one witness said, or why it said nothing."""

    sentence: str
    error: InterlockError | None = None


def ask_all(log: Log, witnesses: Iterable[WitnessConfig]) -> list[Told]:
    """Have every witness cosign the newest checkpoint, unless it has; what each of them said."""
    told = []
    for configured in witnesses:
        try:
            address = WitnessAddress(configured.url, VerifierKey.parse(configured.key))
            if not _has_seen(log, address):
                seen = ask(log, address)
                told.append(Told(f"witness {seen.witness} cosigned {seen.size} records"))
        except LogVerificationError as error:
            told.append(Told(f"ALARM: {error}", error))
        except InterlockError as error:
            told.append(Told(f"witness at {configured.url}: {error.message}", error))
    return told


def _has_seen(log: Log, witness: WitnessAddress) -> bool:
    with log.read() as snapshot:
        return bool(cosignatures(snapshot.cosigned(), [witness.key]))
