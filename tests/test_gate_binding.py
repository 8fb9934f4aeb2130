"""guardrails.gate: what a decision is bound to, and what may wait or be spent."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import (
    BLOCKED,
    MODEL,
    REVIEWABLE,
    Site,
    measurements,
    policy,
)

from guardrails.errors import (
    DeniedError,
    JobFailedError,
    StaleError,
)
from guardrails.records import Action

# --- what a decision is bound to -----------------------------------------------------------


def test_a_new_champion_makes_decisions_void(site):
    proposal = site.judged()
    draft = site.draft("ada", Action.APPROVE, proposal)
    site.promoted()
    with pytest.raises(StaleError):
        site.gate.commit(draft, site.people["ada"].key)
    assert site.state(proposal) == "stale"
    site.measure(proposal)
    site.gate.judge(proposal)
    assert site.approve("ada", proposal).state == "promoted"


def test_a_rollback_makes_what_was_measured_stale(site):
    site.promoted("one")
    one = site.model().champion
    old, base = site.judged(content="sibling"), site.model().original
    site.promoted("two")
    site.measure(old)
    site.gate.judge(old)
    blocked = site.propose("bad")
    site.measure(blocked, BLOCKED)
    site.gate.judge(blocked)
    draft = site.draft("ada", Action.APPROVE, old)
    site.rollback("ada", one)
    assert site.state(old) == "stale"
    assert site.state(blocked) == "quarantined", "it was trained from what was rolled back"
    with pytest.raises(StaleError):
        site.gate.commit(draft, site.people["ada"].key)
    site.measure(old)
    site.gate.judge(old)
    assert site.approve("ada", old).state == "promoted"
    assert site.model().original == base


def test_a_verdict_on_evidence_about_a_former_champion_is_refused(site):
    blocked = site.judged(BLOCKED)
    site.promoted()
    with pytest.raises(StaleError, match="measure it again"):
        site.gate.judge(blocked)
    assert site.state(blocked) == "blocked"


def test_a_new_policy_makes_decisions_void_and_the_tick_judges_again(site):
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    draft = site.draft("bo", Action.APPROVE, proposal)
    site.activate(policy(coolDown="1m"))
    with pytest.raises(StaleError, match="changed"):
        site.gate.commit(draft, site.people["bo"].key)
    with pytest.raises(StaleError, match="tick"):
        site.approve("bo", proposal)
    assert site.gate.tick() == [f"{proposal}: judged again, awaiting_approval"]
    assert site.row(proposal).votes == (), "votes on a former verdict are gone"
    site.approve("bo", proposal)
    assert site.approve("ada", proposal).state == "approved"
    assert site.verify().ok


def test_a_stricter_policy_blocks_what_waits(site):
    proposal = site.judged(measurements(kl=0.1))
    stricter = (
        policy()
        .files["main.yaml"]
        .replace("value: 0.15}\n    severity: review", "value: 0.05}\n    severity: block")
    )
    assert [r.state for r in site.activate(policy(stricter), "ada")] == ["done"], (
        "tightening takes one person"
    )
    assert site.gate.tick() == [f"{proposal}: judged again, blocked"]
    with pytest.raises(DeniedError, match="blocked"):
        site.approve("ada", proposal)


def test_a_new_roster_makes_decisions_void_and_people_sign_anew(site):
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    draft = site.draft("bo", Action.APPROVE, proposal)
    site.enrol()
    with pytest.raises(StaleError, match="roster"):
        site.gate.commit(draft, site.people["bo"].key)
    assert site.approve("bo", proposal).state == "awaiting_approval", "ada's signature counts no more"
    assert site.approve("ada", proposal).state == "promoted"


def test_a_revoked_key_signs_nothing(site):
    proposal = site.judged(REVIEWABLE)
    site.approve("bo", proposal)
    site.enrol(revoked=(site.people["bo"].key.public,))
    with pytest.raises(DeniedError, match="not signed by a key of p-bo that is in force"):
        site.approve("bo", proposal)
    assert site.approve("ada", proposal).state == "awaiting_approval"


def test_new_evidence_makes_decisions_void(site):
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    draft = site.draft("bo", Action.APPROVE, proposal)
    site.measure(proposal, REVIEWABLE)
    with pytest.raises(DeniedError, match="judged"):
        site.gate.commit(draft, site.people["bo"].key)
    site.gate.judge(proposal)
    with pytest.raises(StaleError):
        site.gate.commit(draft, site.people["bo"].key)
    assert site.approve("bo", proposal).state == "awaiting_approval", "ada's signature counts no more"


def test_a_damaged_bundle_is_neither_approved_nor_promoted(make):
    site = make(coolDown="30m")
    waiting, approved = site.judged(content="waiting"), site.judged(content="approved")
    site.approve("ada", approved)
    for proposal in (waiting, approved):
        damage(site, site.row(proposal).proposal.bundle)
    with pytest.raises(DeniedError, match="damaged; it cannot be approved"):
        site.approve("ada", waiting)
    site.clock.pass_(hours=1)
    assert site.gate.tick() == []
    assert site.model().promotions == ()


def test_no_promotion_without_a_way_back(site):
    proposal = site.judged()
    path = damage(site, site.model().champion)
    with pytest.raises(DeniedError, match="could not be rolled back"):
        site.approve("ada", proposal)
    path.unlink()
    site.bundle("base")
    assert site.approve("ada", proposal).state == "promoted"


def damage(site: Site, bundle) -> Path:
    """Change the weights of a bundle in the store; returns the file's path."""
    entry = next(e for e in site.store.tree(bundle) if e.path.endswith(".safetensors"))
    path = site.store.root / "blobs" / entry.sha256[:2] / entry.sha256
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    return path


def test_one_damaged_measurement_does_not_stop_the_tick(site):
    broken, fine = site.propose(), site.propose()
    for proposal in (broken, fine):
        site.measure(proposal, measurements(saved=0.05 if proposal == broken else 0.06))
    address = site.row(broken).evidence.measurements
    (site.store.root / "blobs" / address.hex[:2] / address.hex).unlink()
    first, second = site.gate.tick()
    assert first.startswith(f"{broken}: artifact")
    assert second == f"{fine}: judged again, awaiting_approval"
    assert site.state(broken) == "judged"


# --- budgets -------------------------------------------------------------------------------


def budgets(**values: str) -> dict[str, str]:
    return {
        "budgets": "{errorBudget: {alpha: 0.05}, " + ", ".join(f"{k}: {v}" for k, v in values.items()) + "}"
    }


def test_the_budget_of_what_may_wait(make):
    site = make(**budgets(proposals="{pending: 2}"))
    site.judged()
    site.gate.require_ready(MODEL)
    waiting = site.judged()
    with pytest.raises(DeniedError, match="waiting for people: 2 of 2"):
        site.gate.require_ready(MODEL)
    site.decide("ada", Action.REJECT, waiting)
    site.gate.require_ready(MODEL)


def test_a_rollback_leaves_nothing_waiting_that_nobody_can_decide_on(make):
    site = make(**budgets(proposals="{pending: 1}"))
    sibling = site.propose("sibling")
    site.promoted("one")
    site.measure(sibling)
    site.gate.judge(sibling)
    site.rollback("ada", site.model().original)
    assert site.state(sibling) == "stale"
    site.gate.require_ready(MODEL)


def test_the_budget_of_proposals_a_day_counts_failures_and_passes_with_time(make):
    site = make(**budgets(proposals="{perDay: 2}"))
    site.propose()
    site.gate.record_failure(MODEL, "propose", "x", JobFailedError("broken"))
    with pytest.raises(DeniedError, match="last 24 hours: 2 of 2"):
        site.gate.require_ready(MODEL)
    site.clock.pass_(hours=24)
    site.gate.require_ready(MODEL)


def test_the_budget_of_cpu_hours(make):
    site = make(**budgets(compute="{cpuHoursPerDay: 1}"))
    order = site.gate.begin_measurement(site.propose())
    site.hand_in(order, cpu_s=3590)
    site.gate.require_ready(MODEL)
    site.hand_in(site.gate.begin_measurement(site.propose()), cpu_s=10)
    with pytest.raises(DeniedError, match="CPU hours"):
        site.gate.require_ready(MODEL)


def test_the_budget_of_promotions_a_day(make):
    site = make(**budgets(promotions="{perDay: 1}"))
    site.promoted()
    proposal = site.judged()
    receipt = site.approve("ada", proposal)
    assert receipt.state == "approved"
    assert "promotions per day are used up" in receipt.effect
    site.clock.pass_(hours=23, minutes=59)
    assert site.gate.tick() == []
    site.clock.pass_(minutes=2)
    assert site.gate.tick() == [f"{proposal}: promoted"]
