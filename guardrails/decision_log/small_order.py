"""Public keys that prove nothing: points of small order, under which one signature fits message after message.

Invariant: whoever reads a public key refuses these; the rules of verification alone do not (RFC 8032, 5.1.7).

A point of the curve -x**2 + y**2 = 1 + d * x**2 * y**2 has an order that divides 4 where y is 0, 1 or -1, and order 8
where doubling it gives y = 0, that is x**2 = -y**2, and so d * y**4 + 2 * y**2 = 1.
"""

from __future__ import annotations

from guardrails.errors import RecordError

_P = 2**255 - 19
_D = -121_665 * pow(121_666, -1, _P) % _P


def require_large_order(raw: bytes) -> None:
    """Refuse an Ed25519 public key (32 bytes) of small order; raises RecordError."""
    y = (int.from_bytes(raw, "little") & (2**255 - 1)) % _P
    if y in (0, 1, _P - 1) or (_D * y**4 + 2 * y**2 - 1) % _P == 0:
        raise RecordError("a public key of small order: anybody could sign in its name")
