"""``extends``: a child's document on top of its parents, where the child may only tighten.

Invariants:
- Wherever a child decides, it decides at least as strictly as each parent: every rule and every
  setting is compared value by value, and a loosening names both places.
- A parent's rule cannot be removed. A child's ``appliesTo`` is its own: outside of it the child says
  nothing, and what no policy speaks of is blocked.
- What a parent leaves out counts with its default, so leaving something out is no way around.
"""

from __future__ import annotations

from typing import Any

from guardrails.errors import Problem
from guardrails.policy.build import Document
from guardrails.policy.model import ENFORCE, Metadata, Policy, Rule, Scope, Stated
from guardrails.policy.order import rule_loosenings, strictest_of
from guardrails.policy.settings import SETTINGS, Setting
from guardrails.policy.yaml_tree import Place


def fold(document: Document, parents: list[Policy]) -> tuple[Policy, list[Problem]]:
    """The policy that a document and its parents come to, and every loosening found."""
    problems = _mode_problems(document, parents)
    rules = _rules(document, parents, problems)
    settings = _settings(document, parents, problems)
    metadata = document.metadata
    policy = Policy(
        metadata=Metadata(
            metadata["name"],
            int(metadata.get("version", 1)),
            tuple(metadata.get("owners", ())),
            metadata.get("description", ""),
        ),
        mode=document.mode,
        scope=_scope(document, parents, problems),
        rules=rules,
        settings=settings,
        places=_places(document),
    )
    return policy, problems


def _places(document: Document) -> dict[str, Place]:
    keys = ("metadata", "mode", "appliesTo", "rules")
    return {"": Place(document.file, 1, 1)} | {key: document.tree.key_place((key,)) for key in keys}


def _mode_problems(document: Document, parents: list[Policy]) -> list[Problem]:
    here = document.tree.key_place(("mode",))
    return [
        here.problem(
            f"mode: '{document.mode}' here loosens '{parent.mode}' in {parent.places['mode']}",
            "a policy that extends a binding one is binding too",
        )
        for parent in parents
        if parent.mode == ENFORCE and document.mode != ENFORCE
    ]


def _scope(document: Document, parents: list[Policy], problems: list[Problem]) -> Scope:
    if document.scope is not None:
        return document.scope
    scopes = {parent.scope for parent in parents}
    if len(scopes) > 1:
        where = document.tree.key_place(("extends",))
        problems.append(where.problem("the extended policies differ in 'appliesTo'", "state it here"))
    return scopes.pop() if scopes else Scope()


# --- rules ---------------------------------------------------------------------------------


def _rules(document: Document, parents: list[Policy], problems: list[Problem]) -> tuple[Rule, ...]:
    own = {rule.id: rule for rule in document.rules}
    result: dict[str, Rule] = {}
    for parent in parents:
        for rule in parent.rules:
            if rule.id in own:
                problems.extend(_loosened(rule, own[rule.id]))
                result[rule.id] = own[rule.id]
            elif rule.id in result:
                result[rule.id] = _stricter(result[rule.id], rule, document, problems)
            else:
                result[rule.id] = rule
    return (*result.values(), *(rule for rule in document.rules if rule.id not in result))


def _loosened(old: Rule, new: Rule) -> list[Problem]:
    return [
        new.place.problem(
            f"rule '{new.id}': {part} {_part(new, part)} here loosens {_part(old, part)} in {old.place}",
            "a child may only tighten; keep the parent's value, or give the rule another id",
        )
        for part in rule_loosenings(old, new)
    ]


def _part(rule: Rule, part: str) -> str:
    value = getattr(rule, part)
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if value else "nothing"


def _stricter(a: Rule, b: Rule, document: Document, problems: list[Problem]) -> Rule:
    if not rule_loosenings(a, b):
        return b
    if not rule_loosenings(b, a):
        return a
    problems.append(
        document.tree.key_place(("extends",)).problem(
            f"rule '{a.id}' differs in {a.place} and {b.place} and neither is stricter",
            "state the rule here, at least as strict as both",
        )
    )
    return a


# --- settings ------------------------------------------------------------------------------


def _settings(document: Document, parents: list[Policy], problems: list[Problem]) -> dict[str, Stated]:
    result: dict[str, Stated] = {}
    for setting in SETTINGS:
        inherited = [p.settings[setting.path] for p in parents if setting.path in p.settings]
        own = document.settings.get(setting.path)
        if own is not None:
            for parent in parents:
                problems.extend(_setting_problem(setting, parent, own))
            result[setting.path] = own
        elif inherited:
            value = strictest_of(setting.order, [stated.value for stated in inherited])
            place = next((s.place for s in inherited if s.value == value), inherited[0].place)
            result[setting.path] = Stated(value, place)
    return result


def _setting_problem(setting: Setting, parent: Policy, own: Stated) -> list[Problem]:
    stated = parent.settings.get(setting.path)
    old = stated.value if stated else setting.default
    if not setting.order.loosens(old, own.value):
        return []
    where = f"in {stated.place}" if stated else f"by default in {parent.places['']}"
    return [
        own.place.problem(
            f"{setting.path}: {shown_setting(own.value)} here loosens {shown_setting(old)} {where}",
            "a child may only tighten; keep the parent's value or leave the key out",
        )
    ]


def shown_setting(value: Any) -> str:
    """A setting's value in words."""
    if value is None:
        return "not limited"
    if isinstance(value, Rule):
        return f"{value.require} on '{value.params.suite}'"
    if isinstance(value, tuple):
        return "; ".join(shown_setting(item) for item in value) or "nothing"
    return str(value)
