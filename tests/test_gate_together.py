"""guardrails.gate: what people sign together: halts, policies, waivers, rollbacks."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from fakes import (
    BLOCKED,
    BROKEN,
    MODEL,
    Site,
    halt,
    policy,
    resume,
)

from guardrails import canonical
from guardrails.decision_log.envelope import format_time, parse_statement
from guardrails.errors import (
    DeniedError,
    HaltedError,
    InterlockError,
    PolicyError,
    RecordError,
    StaleError,
    UnknownNameError,
)
from guardrails.ledger.requests import WORKSPACE
from guardrails.records import Action, Promotion, Role, State, Waiver
from guardrails.registry import ArtifactError


def damage(site: Site, bundle) -> Path:
    """Change the weights of a bundle in the store; returns the file's path."""
    entry = next(e for e in site.store.tree(bundle) if e.path.endswith(".safetensors"))
    path = site.store.root / "blobs" / entry.sha256[:2] / entry.sha256
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    return path


# --- halt and resume -----------------------------------------------------------------------


def test_a_halt_stops_promotions_and_survives_reopening(site):
    proposal, other = site.judged(), site.judged()
    draft = site.draft("ada", Action.APPROVE, proposal)
    assert halt(site).state == "done"
    assert site.gate.halted_by() == site.open().halted_by() == "R-0002"
    for gate in (site.gate, site.open()):
        with pytest.raises(HaltedError, match="halted by R-0002"):
            gate.require_ready(MODEL)
        with pytest.raises(HaltedError):
            gate.record_proposal(site.submission("new"))
    # The approval is kept; what it permits waits for the end of the halt.
    receipt = site.open().commit(draft, site.people["ada"].key)
    assert (receipt.state, "halted by R-0002" in receipt.effect) == ("approved", True)
    assert site.open().tick() == []
    assert site.model().promotions == ()
    with pytest.raises(DeniedError, match="in force already"):
        halt(site)
    assert resume(site).state == "done"
    with pytest.raises(DeniedError, match="nothing is halted"):
        resume(site)
    assert site.gate.tick() == [f"{proposal}: promoted"]
    assert site.state(other) == "stale"
    assert site.verify().ok


def test_the_ledger_itself_refuses_a_promotion_during_a_halt(site):
    proposal = site.judged()
    halt(site)
    site.approve("ada", proposal)
    row, model = site.row(proposal), site.model()
    promotion = Promotion(
        proposal, MODEL, row.proposal.bundle, model.champion, (row.votes[0].record,), False,
        model.champion,
    )  # fmt: skip
    with pytest.raises(HaltedError):
        site.inject(site.sealed(promotion, site.services["gate"]))
    resume(site)
    site.inject(site.sealed(promotion, site.services["gate"]))
    assert site.model().champion == row.proposal.bundle, "the control: the same record, not halted"


def test_a_resume_needs_its_own_role(site):
    halt(site)
    receipt = resume(site, "bo")
    assert (receipt.state, site.gate.halted_by()) == ("open", "R-0002")
    assert "operator" in receipt.effect


def test_a_halt_does_not_stop_a_rollback(site):
    base = site.model().champion
    site.promoted()
    halt(site)
    assert site.rollback("ada", base).state == "rolled_back"


def test_a_halt_is_about_the_workspace(site):
    with pytest.raises(RecordError, match="the target is the workspace"):
        site.decide("ada", Action.HALT, MODEL)


# --- policies ------------------------------------------------------------------------------


def test_loosening_needs_two_people_and_tightening_one(site):
    loose = policy(rollback="{quorum: 1, roles: [operator, safety, auditor]}")
    first = site.decide("ada", Action.ACTIVATE, "main", policy=loose)
    assert first.state == "open"
    with pytest.raises(DeniedError, match="signed already"):
        site.decide("ada", Action.ACTIVATE, "main", policy=loose)
    assert site.decide("bo", Action.ACTIVATE, "main", policy=loose).state == "done"
    strict = policy(rollback="{quorum: 2, roles: [operator, safety]}")
    assert site.decide("ada", Action.ACTIVATE, "main", policy=strict).state == "done"


def test_a_first_policy_is_activated_by_the_founders(folder):
    site = Site(folder / "site", set_up=False)
    site.found()
    assert site.decide("bo", Action.ACTIVATE, "main", policy=policy()).state == "open"
    site.adopt()
    proposal = site.propose()
    site.measure(proposal)
    assert site.gate.judge(proposal) == "blocked", "no policy: blocked"
    assert site.row(proposal).verdict.findings[0].rule == "policy.none"
    assert site.decide("ada", Action.ACTIVATE, "main", policy=policy()).state == "done"
    assert site.gate.tick() == [f"{proposal}: judged again, awaiting_approval"]


def test_without_any_policy_nothing_is_promoted(site):
    proposal = site.judged()
    site.decide("ada", Action.DEACTIVATE, "main")
    site.decide("bo", Action.DEACTIVATE, "main")
    with pytest.raises(StaleError):
        site.approve("ada", proposal)
    assert site.gate.tick() == [f"{proposal}: judged again, blocked"]
    with pytest.raises(UnknownNameError, match="no policy called"):
        site.decide("ada", Action.DEACTIVATE, "main")


def test_a_deactivation_is_about_the_policy_that_its_signers_saw(site):
    assert site.decide("ada", Action.DEACTIVATE, "main").state == "open"
    stale = site.draft("bo", Action.DEACTIVATE, "main")
    site.activate(policy(coolDown="1h"), "ada")
    with pytest.raises(StaleError, match="not the one that was meant"):
        site.gate.commit(stale, site.people["bo"].key)
    assert site.decide("bo", Action.DEACTIVATE, "main").state == "open", "a new request: one signature"


def test_two_policies_are_both_obeyed(site):
    second = policy(policy().files["main.yaml"], name="second", coolDown="1h",
                    onEligible="{quorum: 2, roles: [operator, safety], distinctRoles: true}")  # fmt: skip
    assert site.activate(second, "ada")[-1].state == "done", "one more policy only tightens"
    proposal = site.judged()
    assert site.row(proposal).verdict.policies.keys() == {"main", "second"}
    assert site.approve("ada", proposal).state == "awaiting_approval"
    assert site.approve("bo", proposal).state == "approved"
    site.clock.pass_(minutes=61)
    assert site.gate.tick() == [f"{proposal}: promoted"]


def test_a_shadow_policy_is_judged_and_does_not_bind(site):
    text = (
        policy()
        .files["main.yaml"]
        .replace("kind: Policy", "kind: Policy\nmode: shadow")
        .replace("0.15", "0.001")
    )
    site.activate(policy(text, name="watch"), "ada", "bo")
    row = site.row(site.judged())
    assert row.state is State.AWAITING_APPROVAL
    assert {f.outcome.value for f in row.verdict.findings if f.shadow and f.rule == "drift"} == {"fail"}
    assert row.verdict.policies.keys() == {"main"}


def test_an_activation_is_about_the_bytes_that_it_names(site):
    source = policy(coolDown="1h")
    for bad in (
        replace(source, digest=canonical.digest(b"other")),
        replace(source, files={"main.yaml": policy().files["main.yaml"]}),
        replace(source, name="other"),
    ):
        with pytest.raises(PolicyError):
            site.decide("ada", Action.ACTIVATE, "main", policy=bad)
    with pytest.raises(RecordError, match="the policy is called main"):
        site.decide("ada", Action.ACTIVATE, "other", policy=source)
    with pytest.raises(RecordError, match="bytes are missing"):
        site.decide("ada", Action.ACTIVATE, "main")


def test_a_signature_cannot_be_moved_to_other_content(site):
    loose = policy(rollback="{quorum: 1, roles: [operator, safety, root]}")
    looser = policy(rollback="{quorum: 1, roles: [operator, safety, root, author]}")
    request = site.decide("ada", Action.ACTIVATE, "main", policy=loose).request
    draft = site.draft("bo", Action.ACTIVATE, "main", policy=looser)
    assert draft.decision.request != request, "other content is another request"
    statement = parse_statement(draft.payload)
    swapped = replace(statement, body={**statement.body, "request": request})
    with pytest.raises(StaleError, match="asks for something else"):
        site.gate.commit(replace(draft, payload=swapped.encode()), site.people["bo"].key)


def test_a_request_that_was_carried_out_takes_no_more_signatures(site):
    source = policy(rollback="{quorum: 2, roles: [operator, safety]}")
    done = site.decide("ada", Action.ACTIVATE, "main", policy=source)
    assert done.state == "done"
    draft = site.draft("cy", Action.ACTIVATE, "main", policy=source)
    statement = parse_statement(draft.payload)
    late = replace(statement, body={**statement.body, "request": done.request})
    with pytest.raises(DeniedError, match="carried out already"):
        site.gate.commit(replace(draft, payload=late.encode()), site.people["cy"].key)
    assert site.gate.commit(draft, site.people["cy"].key).state == "done", "the control: a request of its own"


def test_ids_are_given_out_in_order(site):
    site.decide(
        "ada", Action.ACTIVATE, "main", policy=policy(rollback="{quorum: 1, roles: [operator, root]}")
    )
    one = site.draft("cy", Action.HALT, WORKSPACE)
    other = site.draft("bo", Action.DEACTIVATE, "main")
    assert one.decision.request == other.decision.request == "R-0003"
    site.gate.commit(one, site.people["cy"].key)
    with pytest.raises(StaleError, match="asks for something else"):
        site.gate.commit(other, site.people["bo"].key)
    statement = parse_statement(other.payload)
    skipped = replace(statement, body={**statement.body, "request": "R-0009"})
    with pytest.raises(StaleError, match="not the next one"):
        site.gate.commit(replace(other, payload=skipped.encode()), site.people["bo"].key)


def test_a_request_can_be_signed_again_after_a_new_roster(site):
    loose = policy(rollback="{quorum: 1, roles: [operator, safety, root]}")
    assert site.decide("ada", Action.ACTIVATE, "main", policy=loose).state == "open"
    site.enrol()
    assert site.decide("bo", Action.ACTIVATE, "main", policy=loose).state == "open", "ada's counts no more"
    assert site.decide("ada", Action.ACTIVATE, "main", policy=loose).state == "done"


# --- waivers -------------------------------------------------------------------------------


def waiver(site, proposal, rule="pii"):
    bundle = site.row(proposal).proposal.bundle
    return Waiver(rule, bundle, "p-ada", format_time(site.clock.time + timedelta(hours=2)))


def waive(site, proposal, granted):
    states = [site.decide(who, Action.WAIVE, proposal, waiver=granted).state for who in ("ada", "bo")]
    assert states == ["open", "done"]


def test_a_waiver_of_two_turns_blocked_into_review_until_it_ends(site):
    proposal = site.judged(BLOCKED)
    granted = waiver(site, proposal)
    waive(site, proposal, granted)
    assert site.state(proposal) == "blocked", "a waiver by itself changes no verdict"
    assert site.gate.tick() == [f"{proposal}: judged again, awaiting_approval"]
    row = site.row(proposal)
    assert row.verdict.kind.value == "review"
    assert [f.rule for f in row.verdict.findings if f.waived] == ["pii"]
    site.approve("ada", proposal)
    site.clock.pass_(hours=2)
    with pytest.raises(StaleError, match="waivers changed"):
        site.approve("bo", proposal)
    assert site.gate.tick() == [f"{proposal}: judged again, blocked"]
    assert site.verify().ok


def test_a_waived_proposal_is_promoted_by_two(site):
    proposal = site.judged(BLOCKED)
    waive(site, proposal, waiver(site, proposal))
    site.gate.tick()
    assert site.approve("ada", proposal).state == "awaiting_approval"
    assert site.approve("bo", proposal).state == "promoted"
    assert site.verify().ok


@pytest.mark.parametrize(
    ("rule", "refusal"),
    [
        ("weights", "cannot be waived"),
        ("isolation.minimum", "a rule of the gate itself"),
        ("gone", "not judged by a rule"),
    ],
)
def test_what_cannot_be_waived_is_refused_when_the_first_one_asks(site, rule, refusal):
    proposal = site.judged(BROKEN)
    before = site.kinds()
    with pytest.raises(InterlockError, match=refusal):
        site.decide("ada", Action.WAIVE, proposal, waiver=waiver(site, proposal, rule=rule))
    assert site.kinds() == before


def test_a_waiver_is_for_one_bundle(site):
    one, two = site.judged(BLOCKED), site.judged(BLOCKED)
    waive(site, one, waiver(site, one))
    assert site.gate.tick() == [f"{one}: judged again, awaiting_approval"]
    assert site.state(two) == "blocked"


@pytest.mark.parametrize(
    "until", ["", "never", "2026-03-02", "2027-01-01T00:00:00+14:00", "2027-01-01T00:00:00Z", "9999"]
)
def test_a_waiver_ends_at_a_time_that_everything_reads_alike(site, until):
    proposal = site.judged(BLOCKED)
    granted = replace(waiver(site, proposal), expires_at=until)
    with pytest.raises(RecordError, match="not a time"):
        site.decide("ada", Action.WAIVE, proposal, waiver=granted)


def test_a_waiver_names_its_owner_its_rule_and_a_bundle_that_was_proposed(site):
    granted = waiver(site, site.judged(BLOCKED))
    for bad, error in (
        (replace(granted, owner=""), RecordError),
        (replace(granted, rule=""), RecordError),
        (replace(granted, bundle=canonical.digest(b"unknown")), UnknownNameError),
        (None, RecordError),
    ):
        with pytest.raises(error):
            site.decide("ada", Action.WAIVE, "P-0001", waiver=bad)


# --- rollback ------------------------------------------------------------------------------


def test_a_rollback_reaches_any_former_champion_that_is_not_quarantined(site):
    base = site.model().champion
    names = [site.promoted(f"v{i}") for i in range(1, 4)]
    v1, v2, v3 = (site.row(name).proposal.bundle for name in names)
    with pytest.raises(DeniedError, match="is the champion"):
        site.rollback("ada", v3)
    with pytest.raises(UnknownNameError, match="never champion"):
        site.rollback("ada", site.bundle("never was"))
    site.rollback("ada", v1)
    assert [site.state(name) for name in names] == ["promoted", "rolled_back", "rolled_back"]
    assert [reign.quarantined for reign in site.model().history] == [False, False, True, True, False]
    for gone in (v2, v3):
        with pytest.raises(DeniedError, match="quarantined"):
            site.rollback("ada", gone)
    site.promoted("v4")
    site.rollback("bo", base)
    assert site.model().champion == base
    with pytest.raises(DeniedError, match="quarantined"):
        site.rollback("ada", v1)
    assert site.verify().ok


def test_descendants_are_quarantined_and_cannot_come_back_under_another_id(site):
    base = site.model().champion
    parent = site.promoted("parent")
    child, late = site.judged(content="child"), site.submission("late child")
    site.rollback("ada", base)
    assert (site.state(parent), site.state(child)) == ("rolled_back", "quarantined")
    with pytest.raises(DeniedError, match="quarantined"):
        site.approve("ada", child)
    with pytest.raises(DeniedError, match="quarantined and cannot be measured"):
        site.gate.begin_measurement(child)
    with pytest.raises(StaleError):
        site.gate.record_proposal(late)
    for content in ("parent", "child"):
        with pytest.raises(DeniedError, match="is quarantined"):
            site.propose(content)
    assert site.judged(content="sound")


def test_a_rollback_to_what_came_back_as_a_proposal_spares_its_target(site):
    site.promoted("b")
    b = site.model().champion
    site.promoted("base")  # the first champion's very bytes, proposed, measured and signed
    site.rollback("ada", b)
    assert site.model().champion == b
    assert site.state("P-0001") == "promoted"
    assert site.verify().ok
    site.promoted("c")
    assert site.rollback("ada", b).state == "rolled_back"


def test_a_rollback_that_needs_two(make):
    site = make(rollback="{quorum: 2, roles: [operator, safety]}")
    base = site.model().champion
    site.promoted()
    top = site.model().champion
    first = site.rollback("ada", base)
    assert (first.state, site.model().champion) == ("open", top)
    assert "needs 1 more person" in first.effect
    second = site.rollback("bo", base)
    assert (second.request, second.state) == (first.request, "rolled_back")
    with pytest.raises(DeniedError, match="is the champion"):
        site.rollback("cy", base)


def test_a_rollback_to_damaged_bytes_is_refused(site):
    base = site.model().champion
    site.promoted()
    damage(site, base)
    with pytest.raises(ArtifactError, match="damaged"):
        site.rollback("ada", base)
    assert site.model().champion != base


def test_an_adoption_is_a_roots_and_happens_once(site):
    digest = site.bundle("other base")
    fields = {"digest": digest, "kind": site.row(site.propose()).proposal.kind}
    with pytest.raises(DeniedError, match="only a root"):
        site.decide("cy", Action.ADOPT, "second", **fields)
    with pytest.raises(DeniedError, match="has a champion already"):
        site.decide("ada", Action.ADOPT, MODEL, role=Role.ROOT, **fields)
    with pytest.raises(ArtifactError, match="cannot be read"):
        site.decide(
            "ada", Action.ADOPT, "second", role=Role.ROOT, **{**fields, "digest": canonical.digest(b"?")}
        )
    site.decide("ada", Action.ADOPT, "second", role=Role.ROOT, **fields)
    assert site.model("second").champion == digest


def test_what_was_barred_for_one_model_is_not_proposed_for_another(site):
    site.adopt("other")
    barred = site.row(site.promoted("bad")).proposal.bundle
    site.rollback("ada", site.model().original)
    with pytest.raises(DeniedError, match=f"bundle {barred.short} is quarantined: {MODEL} was rolled back"):
        site.propose("bad", model="other")
    assert site.state(site.propose("good", model="other")) == "proposed", "the control"
