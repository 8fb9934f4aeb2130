"""Ways of tampering that need a history of their own: keys, votes and times that were in order once."""

from __future__ import annotations

from dataclasses import replace

from attacked_log import OTHER, Copy, decision, promotion, refused
from fakes import BLOCKED, MODEL, REVIEWABLE, Site, policy

from guardrails.errors import JobFailedError
from guardrails.records import Action, Failure, Key, State, Transition, Waiver


def test_a_revoked_key_before_and_after_an_approval(folder):
    """Before: it signs nothing. After: what it signed counts no more, and the other signature alone is too few."""
    site = Site(folder / "site")
    proposal = site.judged(REVIEWABLE)
    site.approve("bo", proposal)
    before = Copy(site, folder / "before")
    late = decision(before, "bo", Action.WITHDRAW, proposal)
    site.enrol(revoked=(site.people["bo"].key.public,))
    assert site.verify().ok
    after = Copy(site, folder / "after")
    after.append(late)
    refused(after.verify(), "not signed by a key of p-bo that is in force")
    forged = Copy(site, folder / "forged")
    forged.append(promotion(forged, proposal))
    refused(forged.verify(), "not approved")
    site.close()


def test_a_veto_that_is_passed_over(folder):
    site = Site(folder / "site")
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    approval = Copy(site, folder / "first")
    late = decision(approval, "bo", Action.APPROVE, proposal)
    site.decide("cy", Action.REJECT, proposal)
    copy = Copy(site, folder / "copy")
    assert copy.verify().ok
    copy.append(late, promotion(copy, proposal))
    refused(copy.verify(), "is rejected")
    site.close()


def test_an_expired_approval_is_not_brought_back_by_an_earlier_date(folder):
    site = Site(folder / "site")
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    in_time = decision(Copy(site, folder / "first"), "bo", Action.APPROVE, proposal)
    site.clock.pass_(hours=73)
    site.gate.tick()
    copy = Copy(site, folder / "copy")
    assert copy.verify().ok
    copy.append(in_time)
    refused(copy.verify(), "is expired")
    site.close()


def test_a_policy_that_changed_after_the_verdict(folder):
    site = Site(folder / "site")
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    late = decision(Copy(site, folder / "first"), "bo", Action.APPROVE, proposal)
    site.activate(policy(coolDown="5m"))
    copy = Copy(site, folder / "copy")
    assert copy.verify().ok
    copy.append(late)
    found = copy.verify()
    assert not found.ok
    assert "changed" in found.reason or "prepared" in found.reason, found.reason
    site.close()


def test_a_proposer_does_not_approve_their_own(folder):
    site = Site(folder / "site")
    proposal = site.judged(proposer="p-ada")
    copy = Copy(site, folder / "copy")
    copy.append(decision(copy, "ada", Action.APPROVE, proposal))
    refused(copy.verify(), "excluded from approving")
    site.close()


def test_approval_before_there_is_a_verdict(folder):
    site = Site(folder / "site")
    judged = site.judged(REVIEWABLE)
    early = site.propose()
    copy = Copy(site, folder / "copy")
    copy.append(
        decision(copy, "ada", Action.APPROVE, judged, lambda d: replace(d, target=early, request=early))
    )
    refused(copy.verify(), "there is nothing to approve")
    site.close()


def test_keys_stand_in_a_roster_in_one_spelling(story, folder):
    copy = Copy(story, folder / "copy")
    roster = copy.site.roster()
    first = roster.people[0]
    spelt = replace(first, keys=(Key(first.keys[0].public + " ada@laptop"),))
    copy.append(
        copy.site.sealed(replace(roster, people=(spelt, *roster.people[1:])), copy.site.people["ada"].key)
    )
    refused(copy.verify(), "without anything else")


def test_an_approval_moves_no_other_model(folder):
    site = Site(folder / "site", source=policy(coolDown="30m"))
    site.adopt("other", "another base")
    proposal = site.judged()
    site.approve("ada", proposal)
    site.clock.pass_(minutes=31)
    champion = site.model("other").champion
    copy = Copy(site, folder / "copy")
    assert copy.verify().ok
    copy.append(promotion(copy, proposal, model="other", previous=champion, rehearsed=champion))
    refused(copy.verify(), "not approved")
    honest = Copy(site, folder / "honest")
    honest.append(promotion(honest, proposal))
    refused(
        honest.verify(), "projection"
    )  # the control: the record is allowed, only the tables were not moved
    site.close()


def test_a_quorum_is_noted_once(folder):
    """A second note would begin the cool-down anew, or, dated well, end it."""
    site = Site(folder / "site", source=policy(coolDown="30m"))
    proposal = site.judged()
    site.approve("ada", proposal)
    copy = Copy(site, folder / "copy")
    assert copy.verify().ok
    copy.append(Transition(proposal, State.APPROVED, "quorum complete"))
    refused(copy.verify(), "not newly complete")
    site.close()


def test_what_yielded_nothing_is_not_measured_and_what_runs_fails_under_its_own_model(folder):
    site = Site(folder / "site")
    site.adopt("other", "another base")
    failed = site.gate.record_failure(MODEL, "propose", "x", JobFailedError("nothing came of it"))
    running = site.propose()
    copy = Copy(site, folder / "copy")
    assert copy.verify().ok
    copy.append(Transition(failed, State.MEASURING, "x", 1))
    refused(copy.verify(), "cannot be measured")
    other = Copy(site, folder / "other")
    other.append(Failure(running, "other", "measure", "x", "x", ""))
    refused(other.verify(), "nothing of it can fail now")
    site.close()


def test_evidence_of_another_measurement(folder):
    site = Site(folder / "site")
    proposal = site.propose()
    order = site.gate.begin_measurement(proposal)
    copy, control = Copy(site, folder / "copy"), Copy(site, folder / "control")
    assert copy.verify().ok
    site.hand_in(order)
    evidence, evaluator = site.row(proposal).evidence, site.services["evaluator"]
    copy.append(replace(evidence, measurement=OTHER), signer=evaluator)
    refused(copy.verify(), "not of the measurement that is under way")
    control.append(evidence, signer=evaluator)
    refused(control.verify(), "projection")  # the control: allowed, only the tables were not moved
    site.close()


def test_a_second_signature_under_other_terms(folder):
    site = Site(folder / "site")
    blocked = site.judged(BLOCKED)
    waiver = Waiver("pii", site.row(blocked).proposal.bundle, "p-ada", "2027-01-01T00:00:00.000000Z")
    site.decide("ada", Action.WAIVE, blocked, waiver=waiver)
    copy = Copy(site, folder / "copy")
    assert copy.verify().ok
    longer = lambda d: replace(d, terms=replace(d.terms, expires_at="2030-01-01T00:00:00.000000Z"))  # noqa: E731
    copy.append(decision(copy, "bo", Action.WAIVE, blocked, longer, waiver=waiver))
    refused(copy.verify(), "has other terms than what was signed")
    site.close()
