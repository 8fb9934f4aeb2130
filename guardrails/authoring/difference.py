"""Two policies, key by key: which of them asks for more.

Invariants: "tighter" and "looser" are said only where one direction gives up nothing; what cannot be compared
is "different", and an activation would count it as loosening.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from guardrails.policy.compare import compare
from guardrails.policy.model import ENFORCE, Policy

TIGHTER, LOOSER, DIFFERENT, SAME = "tighter", "looser", "different", "neutral"


@dataclass(frozen=True)
class Difference:
    """One key; ``before_at`` and ``after_at`` are ``file:line``, "" where it is not stated."""

    path: str
    before: str
    after: str
    direction: str
    before_at: str
    after_at: str


def differences(old: Policy, new: Policy) -> list[Difference]:
    """Every key in which two policies differ, the looser ones first."""
    found = []
    # A shadow policy binds nobody; what its text asks for is compared all the same.
    binding_old, binding_new = replace(old, mode=ENFORCE), replace(new, mode=ENFORCE)
    stricter = {change.path for change in compare(binding_new, binding_old) if change.loosens}
    for change in compare(binding_old, binding_new):
        direction = {
            (True, False): LOOSER, (False, True): TIGHTER, (True, True): DIFFERENT, (False, False): SAME,
        }[change.loosens, change.path in stricter]  # fmt: skip
        found.append(
            Difference(
                change.path, change.before, change.after, direction, _place(old, change.path), _place(new, change.path),
            )
        )  # fmt: skip
    if old.mode != new.mode:
        direction = TIGHTER if new.is_binding else LOOSER
        found.append(
            Difference("mode", old.mode, new.mode, direction, _place(old, "mode"), _place(new, "mode"))
        )
    order = (LOOSER, DIFFERENT, TIGHTER, SAME)
    return sorted(found, key=lambda difference: order.index(difference.direction))


def _place(policy: Policy, path: str) -> str:
    if path.startswith("rules."):
        known = [rule for rule in policy.rules if path[6:] == rule.id or path[6:].startswith(f"{rule.id}.")]
        return str(max(known, key=lambda rule: len(rule.id)).place) if known else ""
    stated = policy.settings.get(path)
    if stated is not None:
        return str(stated.place)
    return str(policy.places[path]) if path in policy.places else ""
