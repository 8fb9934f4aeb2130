"""Checks that other distributions bring: loaded where a rule names them, recorded, and never a pass where they are not."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import MODEL, PASSING, POLICY, Site, policy, verify
from test_third_party import install

from guardrails.checks import brought
from guardrails.codec import decode_record, encode_record
from guardrails.errors import PolicyError
from guardrails.ledger import in_force
from guardrails.ledger.judging import recomputer
from guardrails.policy import load_policy, parse_policy
from guardrails.records import Measurements, Outcome, Verdict, VerdictKind

DOCS = Path(__file__).parent.parent / "docs" / "policy-authors.md"
EXAMPLE = re.search(r"```python\n(# acme_checks\.py.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
POINTS = (
    "[interlock.checks]\nsurprise = acme_checks:SURPRISE\nbroken = acme_broken:C\nnumber = acme_checks:mean\n"
)
RULE = """\
  - id: surprise
    check: acme-checks:surprise
    params: {suite: task}
    require: {metric: mean, bound: upper, op: "<", value: 2.0}
    severity: review
budgets:"""
WITH_RULE = POLICY.replace("budgets:", RULE)


def forget() -> None:
    brought._loaded.cache_clear()
    in_force._parsed.cache_clear()
    for name in ("acme_checks", "acme_broken"):
        sys.modules.pop(name, None)


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``acme-checks`` with the check of docs/policy-authors.md, importable."""
    assert EXAMPLE, "the example is gone from the docs"
    modules = {"acme_checks.py": EXAMPLE.group(1), "acme_broken.py": "raise RuntimeError('no')\n"}
    folder = install(tmp_path, "acme-checks", modules, POINTS)
    monkeypatch.syspath_prepend(str(folder))
    forget()
    yield folder
    forget()


def measured() -> Measurements:
    """A measurement that says how many tokens its texts have too."""
    series = tuple(
        replace(one, columns={**one.columns, "tokens": (50.0,) * len(one.items)}) for one in PASSING.series
    )
    return replace(PASSING, series=series)


def written(folder: Path, text: str = WITH_RULE) -> Path:
    (folder / "main.yaml").write_text(text)
    return folder / "main.yaml"


def test_the_example_is_short() -> None:
    assert EXAMPLE
    assert len([line for line in EXAMPLE.group(1).splitlines() if line.strip()]) <= 25


def test_a_check_is_loaded_by_the_rule_that_names_it_and_not_by_being_installed(
    site_packages: Path, tmp_path: Path
) -> None:
    load_policy(written(tmp_path, POLICY))
    assert "acme_checks" not in sys.modules
    rule = next(r for r in load_policy(written(tmp_path)).policy.rules if r.id == "surprise")
    assert "acme_checks" in sys.modules
    assert (rule.params.suite, rule.is_exact) == ("task", False)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("acme-checks:surprise", "acme-checks:surprises", "brings acme-checks:broken"),
        ("acme-checks:surprise", "other-checks:surprise", "not installed here"),
        ("acme-checks:surprise", "acme-checks:broken", "RuntimeError: no"),
        ("acme-checks:surprise", "acme-checks:number", "names no guardrails.checks.Check"),
        ("acme-checks:surprise", "acme.checks", "not known here"),
        ("{suite: task}", "{}", "'suite' is a required property"),
        ("{suite: task}", "{suite: task, more: 1}", "'more' was unexpected"),
        ("{suite: task}", "{suite: 7}", "not of type 'string'"),
        ("metric: mean", "metric: median", "'median' is not known here"),
        ("bound: upper, op: \"<\", value: 2.0", "op: \"<\", value: 2.0", "which bound"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_such_a_rule_is_located(
    site_packages: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in RULE
    with pytest.raises(PolicyError) as raised:
        load_policy(written(tmp_path, POLICY.replace("budgets:", RULE.replace(old, new))))
    told = " ".join(f"{p.message} {p.hint}" for p in raised.value.problems)
    assert said in told
    first = WITH_RULE[: WITH_RULE.index("- id: surprise")].count("\n") + 1
    assert all(first <= problem.line <= first + 4 for problem in raised.value.problems)


def verdict_of(site: Site, proposal: str) -> Verdict:
    with site.log.read() as snapshot:
        found = [
            decode_record(Verdict, dict(entry.statement.body))
            for entry in snapshot.entries()
            if entry.statement.record == "verdict"
        ]
    return next(verdict for verdict in reversed(found) if verdict.proposal == proposal)


def test_a_verdict_says_what_it_rests_on_and_is_judged_again_only_by_the_same_bytes(
    site_packages: Path, tmp_path: Path
) -> None:
    site = Site(tmp_path / "site", source=policy(WITH_RULE))
    proposal = site.judged(measured())
    verdict = verdict_of(site, proposal)
    finding = next(f for f in verdict.findings if f.rule == "surprise")
    assert (verdict.kind, finding.outcome, finding.n) == (VerdictKind.ELIGIBLE, Outcome.PASS, 40)
    assert verdict.checks is not None
    assert re.fullmatch(r"acme-checks 1\.0 sha256:[0-9a-f]{64}", verdict.checks["acme-checks:surprise"])
    assert decode_record(Verdict, encode_record(verdict)) == verdict
    whole = verify(site.url, site.store, recompute=recomputer(site.store))
    assert (whole.ok, whole.recomputed, whole.not_recomputed) == (True, 1, 0)

    module = site_packages / "acme_checks.py"
    text = module.read_text()
    module.write_text(text + "# another version\n")
    forget()
    changed = verify(site.url, site.store, recompute=recomputer(site.store))
    assert (changed.ok, changed.recomputed, changed.not_recomputed) == (True, 0, 1)
    assert any("it rests on acme-checks:surprise" in note for note in changed.notes)

    module.unlink()
    forget()
    gone = verify(site.url, site.store, recompute=recomputer(site.store))
    assert (gone.ok, gone.not_recomputed) == (True, 1)
    blocked = verdict_of(site, site.judged(measured()))
    assert blocked.kind is VerdictKind.BLOCKED
    assert blocked.checks == {"acme-checks:surprise": "absent"}
    finding = next(f for f in blocked.findings if f.rule == "surprise")
    assert finding.outcome is Outcome.ERROR
    assert "the check is not here" in finding.message

    module.write_text(text)
    forget()
    again = verify(site.url, site.store, recompute=recomputer(site.store))
    assert (again.ok, again.recomputed, again.not_recomputed) == (True, 1, 1)
    site.close()


@pytest.mark.parametrize(("old", "new", "said"), [
    ("suite: str", "text: str", "takes other parameters"), ('{"mean": mean}', '{"median": mean}', "has no metric 'mean'")
])  # fmt: skip
def test_another_version_that_takes_something_else_blocks(
    site_packages: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    site = Site(tmp_path / "site", source=policy(WITH_RULE))
    module = site_packages / "acme_checks.py"
    assert old in module.read_text()
    changed = module.read_text().replace(old, new)
    module.write_text(
        changed.replace("        suite: Name", "        text: Name") if "text" in new else changed
    )
    forget()
    verdict = verdict_of(site, site.judged(measured()))
    finding = next(f for f in verdict.findings if f.rule == "surprise")
    assert (verdict.kind, finding.outcome) == (VerdictKind.BLOCKED, Outcome.ERROR)
    assert said in finding.message
    site.close()


def test_a_verdict_without_such_checks_says_nothing_of_them(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    verdict = verdict_of(site, site.judged(PASSING))
    assert verdict.checks is None
    assert "checks" not in encode_record(verdict)
    assert MODEL
    site.close()


def test_a_policy_in_force_is_read_where_its_check_is_not_here(tmp_path: Path) -> None:
    forget()
    found = parse_policy(policy(WITH_RULE))
    assert [rule.check for rule in found.rules if ":" in rule.check] == ["acme-checks:surprise"]
    with pytest.raises(PolicyError, match="not installed here"):
        load_policy(written(tmp_path))
