"""Two versions of a policy, value by value: what changed, and what of it loosens.

Invariants:
- Loosening where in doubt: what cannot be compared loosens.
- What was blocked for want of a policy and would now be judged is a loosening too: a first policy,
  a first rule, a wider ``appliesTo``, or ``shadow`` turning into ``enforce``, unless other policies
  in force already speak of those models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from guardrails.policy.extend import shown_setting
from guardrails.policy.model import Policy, Rule
from guardrails.policy.order import rule_loosenings
from guardrails.policy.settings import SETTINGS
from guardrails.policy.validate import shown


@dataclass(frozen=True)
class Change:
    """One difference; ``before`` and ``after`` in words, "" where there is nothing."""

    path: str
    before: str
    after: str
    loosens: bool

    def __str__(self) -> str:
        word = "loosens" if self.loosens else "tightens or keeps"
        return f"{self.path}: {self.before or 'nothing'} -> {self.after or 'nothing'} ({word})"


def compare(old: Policy | None, new: Policy | None, others: Sequence[Policy] = ()) -> list[Change]:
    """What activating ``new`` in the place of ``old`` changes.

    ``old`` is None where no policy of that name is in force, ``new`` is None for a deactivation.
    ``others`` are the other policies in force; leaving them out can only find more loosening.
    """
    if new is None:
        return [Change("policy", old.name, "", loosens=True)] if old else []
    changes = [*_scope_changes(old, new, others)]
    if old is None:
        return changes
    changes.extend(_rule_changes(old, new))
    for setting in SETTINGS:
        before = old.settings[setting.path].value if setting.path in old.settings else setting.default
        after = new.settings[setting.path].value if setting.path in new.settings else setting.default
        if before != after:
            # A shadow policy's values bind nobody, so changing them gives nothing up.
            loosens = old.is_binding and setting.order.loosens(before, after)
            changes.append(Change(setting.path, shown_setting(before), shown_setting(after), loosens))
    return changes


def is_tightening(old: Policy | None, new: Policy | None, others: Sequence[Policy] = ()) -> bool:
    """Whether a change gives up nothing, so that the quorum for tightening suffices."""
    return not any(change.loosens for change in compare(old, new, others))


def _scope_changes(old: Policy | None, new: Policy, others: Sequence[Policy]) -> list[Change]:
    changes = []
    judged_elsewhere = any(o.is_binding and o.rules and o.scope.covers(new.scope) for o in others)
    opens = new.is_binding and bool(new.rules) and not judged_elsewhere
    if old is None:
        return [Change("policy", "", f"{new.name} ({new.mode})", loosens=opens)]
    was_open = old.is_binding and bool(old.rules) and old.scope.covers(new.scope)
    if old.mode != new.mode:
        loosens = (old.is_binding and not new.is_binding) or (opens and not was_open)
        changes.append(Change("mode", old.mode, new.mode, loosens))
    if old.scope != new.scope:
        narrows = old.is_binding and not new.scope.covers(old.scope)
        loosens = narrows or (opens and not was_open)
        changes.append(Change("appliesTo", str(old.scope), str(new.scope), loosens))
    if not old.rules and new.rules:
        changes.append(Change("rules", "no rules: blocked", f"{len(new.rules)} rules", opens))
    return changes


def _rule_changes(old: Policy, new: Policy) -> list[Change]:
    changes = []
    for rule in old.rules:
        after = new.rule(rule.id)
        if after is None:
            changes.append(Change(f"rules.{rule.id}", _describe(rule), "", old.is_binding))
            continue
        looser = rule_loosenings(rule, after)
        for part in ("check", "params", "when", "require", "severity", "waivable"):
            before, now = getattr(rule, part), getattr(after, part)
            if before != now:
                loosens = old.is_binding and part in looser
                changes.append(Change(f"rules.{rule.id}.{part}", _words(before), _words(now), loosens))
    known = {rule.id for rule in old.rules}
    changes.extend(
        Change(f"rules.{rule.id}", "", _describe(rule), loosens=False)
        for rule in new.rules
        if rule.id not in known
    )
    return changes


def _describe(rule: Rule) -> str:
    return f"{rule.require}, {rule.severity.value}"


def _words(value: object) -> str:
    return value if isinstance(value, str) else shown(value) if isinstance(value, bool) else str(value)
