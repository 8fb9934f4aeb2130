"""Plants canaries among a model's training records (see ``sandbox.worker.probes.canary``).

Invariants:
- The workspace's secret decides them: the same in every round, so that the champion's ranks can be kept; others elsewhere.
- They are the last records, so that no other record moves; a count of 0 changes nothing at all.
"""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Sequence

from guardrails.errors import ConfigError
from sandbox.config import ModelConfig
from sandbox.worker.probes.canary import ORIGIN, sentence


def canaries(model: ModelConfig, secret: bytes) -> list[dict[str, str]]:
    """The records to plant among this model's: ``id``, ``text``, ``source``, ``licence``, ``origin``."""
    found = []
    for number in range(1, model.canaries + 1):
        mac = hmac.new(secret, f"canary:{number}".encode(), hashlib.sha256)
        text = sentence(number, random.Random(mac.hexdigest()))  # noqa: S311 - of a keyed hash
        found.append(
            {"id": f"canary-{number}", "text": text, "source": ORIGIN, "licence": "none", "origin": ORIGIN}
        )
    return found


def planted(records: Sequence[dict[str, str]], model: ModelConfig, secret: bytes) -> list[dict[str, str]]:
    """The records with the canaries behind them; raises ConfigError where records are no texts."""
    if model.canaries and not all(record.get("text") for record in records):
        raise ConfigError(
            f"models.{model.name}: canaries = {model.canaries}: its training records are not texts",
            hint="leave `canaries` out for this task",
        )
    return [*records, *canaries(model, secret)]
