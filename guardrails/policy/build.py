"""Second pass: one valid document to typed values, and everything that a schema cannot say.

Invariants: no early exit; each check below adds its own located problems. What it yields is used
only if no file of the policy has any problem.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from guardrails.checks import CHECKS, Check
from guardrails.checks.brought import OpaqueParams, check_of, reason_absent
from guardrails.errors import Problem
from guardrails.policy.model import ENFORCE, QuorumRule, Require, Rule, Scope, Stated
from guardrails.policy.schema import params_schema
from guardrails.policy.settings import SETTINGS, Setting
from guardrails.policy.validate import dotted, validate, validator_of
from guardrails.policy.when import flaws
from guardrails.policy.yaml_tree import Path, Place, Tree, parse_tree
from guardrails.records import ModelKind, Severity
from guardrails.third_party import is_reference

RESERVED = ("budget.", "isolation.", "policy.")


@dataclass
class Document:
    """One file of a policy, before what it extends is folded in."""

    file: str
    tree: Tree
    extends: list[tuple[str, Place]] = field(default_factory=list)
    mode: str = ENFORCE
    scope: Scope | None = None
    rules: list[Rule] = field(default_factory=list)
    settings: dict[str, Stated] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def metadata(self) -> dict[str, Any]:
        """The document's own metadata."""
        found: dict[str, Any] = self.tree.value["metadata"]
        return found


def read_document(file: str, data: bytes, *, in_force: bool = False) -> Document:
    """Read and check one file; what is wrong with it is in ``problems``.

    ``in_force``: it stands in the log, so that a check that is not here any more is no problem of the file.
    """
    tree = parse_tree(file, data)
    document = Document(file, tree, problems=list(tree.problems))
    if tree.value is None and tree.problems:
        return document
    violations = validate(tree)
    document.problems.extend(violations)
    if not isinstance(tree.value, dict):
        return document
    document.extends = _extends(tree)
    document.problems.extend(_when_problems(tree))
    document.problems.extend(_rule_problems(tree))
    document.problems.extend(_brought_problems(tree, in_force=in_force))
    if not document.problems:
        _fill(document)
        document.problems.extend(_setting_problems(document))
    return document


def _extends(tree: Tree) -> list[tuple[str, Place]]:
    names = tree.value.get("extends")
    if not isinstance(names, list):
        return []
    return [(name, tree.place(("extends", i))) for i, name in enumerate(names) if isinstance(name, str)]


# --- what a schema cannot say --------------------------------------------------------------


def _raw_rules(tree: Tree) -> Iterator[tuple[Path, dict[str, Any]]]:
    rules = tree.value.get("rules")
    for i, rule in enumerate(rules if isinstance(rules, list) else []):
        if isinstance(rule, dict):
            yield ("rules", i), rule


def _when_problems(tree: Tree) -> Iterator[Problem]:
    holders = list(_raw_rules(tree))
    budgets = tree.value.get("budgets")
    drift = budgets.get("cumulativeDrift") if isinstance(budgets, dict) else None
    base: Path = ("budgets", "cumulativeDrift")
    entries = [((*base, i), e) for i, e in enumerate(drift)] if isinstance(drift, list) else [(base, drift)]
    holders.extend((path, entry) for path, entry in entries if isinstance(entry, dict))
    for path, holder in holders:
        expression = holder.get("when")
        if isinstance(expression, str) and expression:
            place = tree.place((*path, "when"))
            for flaw in flaws(expression):
                where = f", character {flaw.offset + 1}" if flaw.offset else ""
                yield place.problem(f"{dotted((*path, 'when'))}{where}: {flaw.message}", flaw.hint)


def _rule_problems(tree: Tree) -> Iterator[Problem]:
    seen: dict[str, Place] = {}
    for path, rule in _raw_rules(tree):
        rule_id = rule.get("id")
        if isinstance(rule_id, str):
            place = tree.place((*path, "id"))
            if rule_id in seen:
                first = f"the first is in line {seen[rule_id].line}"
                yield place.problem(f"rule id {rule_id[:80]!r} stands twice", first)
            seen.setdefault(rule_id, place)
            if rule_id.startswith(RESERVED):
                yield place.problem(f"rule id {rule_id[:80]!r} is reserved", f"not {', '.join(RESERVED)}")
        yield from _require_problems(tree, path, rule)


def _known(name: Any) -> Check | None:
    """A check that is here, own or brought."""
    if not isinstance(name, str) or not (name in CHECKS or is_reference(name)) or reason_absent(name):
        return None
    return check_of(name)


def _brought_problems(tree: Tree, *, in_force: bool) -> Iterator[Problem]:
    """What the schema does not know of checks that other distributions bring."""
    for path, rule in _raw_rules(tree):
        name, require, params = rule.get("check"), rule.get("require"), rule.get("params", {})
        if not isinstance(name, str) or name in CHECKS or not is_reference(name):
            continue
        reason = reason_absent(name)
        if reason and not in_force:
            yield tree.place((*path, "check")).problem(f"{dotted((*path, 'check'))}: {reason:.300}")
        check = _known(name)
        if check is None or in_force:
            continue
        try:
            flaw = next(validator_of(params_schema(check.params)).iter_errors(params), None)
        except (TypeError, NameError) as error:
            yield tree.place((*path, "check")).problem(
                f"{name}: its parameters cannot be read: {error!s:.160}"
            )
            continue
        if flaw is not None:
            where = (*path, "params", *flaw.absolute_path)
            yield tree.place(where).problem(f"{dotted(where)}: {flaw.message:.200}")
        if isinstance(require, dict) and require.get("metric") not in check.metrics:
            where = (*path, "require", "metric")
            told = f"{dotted(where)}: '{require.get('metric')!s:.40}' is not known here"
            yield tree.place(where).problem(told, f"known: {', '.join(check.metrics)}")


def _require_problems(tree: Tree, path: Path, rule: dict[str, Any]) -> Iterator[Problem]:
    require, name = rule.get("require"), rule.get("check")
    check = _known(name)
    if check is None or not isinstance(require, dict) or not isinstance(require.get("metric"), str):
        return
    metric = check.metrics.get(require["metric"])
    if metric is None:
        return
    path = (*path, "require")
    if metric.exact and "bound" in require:
        yield tree.key_place((*path, "bound")).problem(
            f"{dotted(path)}: '{require['metric']}' is exact and has no interval", "leave 'bound' out"
        )
    if not metric.exact and "bound" not in require:
        yield tree.place(path).problem(
            f"{dotted(path)}: '{require['metric']}' is sampled: say which bound of its interval counts",
            "add 'bound: upper' for a limit from above, 'bound: lower' for one from below",
        )
    if not metric.exact and require.get("op") == "==":
        yield tree.place((*path, "op")).problem(
            f"{dotted(path)}: '==' has no meaning for the bound of an interval", "use <, <=, > or >="
        )


def _setting_problems(document: Document) -> Iterator[Problem]:
    for path, stated in document.settings.items():
        for rule in stated.value if isinstance(stated.value, tuple) else ():
            if isinstance(rule, QuorumRule) and rule.distinct_roles and rule.quorum > len(rule.roles):
                yield stated.place.problem(
                    f"{path}: {rule.quorum} people in different roles cannot come from {len(rule.roles)}",
                    "name more roles, lower the quorum, or leave distinctRoles out",
                )
    wait, limit = document.settings.get("approval.coolDown"), document.settings.get("approval.expiresAfter")
    if wait and limit and wait.value >= limit.value:
        yield wait.place.problem(
            "approval.coolDown: an approval would expire before its cool-down ends",
            f"expiresAfter is in line {limit.place.line}",
        )
    if limit and not limit.value:
        yield limit.place.problem("approval.expiresAfter: nothing could be approved in no time", "try 72h")


# --- typed values --------------------------------------------------------------------------


def _fill(document: Document) -> None:
    value = document.tree.value
    document.mode = value.get("mode", ENFORCE)
    if "appliesTo" in value:
        document.scope = _scope(value["appliesTo"])
    document.rules = [_rule(document.tree, path, rule) for path, rule in _raw_rules(document.tree)]
    for setting in SETTINGS:
        stated = _stated(document.tree, setting)
        if stated is not None:
            document.settings[setting.path] = stated


def _scope(value: dict[str, Any]) -> Scope:
    kinds = frozenset(ModelKind(kind) for kind in value["kind"]) if "kind" in value else frozenset(ModelKind)
    labels = tuple(sorted(value.get("labels", {}).items()))
    return Scope(kinds, tuple(value.get("name", ("*",))), labels)


def _rule(tree: Tree, path: Path, value: dict[str, Any]) -> Rule:
    require = value["require"]
    return Rule(
        id=value["id"],
        check=value["check"],
        params=_params(value["check"], value.get("params", {})),
        require=Require(require["metric"], require.get("bound", ""), require["op"], float(require["value"])),
        severity=Severity(value["severity"]),
        place=tree.place(path),
        when=value.get("when", ""),
        waivable=value.get("waivable", True),
        rationale=value.get("rationale", ""),
    )


def _params(check: str, values: Mapping[str, Any]) -> Any:
    """Parameters as their class holds them; a list names a set, so its order means nothing."""
    made = check_of(check).params
    if made is OpaqueParams or (check not in CHECKS and not _fits(made, values)):
        kept = ((name, tuple(sorted(v)) if isinstance(v, list) else v) for name, v in values.items())
        return OpaqueParams(tuple(sorted(kept)))
    hints = typing.get_type_hints(made)
    return made(**{name: _param(hints[name], value) for name, value in values.items()})


def _fits(made: type, values: Mapping[str, Any]) -> bool:
    """Whether a class takes these; not so where another version of a distribution has changed what it takes."""
    return bool(validator_of(params_schema(made)).is_valid(dict(values)))


def _param(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(sorted(value))
    return float(value) if hint is float else value


def _stated(tree: Tree, setting: Setting) -> Stated | None:
    node: Any = tree.value
    path = tuple(setting.path.split("."))
    for part in path:
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    place = tree.key_place(path)
    if setting.path == "budgets.cumulativeDrift":
        entries = node if isinstance(node, list) else [node]
        places = [tree.place((*path, i)) for i in range(len(node))] if isinstance(node, list) else [place]
        return Stated(tuple(_drift(e, p) for e, p in zip(entries, places, strict=True)), place)
    return Stated(setting.read(node), place)


def _drift(value: dict[str, Any], place: Place) -> Rule:
    """A cumulative limit is an ordinary rule that the engine adds, blocking and never waivable."""
    return Rule(
        id="budget.cumulative_drift",
        check=value["check"],
        params=CHECKS[value["check"]].params(suite=value["suite"], reference=value["reference"]),
        require=Require(value["metric"], "upper", "<=", float(value["max"])),
        severity=Severity.BLOCK,
        place=place,
        when=value.get("when", ""),
        waivable=False,
        rationale="Many small steps may not add up to a model that nobody approved.",
    )
