"""guardrails.decision_log.verify: who signed a record, and whether the rules permitted what it says.

Each case begins with the control: the untampered copy verifies.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from attacked_log import Copy, refused, untouched
from fakes import BLOCKED, MODEL, REVIEWABLE, Human, Site, policy

from guardrails import canonical
from guardrails.decision_log.envelope import format_time, open_envelope, parse_statement, seal
from guardrails.decision_log.store import Log
from guardrails.ledger.standing import binding_of
from guardrails.records import (
    Action,
    Decision,
    Promotion,
    Role,
    Rollback,
    Roster,
    State,
    Surface,
    Transition,
    open_text,
)


@pytest.fixture
def copy(history, folder):
    return untouched(history, folder / "copy")


# --- who signed ----------------------------------------------------------------------------


def test_a_verdict_signed_by_the_wrong_service(copy):
    seq = copy.find("verdict")
    copy.rewrite(copy.remade(seq, lambda s: s, copy.site.services["evaluator"]))
    refused(copy.verify(), "verdict: not signed by the gate service", seq)


@pytest.mark.parametrize("record", ["verdict", "decision"])
def test_a_signature_under_another_key_id(copy, record):
    """The same signature in another envelope would be another record: a way to hand things in twice."""
    seq = copy.find(record)
    envelopes = copy.envelopes()
    envelope = open_envelope(envelopes[seq])
    renamed = replace(envelope, signatures=(replace(envelope.signatures[0], keyid="somebody"),))
    copy.rewrite([*envelopes[:seq], renamed.encode()])
    refused(copy.verify(), "signed by", seq)


def test_evidence_signed_by_the_learner(copy):
    seq = copy.find("evidence")
    copy.rewrite(copy.remade(seq, lambda s: s, copy.site.services["learner"]))
    refused(copy.verify(), "evidence: not signed by the evaluator service", seq)


def test_a_verdict_that_the_engine_does_not_come_to(copy):
    seq = copy.find("verdict", kind="blocked", proposal="P-0005")

    def whitewash(statement):
        findings = [{**f, "outcome": "pass"} for f in statement.body["findings"]]
        return replace(statement, body={**statement.body, "kind": "eligible", "findings": findings})

    copy.rewrite(copy.remade(seq, whitewash, copy.site.services["gate"])[: seq + 1])
    assert copy.verify(recompute=None, artifacts=None).ok, "signatures alone cannot show this"
    refused(copy.verify(), "the engine comes to another verdict: blocked, recorded is eligible", seq)


def test_a_verdict_of_an_engine_that_is_gone_is_said(copy):
    seq = copy.find("verdict")
    change = lambda s: replace(s, body={**s.body, "engine": "interlock-engine/0"})  # noqa: E731
    copy.rewrite(copy.remade(seq, change, copy.site.services["gate"])[: seq + 1])
    found = copy.verify()
    assert (found.ok, found.not_recomputed) == (True, 1)
    assert "made by interlock-engine/0" in " ".join(found.notes)


@pytest.mark.parametrize("who", ["stranger", "colleague", "service"])
def test_a_decision_signed_by_a_foreign_key(copy, who):
    seq = copy.find("decision", action="approve", person="p-ada")
    signer = {
        "stranger": Human("eve").key, "colleague": copy.site.people["bo"].key, "service": copy.site.services["gate"],
    }[who]  # fmt: skip
    copy.rewrite(copy.remade(seq, lambda s: s, signer))
    refused(copy.verify(), "not signed by a key of p-ada that is in force", seq)


def test_a_decision_signed_by_a_revoked_key(folder):
    site = Site(folder / "site")
    proposal = site.judged(REVIEWABLE)
    site.enrol(revoked=(site.people["bo"].key.public,))
    assert site.verify().ok
    with site.log.read() as snapshot:
        binding = binding_of(snapshot.tables, site.row(proposal))
    decision = Decision(Action.APPROVE, proposal, "p-bo", Role.SAFETY, open_text("x").commitment(), Surface.CLI,
                        ("findings", "provenance", "samples"), 2, proposal, binding=binding)  # fmt: skip
    site.inject(site.sealed(decision, site.people["bo"].key), projection=lambda tables, entry: None)
    refused(site.verify(), "not signed by a key of p-bo that is in force", len(site.kinds()) - 1)


def test_a_decision_prepared_under_a_former_roster(copy):
    seq = copy.find("decision", action="rollback")
    key = copy.site.people["ada"].key
    copy.rewrite(copy.remade(seq, lambda s: replace(s, body={**s.body, "roster": 7}), key))
    refused(copy.verify(), "prepared under roster 7", seq)


def test_a_rejection_is_not_an_approval(copy):
    seq = copy.find("decision", action="approve", person="p-ada")
    key = copy.site.people["ada"].key
    copy.rewrite(copy.remade(seq, lambda s: replace(s, body={**s.body, "action": "reject"}), key))
    found = copy.verify()
    assert not found.ok
    assert (found.index, "rests on a record" in found.reason or "rejected" in found.reason) == (seq + 1, True)


# --- what was permitted --------------------------------------------------------------------


def test_a_promotion_without_a_quorum(copy):
    copy.append(promotion(copy))
    refused(copy.verify(), "P-0006 is awaiting_approval, not approved")


def test_a_promotion_that_names_its_decisions_falsely(folder):
    site = Site(folder / "site", source=policy(coolDown="30m"))
    proposal = site.judged()
    site.approve("ada", proposal)
    site.clock.pass_(minutes=31)
    row, model = site.row(proposal), site.model()
    votes = (row.votes[0].record,)
    honest = Promotion(proposal, MODEL, row.proposal.bundle, model.champion, votes, False, model.champion)
    for forged, reason in (
        (replace(honest, decisions=()), "does not name the decisions"),
        (replace(honest, decisions=honest.decisions * 2), "does not name the decisions"),
        (replace(honest, sole_person=True), "does not name the decisions"),
        (replace(honest, bundle=model.champion), "names another bundle"),
        (replace(honest, previous=row.proposal.bundle), "champion is not"),
    ):
        copied = Copy(site, folder / f"copy-{canonical.digest(repr(forged).encode()).short}")
        copied.append(forged)
        refused(copied.verify(), reason, len(site.kinds()))
    early = Copy(site, folder / "early")
    early.append(honest, time=format_time(site.clock.time.replace(minute=5)))
    refused(early.verify(), "cool-down lasts until")
    site.inject(site.sealed(honest, site.services["gate"]))
    assert site.verify().ok, "the control: the honest record, in time"


def test_a_promotion_of_a_blocked_proposal(folder):
    site = Site(folder / "site")
    proposal = site.judged(BLOCKED)
    assert site.verify().ok
    row, model = site.row(proposal), site.model()
    record = Promotion(proposal, MODEL, row.proposal.bundle, model.champion, (), False)
    site.inject(site.sealed(record, site.services["gate"]), projection=lambda tables, entry: None)
    refused(site.verify(), f"{proposal} is blocked, not approved")


def test_the_gate_alone_cannot_approve(copy):
    """With the gate's key: a note that the quorum is complete, then the promotion."""
    copy.append(Transition("P-0006", State.APPROVED, "quorum complete"), promotion(copy))
    refused(copy.verify(), "its quorum is not newly complete", len(copy.site.kinds()))


def test_a_rollback_that_does_not_say_what_follows_from_the_log(folder):
    site = Site(folder / "site")
    base = site.model().champion
    first = site.promoted()
    top = site.model().champion
    draft = site.draft("ada", Action.ROLLBACK, MODEL, digest=base)
    site.inject(seal(draft.payload, site.people["ada"].key))  # signed; what follows is left to the attacker
    (asked,) = [request for request in site.requests() if request.action is Action.ROLLBACK]
    honest = Rollback(asked.id, MODEL, base, top, (asked.votes[0].record,), (first,), False)
    for number, (forged, reason) in enumerate(
        (
            (replace(honest, decisions=()), "does not name the decisions"),
            (replace(honest, quarantined=()), "list of quarantined proposals"),
            (replace(honest, sole_person=True), "misstates whether one person"),
            (replace(honest, bundle=top), "champion or target changed"),
            (replace(honest, previous=base), "champion or target changed"),
            (replace(honest, request="R-0001"), "no rollback of toy was asked for"),
            (replace(honest, request="R-0099"), "no rollback of toy was asked for"),
            (replace(honest, model="other"), "there is no model other"),
        )
    ):
        copied = Copy(site, folder / f"copy-{number}")
        copied.append(forged)
        refused(copied.verify(), reason, len(site.kinds()))
    site.inject(site.sealed(honest, site.services["gate"]))
    assert site.verify().ok, "the control: the honest record"
    assert site.model().champion == base
    again = Copy(site, folder / "again")
    again.append(honest)
    refused(again.verify(), "carried out already")


def test_a_rollback_without_a_quorum(folder):
    site = Site(folder / "site", source=policy(rollback="{quorum: 2, roles: [operator, safety]}"))
    base = site.model().champion
    first = site.promoted()
    request = site.rollback("ada", base).request
    (asked,) = [row for row in site.requests() if row.id == request]
    forged = Rollback(request, MODEL, base, site.model().champion, (asked.votes[0].record,), (first,), False)
    copied = Copy(site, folder / "copy")
    assert copied.verify().ok
    copied.append(forged)
    refused(copied.verify(), "the quorum is not complete: needs 1 more person")


def test_a_rollback_signed_under_a_former_roster(folder):
    site = Site(folder / "site")
    base, first = site.model().champion, site.promoted()
    draft = site.draft("ada", Action.ROLLBACK, MODEL, digest=base)
    site.inject(seal(draft.payload, site.people["ada"].key))
    site.enrol()
    asked = site.requests()[-1]
    late = Rollback(asked.id, MODEL, base, site.model().champion, (asked.votes[0].record,), (first,), False)
    assert site.verify().ok
    site.inject(site.sealed(late, site.services["gate"]), projection=lambda tables, entry: None)
    refused(site.verify(), "the quorum is not complete")


def test_a_verdict_about_other_evidence_policies_or_attempts(folder):
    site = Site(folder / "site")
    proposal = site.judged()
    verdict = site.row(proposal).verdict
    for number, (forged, reason) in enumerate(
        (
            (replace(verdict, evidence=canonical.digest(b"other")), "about other evidence"),
            (replace(verdict, attempt=7), "attempt 7, but this evidence is attempt 1"),
            (replace(verdict, policies={}), "not the ones judged by"),
            (replace(verdict, policies={"main": str(canonical.digest(b"?"))}), "not the ones judged by"),
            (replace(verdict, proposal="P-0099"), "there is no proposal P-0099"),
        )
    ):
        copied = Copy(site, folder / f"copy-{number}")
        copied.append(forged)
        refused(copied.verify(recompute=None), reason, len(site.kinds()))
    site.inject(site.sealed(verdict, site.services["gate"]))
    assert site.verify().ok, "the control: the same verdict once more"


def test_a_clock_turned_back(copy):
    copy.append(Transition("P-0006", State.EXPIRED, "x"), time="2020-01-01T00:00:00.000000Z")
    refused(copy.verify(), "the clock went backwards")


def test_an_early_expiry(copy):
    copy.append(Transition("P-0006", State.EXPIRED, "x"))
    refused(copy.verify(), "has not expired yet")


def test_a_second_adoption(copy):
    seq = copy.find("decision", action="adopt")
    key = copy.site.people["ada"].key
    envelopes = copy.envelopes()
    statement = parse_statement(open_envelope(envelopes[seq]).payload)
    copy.append(seal(replace(statement, time=format_time(copy.site.clock.time)).encode(), key))
    refused(copy.verify(), "the decision was prepared under roster 1")
    copy.rewrite(
        [
            *envelopes[: seq + 1],
            seal(replace(statement, time=format_time(copy.site.clock.time)).encode(), key),
        ]
    )
    refused(copy.verify(), "has a champion already", seq + 1)


def promotion(copy: Copy) -> Promotion:
    row, model = copy.site.row("P-0006"), copy.site.model()
    assert row.state is State.AWAITING_APPROVAL
    return Promotion("P-0006", MODEL, row.proposal.bundle, model.champion, (), False)


# --- roots and logs ------------------------------------------------------------------------


def test_the_wrong_root_key(copy):
    assert copy.verify(root_key=copy.site.people["ada"].key.public + " ada@laptop").ok
    for key in (Human("eve").key.public, copy.site.people["bo"].key.public):
        refused(copy.verify(root_key=key), "not signed by the root key that was given", 0)


def test_a_pinned_root_that_is_listed_and_did_not_sign(folder):
    """Whoever founds a log of their own can list somebody else's key as a root; they cannot sign with it."""
    victim = Human("ada", Role.OPERATOR, Role.ROOT)
    site = Site(folder / "site", people=(("eve", Role.OPERATOR, Role.ROOT),), set_up=False)
    site.people["ada"] = victim
    site.found()
    assert site.verify(root_key=site.people["eve"].key.public).ok
    refused(site.verify(root_key=victim.key.public), "not signed by the root key that was given", 0)


def test_a_roster_that_its_roots_did_not_sign(copy):
    eve = Human("eve", Role.ROOT, Role.OPERATOR)
    with Log.open(copy.url) as log, log.read() as snapshot:
        services = snapshot.tables.get("roster", "current")["roster"]["services"]
    copy.append(copy.site.sealed(Roster(3, (eve.entry(),), services), eve.key))
    refused(copy.verify(), "roster: signed by 0 of the 1 roots needed")


def test_a_record_of_another_log(copy, folder):
    other = Site(folder / "other", origin="interlock/other")
    other.services = copy.site.services
    envelope = other.sealed(Transition("P-0006", State.EXPIRED, "x"), copy.site.services["gate"])
    with (
        Log.open(copy.url, copy.site.services["log"], lambda tables, entry: None, prove=False) as log,
        log.transaction() as tx,
    ):
        tx._check = lambda entry: None
        tx.append(envelope)
    refused(copy.verify(), "the record belongs to another log: interlock/other")


def test_a_log_under_another_name(copy):
    copy.sql("update meta set value = 'interlock/other' where key = 'origin'")
    found = copy.verify()
    assert not found.ok
    assert "checkpoint" in found.reason or "log" in found.reason


def test_records_that_nobody_can_read(copy):
    gate = copy.site.services["gate"]
    for kind, record, reason in (
        ("transition", Transition("P-9999", State.EXPIRED, "x"), "there is no proposal P-9999"),
        ("gossip", Transition("P-0001", State.EXPIRED, "x"), "unknown kind of record"),
        ("verdict", Transition("P-0001", State.EXPIRED, "x"), "unknown field"),
        ("evidence", Transition("P-0001", State.EXPIRED, "x"), ""),
    ):
        fresh = Copy(copy.site, copy.folder.parent / f"copy-{kind}")
        fresh.append(copy.site.sealed(record, gate, kind=kind))
        found = fresh.verify()
        assert not found.ok
        assert reason in found.reason
        assert found.index == len(copy.site.kinds())
