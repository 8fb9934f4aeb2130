"""Case files to typed cases, every problem located.

Invariants:
- A rule or metric that the policy does not have is an error with the nearest name: a misspelt rule would
  otherwise be a test that passes for ever.
- All problems of all files are collected and raised together.
- What a case does not state is not measured; nothing is filled in with a value that passes.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from guardrails import canonical
from guardrails.authoring.case_schema import cases_schema
from guardrails.authoring.recording import Recording, parse_recording
from guardrails.checks.brought import check_of
from guardrails.errors import InterlockError, PolicyError, Problem
from guardrails.policy.effective import combine
from guardrails.policy.facts import Subject
from guardrails.policy.model import LoadedPolicy, Policy
from guardrails.policy.validate import breaches, dotted, shown, validator_of
from guardrails.policy.when import nearest
from guardrails.policy.yaml_tree import Path as TreePath
from guardrails.policy.yaml_tree import Place, Tree, parse_tree
from guardrails.records import Measurements, ModelKind, Series
from guardrails.statistics import Estimate

CPU_RULE = "budget.cpu_seconds"
BUILT_IN = ("isolation.minimum", "policy.none", "policy.empty")
"""Findings that the engine adds by itself; they take no number."""

BUNDLE = canonical.digest(b"the bundle of a case")
MAX_BYTES = 400_000
_MAX_FILES = 100

Reading = Estimate | str
"""What stands for a metric: an estimate, or why nothing was measured."""


@dataclass(frozen=True)
class PolicyCase:
    """One case. ``evidence`` goes by rule and metric and before ``measurements``."""

    name: str
    place: Place
    subject: Subject
    attempt: int
    waivers: tuple[str, ...]
    evidence: Mapping[str, Mapping[str, Reading]]
    measurements: Measurements | None
    recording: Recording | None
    verdict: str
    findings: Mapping[str, str]


@dataclass
class _File:
    path: Path
    tree: Tree
    problems: list[Problem] = field(default_factory=list)


def cases_folder(policy_file: Path, name: str) -> Path:
    """Where the cases of a policy lie: ``cases/<name>/`` beside its file."""
    return policy_file.parent / "cases" / name


def known_metrics(policy: Policy) -> dict[str, tuple[str, ...]]:
    """Every rule that a case may name, and its metrics; none where it takes no number."""
    effective = combine([policy])
    rules: dict[str, tuple[str, ...]] = {
        rule.id: tuple(check_of(rule.check).metrics) for rule in policy.rules
    }
    for rule in effective.cumulative_drift:
        rules[rule.id] = tuple(check_of(rule.check).metrics)
    if effective.cpu_seconds_per_proposal is not None:
        rules[CPU_RULE] = ("cpu_seconds",)
    return rules | dict.fromkeys(BUILT_IN, ())


def read_cases(policy: LoadedPolicy, folder: Path) -> list[PolicyCase]:
    """Every case in a folder, sorted by file; raises PolicyError with all problems."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.suffix in {".yaml", ".yml"})
    return read_case_files(policy, files)


def read_case_files(policy: LoadedPolicy, files: Sequence[Path]) -> list[PolicyCase]:
    """The cases of some files and of those that they include; raises PolicyError with all problems."""
    known, problems, found = known_metrics(policy.policy), [], []
    for file in files:
        cases, flaws = _Reader(policy.policy, known, file).read()
        found.extend(cases)
        problems.extend(flaws)
    names: dict[str, Place] = {}
    for case in found:
        if case.name in names and names[case.name] != case.place:
            problems.append(
                case.place.problem(
                    f"two cases are named {shown(case.name)}", f"the other: {names[case.name]}"
                )
            )
        names.setdefault(case.name, case.place)
    if problems:
        raise PolicyError(sorted(set(problems), key=lambda p: (p.file, p.line, p.column)))
    return list({case.place: case for case in found}.values())


@cache
def _validator() -> Any:
    return validator_of(cases_schema())


class _Reader:
    """Reads one file and what it includes."""

    def __init__(self, policy: Policy, known: Mapping[str, tuple[str, ...]], root: Path) -> None:
        self._policy, self._known, self._root = policy, known, root
        self._problems: list[Problem] = []
        self._seen: set[Path] = set()

    def read(self) -> tuple[list[PolicyCase], list[Problem]]:
        cases = self._file(self._root, self._root.as_posix(), {}, Place(self._root.as_posix(), 1, 1))
        return cases, self._problems

    def _file(self, path: Path, shown_as: str, below: Mapping[str, Any], asked: Place) -> list[PolicyCase]:
        if path.resolve() in self._seen or len(self._seen) >= _MAX_FILES:
            return []
        self._seen.add(path.resolve())
        try:
            data = path.read_bytes()
        except OSError as error:
            self._problems.append(asked.problem(f"'{shown_as}' cannot be read: {error.strerror}"))
            return []
        if len(data) > MAX_BYTES:
            self._problems.append(asked.problem(f"'{shown_as}' is larger than {MAX_BYTES} bytes", "split it"))
            return []
        tree = parse_tree(shown_as, data)
        flaws = [*tree.problems]
        if not flaws and not isinstance(tree.value, dict):
            flaws = [tree.place(()).problem("a case file is a mapping", "begin with kind: PolicyCases")]
        flaws = flaws or breaches(tree, _validator()) or list(self._name_problems(tree))
        if flaws:
            self._problems.extend(flaws)
            return []
        return self._cases(path, tree, below)

    def _cases(self, path: Path, tree: Tree, below: Mapping[str, Any]) -> list[PolicyCase]:
        value = tree.value
        evidence = {**below, **value.get("evidence", {})}
        found = []
        for i, name in enumerate(value.get("include", [])):
            shown_as = posixpath.normpath(posixpath.join(posixpath.dirname(tree.file), name))
            found += self._file(path.parent / name, shown_as, evidence, tree.place(("include", i)))
        for i, case in enumerate(value.get("cases", [])):
            made = self._case(path, tree, i, {**value, **case}, evidence)
            found += [made] if made else []
        return found

    def _case(
        self, path: Path, tree: Tree, index: int, stated: Mapping[str, Any], below: Mapping[str, Any]
    ) -> PolicyCase | None:
        place = tree.place(("cases", index))
        recording = None
        if "recorded" in stated:
            try:
                recording = parse_recording((path.parent / stated["recorded"]).read_bytes())
            except (OSError, InterlockError) as error:
                where = tree.place(("cases", index, "recorded"))
                self._problems.append(where.problem(f"'{stated['recorded']}' cannot be used: {error!s:.200}"))
                return None
        evidence: dict[str, Mapping[str, Reading]] = {}
        if not stated.get("unmeasured", False):
            merged = below if recording is None else {}
            # What a case itself states goes before what its file states for all.
            merged = {**merged, **tree.value["cases"][index].get("evidence", {})}
            evidence = {rule: _readings(metrics) for rule, metrics in merged.items()}
        measurements = self._measurements(tree, index, stated) if "measurements" in stated else None
        return PolicyCase(
            name=stated["name"],
            place=place,
            subject=recording.subject if recording else _subject(stated),
            attempt=recording.attempt if recording and "attempt" not in stated else stated.get("attempt", 1),
            waivers=tuple(stated.get("waivers", ())),
            evidence=evidence,
            measurements=recording.measurements if recording else measurements,
            recording=recording,
            verdict=stated["verdict"],
            findings=stated.get("findings", {}),
        )

    def _measurements(self, tree: Tree, index: int, stated: Mapping[str, Any]) -> Measurements | None:
        given = stated["measurements"]
        series = []
        for one in given.get("series", []):
            lengths = {len(column) for column in one["columns"].values()}
            if len(lengths) != 1:
                where = tree.place(("cases", index, "measurements"))
                said = f"series {one['probe']}/{one['suite']}: its columns differ in length"
                self._problems.append(where.problem(said, "one number per item in every column"))
                return None
            items = tuple(f"item-{n}" for n in range(lengths.pop()))
            columns = {name: tuple(map(float, column)) for name, column in one["columns"].items()}
            series.append(Series(one["probe"], one["suite"], items, columns))
        return Measurements(tuple(series), {k: _fact(v) for k, v in given.get("facts", {}).items()})

    # --- names ---------------------------------------------------------------------------

    def _name_problems(self, tree: Tree) -> Iterator[Problem]:
        holders: list[tuple[TreePath, Mapping[str, Any]]] = [((), tree.value)]
        holders += [(("cases", i), case) for i, case in enumerate(tree.value.get("cases", []))]
        for base, holder in holders:
            for rule, metrics in holder.get("evidence", {}).items():
                path: TreePath = (*base, "evidence", rule)
                yield from self._unknown_rule(tree, path, rule)
                known = self._known.get(rule)
                for metric in metrics if known is not None else ():
                    yield from _unknown_metric(tree, (*path, metric), rule, metric, known or ())
                    yield from self._odd_interval(tree, (*path, metric), rule, metric, metrics[metric])
            for rule in holder.get("findings", {}):
                yield from self._unknown_rule(tree, (*base, "findings", rule), rule)
            for i, rule in enumerate(holder.get("waivers", [])):
                yield from self._unknown_rule(tree, (*base, "waivers", i), rule)

    def _unknown_rule(self, tree: Tree, path: TreePath, rule: str) -> Iterator[Problem]:
        if rule not in self._known:
            place = tree.key_place(path)
            message = f"policy '{self._policy.name}' has no rule {shown(rule)}"
            yield place.problem(message, nearest(rule, sorted(self._known)))

    def _odd_interval(
        self, tree: Tree, path: TreePath, rule: str, metric: str, value: Any
    ) -> Iterator[Problem]:
        """An estimate that no measurement could give tests nothing."""
        if isinstance(value, str) or metric not in self._known.get(rule, ()):
            return
        place = tree.place(path)
        if isinstance(value, dict) and not value["lower"] <= value["value"] <= value["upper"]:
            yield place.problem(f"{dotted(path)}: the value lies outside its own interval")
        if isinstance(value, dict) == self._is_exact(rule, metric):
            if isinstance(value, dict):
                yield place.problem(f"{dotted(path)}: '{metric}' is exact", "write the number alone")
            else:
                yield place.problem(
                    f"{dotted(path)}: '{metric}' is sampled",
                    f"write {{value: {value}, lower: …, upper: …, n: …}}",
                )

    def _is_exact(self, rule: str, metric: str) -> bool:
        found = self._policy.rule(rule)
        if found is not None:
            return check_of(found.check).metrics[metric].exact
        return rule == CPU_RULE


def _unknown_metric(
    tree: Tree, path: TreePath, rule: str, metric: str, known: tuple[str, ...]
) -> Iterator[Problem]:
    if metric not in known:
        hint = nearest(metric, list(known)) if known else "it takes no number: set proposal.isolation"
        yield tree.key_place(path).problem(f"rule '{rule}' has no metric {shown(metric)}", hint)


def _readings(metrics: Mapping[str, Any]) -> dict[str, Reading]:
    return {metric: _reading(value) for metric, value in metrics.items()}


def _reading(value: Any) -> Reading:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        ends = float(value["lower"]), float(value["upper"])
        return Estimate(float(value["value"]), *ends, int(value["n"]), "stated by a case")
    return Estimate(float(value), float(value), float(value), 0, "stated by a case")


def _fact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _subject(stated: Mapping[str, Any]) -> Subject:
    model, proposal = stated.get("model", {}), stated.get("proposal", {})
    submitted = proposal.get("submitted", False)
    return Subject(
        proposal="P-0000",
        model=model.get("name", "model"),
        kind=ModelKind(model.get("kind", "llm")),
        bundle=BUNDLE,
        technique="submitted" if submitted else proposal.get("technique", "self_supervised"),
        submitted=submitted,
        seed=proposal.get("seed", 0),
        isolation=proposal.get("isolation", "strict"),
        proposer=proposal.get("proposer", "loop"),
        measured_at=proposal.get("measuredAt", "strict"),
        labels=model.get("labels", {}),
    )
