"""Asking the witnesses that a workspace's configuration names. Nobody else is asked, and nothing without them."""

from __future__ import annotations

from dataclasses import dataclass

from guardrails.decision_log.cosignature import VerifierKey
from guardrails.decision_log.witness_client import WitnessAddress, ask
from guardrails.errors import InterlockError, LogVerificationError
from ui.wiring import Workspace


@dataclass(frozen=True)
class Told:
    """What one witness said, or why it said nothing."""

    sentence: str
    error: InterlockError | None = None


def ask_all(workspace: Workspace) -> list[Told]:
    """Have every configured witness cosign the newest checkpoint; one that fails keeps none of the others back."""
    told = []
    for configured in workspace.config.witnesses:
        try:
            address = WitnessAddress(configured.url, VerifierKey.parse(configured.key))
            seen = ask(workspace.gate.log, address)
            told.append(Told(f"witness {seen.witness} cosigned {seen.size} records"))
        except LogVerificationError as error:
            told.append(Told(f"ALARM: {error}", error))
        except InterlockError as error:
            told.append(Told(f"{configured.url}: {error.message}", error))
    return told
