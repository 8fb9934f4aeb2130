"""Every way of tampering that an auditor should know of, in one table: what is done, and why it is refused.

The attacker writes the database and holds the keys of the log and of every service; with ``re-signed`` also those of
one person. Each case begins with the control that the untouched copy verifies, and must fail for its own reason.
What no log alone can show stands in ``test_witnessed_log``.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fakes import BLOCKED, MODEL, REVIEWABLE, Human, Site, memory_folder, policy
from test_verify import Copy, refused

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.codec import decode_record, encode_record
from guardrails.decision_log import checkpoint
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.envelope import format_time, open_envelope, parse_statement, seal
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.merkle import leaf_hash
from guardrails.decision_log.store import Log
from guardrails.errors import JobFailedError
from guardrails.ledger.subjects import subjects_of
from guardrails.records import (
    Action,
    Decision,
    Failure,
    Key,
    ModelKind,
    Promotion,
    Role,
    State,
    Transition,
    Waiver,
)


@dataclass(frozen=True)
class Case:
    """One attack on a copy, and the reason that must be given."""

    name: str
    reason: str
    attack: Callable[[Copy], Any]


CASES: list[Case] = []


def case(name: str, reason: str) -> Callable[[Callable[[Copy], Any]], Callable[[Copy], Any]]:
    def keep(attack: Callable[[Copy], Any]) -> Callable[[Copy], Any]:
        CASES.append(Case(name, reason, attack))
        return attack

    return keep


@pytest.fixture(scope="module")
def story():
    """P-0001 was promoted; P-0002 waits with one of two signatures; P-0003 is blocked; P-0004 waits, unsigned."""
    folder = memory_folder()
    site = Site(folder / "site", source=policy(expiresAfter="72h"))
    site.promoted("first")
    site.approve("ada", site.judged(REVIEWABLE, "second"))
    site.judged(BLOCKED, "third")
    site.judged(content="fourth")
    yield site
    site.close()
    shutil.rmtree(folder)


@pytest.fixture
def copy(story, folder):
    made = Copy(story, folder / "copy")
    found = made.verify(root_key=story.people["ada"].key.public)
    assert found.ok, f"the control does not hold: {found.reason}"
    return made


# --- means ---------------------------------------------------------------------------------------


def decision(
    copy: Copy, who: str, action: Action, target: str, change: Callable[[Decision], Decision] = lambda d: d, *,
    signer: Any = None, time: str = "", role: Role | None = None, **wish: Any,
) -> bytes:  # fmt: skip
    """A decision as the gate would prepare it, changed, its subjects made to fit, and signed."""
    site = copy.site
    draft = site.draft(who, action, target, role, **wish)
    statement = parse_statement(draft.payload)
    changed = change(decode_record(Decision, dict(statement.body)))
    with site.log.read() as snapshot:
        about = subjects_of(snapshot.tables, changed) or dict(statement.subjects)
    statement = replace(statement, body=encode_record(changed), subjects=about, time=time or statement.time)
    return seal(statement.encode(), signer or site.people[who].key)


def bound(**fields: Any) -> Callable[[Decision], Decision]:
    """Change what a decision is bound to."""
    return lambda d: replace(d, binding=replace(d.binding, **fields))


def raw(copy: Copy, seq: int, change: Callable[[dict], Any]) -> None:
    """Change the JSON of a stored envelope, and its leaf hash with it."""
    value = json.loads(copy.envelopes()[seq])
    made = change(value)
    data = made if isinstance(made, bytes) else canonical.encode(value)
    copy.sql("update entries set envelope = ?, leaf = ? where seq = ?", data, leaf_hash(data).hex(), seq)


def promotion(copy: Copy, proposal: str, **fields: Any) -> Promotion:
    row, model = copy.site.row(proposal), copy.site.model()
    votes = tuple(vote.record for vote in row.votes)
    made = Promotion(
        proposal, MODEL, row.proposal.bundle, model.champion, votes, False, rehearsed=model.champion
    )
    return replace(made, **fields)


def last(copy: Copy, record: str, **body: Any) -> int:
    return copy.find(record, **body)


OTHER = Digest("ab" * 32)


# --- records ----------------------------------------------------------------------------------------


@case("a record edited, its hash left", "not those that its leaf hash was made of")
def _(copy):
    seq = last(copy, "verdict")
    envelope = open_envelope(copy.envelopes()[seq])
    data = replace(envelope, payload=envelope.payload.replace(b'"eligible"', b'"blocked"')).encode()
    copy.sql("update entries set envelope = ? where seq = ?", data, seq)


@case("a record edited, its hash made anew", "not signed by the gate service")
def _(copy):
    seq = last(copy, "verdict", proposal="P-0004")
    payload = open_envelope(copy.envelopes()[seq]).payload.replace(b'"attempt":', b'"attempt":1')
    raw(copy, seq, lambda v: v.update(payload=base64.b64encode(payload).decode()))


@case("a record edited and re-signed by its service, tree made anew", "the engine comes to another verdict")
def _(copy):
    seq = last(copy, "verdict", kind="blocked")
    change = lambda s: replace(s, body={**s.body, "kind": "review"})  # noqa: E731
    copy.rewrite(copy.remade(seq, change, copy.site.services["gate"])[: seq + 1])


@case("a record that others rest on deleted", "rests on a record")
def _(copy):
    envelopes = copy.envelopes()
    seq = last(copy, "evidence", proposal="P-0004")
    copy.rewrite(envelopes[:seq] + envelopes[seq + 1 :])


@case("a record missing in the middle", "it is missing")
def _(copy):
    copy.sql("delete from entries where seq = 3")


@case("a record once more at the end", "once more")
def _(copy):
    copy.sql("create table plain as select * from entries")
    copy.sql("drop table entries")
    copy.sql("alter table plain rename to entries")
    copy.sql(
        "insert into entries select ?, leaf, envelope, time from entries where seq = 4", len(copy.envelopes())
    )


@case("two records in each other's place", "no measurement is under way")
def _(copy):
    envelopes = copy.envelopes()
    seq = last(copy, "evidence")
    envelopes[seq - 1], envelopes[seq] = envelopes[seq], envelopes[seq - 1]
    copy.rewrite(envelopes)


@case("payload of another type", "payload type 'text/plain'")
def _(copy):
    raw(copy, 5, lambda v: v.update(payloadType="text/plain"))


@case("a signature twice", "two signatures by one key")
def _(copy):
    raw(copy, 5, lambda v: v["signatures"].append(v["signatures"][0]))


@case("no signature", "an envelope without a signature")
def _(copy):
    raw(copy, 5, lambda v: v.update(signatures=[]))


@case("a signature without a key id", "by a key without an id")
def _(copy):
    raw(copy, 5, lambda v: v["signatures"][0].update(keyid=""))


@case("a second signature, by somebody else", "exactly one signature")
def _(copy):
    seq = last(copy, "verdict")
    envelope = open_envelope(copy.envelopes()[seq])
    copy.rewrite(
        [*copy.envelopes()[:seq], seal(envelope.payload, copy.site.services["gate"], ServiceKey.generate())]
    )


@case("an envelope that is not canonical", "not canonical JSON")
def _(copy):
    raw(copy, 5, lambda v: json.dumps(v, indent=1).encode())


@case("a key twice in the JSON", "not canonical JSON")
def _(copy):
    raw(copy, 5, lambda v: canonical.encode(v)[:-1] + b',"signatures":[]}')


@case("a payload that is not canonical", "not canonical JSON")
def _(copy):
    payload = json.dumps(json.loads(open_envelope(copy.envelopes()[5]).payload), indent=1).encode()
    raw(copy, 5, lambda v: v.update(payload=base64.b64encode(payload).decode()))


@case("a field missing in the envelope", "not an object with exactly")
def _(copy):
    raw(copy, 5, lambda v: v.pop("payloadType") and None)


def _payload(copy: Copy, change: Callable[[dict], Any]) -> None:
    value = json.loads(open_envelope(copy.envelopes()[5]).payload)
    change(value)
    raw(copy, 5, lambda v: v.update(payload=base64.b64encode(canonical.encode(value)).decode()))


@case("a field missing in the statement", "not an object with exactly")
def _(copy):
    _payload(copy, lambda v: v["predicate"].pop("time"))


@case("an older schema", "is not interlock/v1")
def _(copy):
    _payload(copy, lambda v: v["predicate"].update(schema="interlock/v0"))


@case("another kind of statement", "not an in-toto Statement v1")
def _(copy):
    _payload(copy, lambda v: v.update(_type="https://in-toto.io/Statement/v0.1"))


@case("a predicate of somebody else", "is not one of Interlock's")
def _(copy):
    _payload(copy, lambda v: v.update(predicateType="https://slsa.dev/provenance/v1"))


@case("no subject", "no subject")
def _(copy):
    _payload(copy, lambda v: v.update(subject=[]))


@case("a subject that the body does not imply", "subjects do not follow from what it says")
def _(copy):
    seq = last(copy, "verdict")
    statement = replace(
        parse_statement(open_envelope(copy.envelopes()[seq]).payload), subjects={"verdict": OTHER}
    )
    copy.rewrite([*copy.envelopes()[:seq], seal(statement.encode(), copy.site.services["gate"])])


@case("fields missing in the body", "missing 1 required|required positional")
def _(copy):
    seq = last(copy, "verdict")
    statement = parse_statement(open_envelope(copy.envelopes()[seq]).payload)
    body = {name: value for name, value in statement.body.items() if name != "kind"}
    copy.rewrite(
        [*copy.envelopes()[:seq], seal(replace(statement, body=body).encode(), copy.site.services["gate"])]
    )


# --- tree and checkpoints ---------------------------------------------------------------------------


@case("a node of the stored tree", "the stored tree does not match the records at 1/0")
def _(copy):
    copy.sql("update nodes set hash = ? where level = 1 and position = 0", bytes(32))


@case("a checkpoint that another key signed", "a checkpoint does not hold")
def _(copy):
    with copy.site.log.read() as snapshot:
        head = Checkpoint(snapshot.origin, snapshot.size, snapshot.root)
    copy.sql(
        "update checkpoints set note = ? where size = ?",
        checkpoint.sign(head, ServiceKey.generate()),
        head.size,
    )


@case("a checkpoint over another root", "has another root than these records")
def _(copy):
    with copy.site.log.read() as snapshot:
        note = checkpoint.sign(Checkpoint(snapshot.origin, 5, "ab" * 32), copy.site.services["log"])
    copy.sql("insert or replace into checkpoints values (5, ?)", note)


@case("a checkpoint of more records than there are", "a checkpoint covers 999 records")
def _(copy):
    note = checkpoint.sign(Checkpoint(copy.site.log.origin, 999, "ab" * 32), copy.site.services["log"])
    copy.sql("insert into checkpoints values (999, ?)", note)


@case("a checkpoint of another log", "a checkpoint does not hold")
def _(copy):
    note = checkpoint.sign(Checkpoint("interlock/other", 5, "ab" * 32), copy.site.services["log"])
    copy.sql("insert or replace into checkpoints values (5, ?)", note)


@case("the newest records under no checkpoint", "covered by no checkpoint")
def _(copy):
    copy.sql("delete from checkpoints where size = (select max(size) from checkpoints)")


# --- who signed -----------------------------------------------------------------------------------------


@case("a verdict signed by the evaluator", "not signed by the gate service")
def _(copy):
    seq = last(copy, "verdict")
    copy.rewrite(copy.remade(seq, lambda s: s, copy.site.services["evaluator"])[: seq + 1])


@case("evidence signed by the learner", "not signed by the evaluator service")
def _(copy):
    seq = last(copy, "evidence")
    copy.rewrite(copy.remade(seq, lambda s: s, copy.site.services["learner"])[: seq + 1])


@case("an approval by a service's key", "not signed by a key of p-ada")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0004", signer=copy.site.services["gate"]))


@case("an approval by a key that nobody knows", "not signed by a key of p-ada")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0004", signer=Human("eve").key))


@case("an approval in the name of a colleague", "not signed by a key of p-ada")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0004", signer=copy.site.people["bo"].key))


@case("an approval by somebody who is not in the roster", "is not in roster")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0004", lambda d: replace(d, person="p-eve")))


@case("an approval in a role that one does not hold", "does not hold the role safety")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0002", lambda d: replace(d, role=Role.SAFETY)))


@case("a decision for another roster", "prepared under roster 9")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", lambda d: replace(d, roster=9)))


@case("a roster by a root of one's own", "signed by 0 of the 1 roots needed")
def _(copy):
    eve = Human("eve", Role.ROOT, Role.OPERATOR)
    roster = copy.site.roster()
    copy.append(copy.site.sealed(replace(roster, people=(*roster.people, eve.entry())), eve.key))


@case("a roster once more", "does not follow")
def _(copy):
    roster = replace(copy.site.roster(), version=1)
    copy.append(copy.site.sealed(roster, copy.site.people["ada"].key, time=format_time(copy.site.clock.time)))


@case("a roster that passes over a version", "does not follow")
def _(copy):
    copy.append(copy.site.sealed(replace(copy.site.roster(), version=7), copy.site.people["ada"].key))


@case("a roster without a root", "needs at least one root")
def _(copy):
    people = tuple(replace(person, roles=(Role.OPERATOR,)) for person in copy.site.roster().people)
    copy.append(copy.site.sealed(replace(copy.site.roster(), people=people), copy.site.people["ada"].key))


@case("one human with two entries", "a person stands twice in the roster")
def _(copy):
    roster = copy.site.roster()
    copy.append(
        copy.site.sealed(
            replace(roster, people=(*roster.people, roster.people[0])), copy.site.people["ada"].key
        )
    )


@case("one key for two people", "a key stands twice in the roster")
def _(copy):
    roster = copy.site.roster()
    twin = replace(roster.people[1], id="p-twin")
    copy.append(copy.site.sealed(replace(roster, people=(*roster.people, twin)), copy.site.people["ada"].key))


# --- what was decided on -----------------------------------------------------------------------------


@case("an approval bound to another artifact", "changed since this was prepared")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", bound(bundle=OTHER)))


@case("an approval replayed to another proposal", "changed since this was prepared")
def _(copy):
    copy.append(
        decision(
            copy, "ada", Action.APPROVE, "P-0002", lambda d: replace(d, target="P-0004", request="P-0004")
        )
    )


@case("an approval of other evidence", "changed since this was prepared")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", bound(evidence=OTHER)))


@case("an approval with the verdict of another proposal", "changed since this was prepared")
def _(copy):
    verdict = copy.site.row("P-0004").verdict_record
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", bound(verdict=verdict)))


@case("an approval under an older policy", "changed since this was prepared")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", bound(policies={"main": str(OTHER)})))


@case("an approval for another roster", "changed since this was prepared")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", bound(roster=9)))


@case("an approval of what was blocked", "there is nothing to approve")
def _(copy):
    binding = lambda d: replace(d, target="P-0003", request="P-0003")  # noqa: E731
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0002", binding))


@case("the same person twice", "has approved already")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0002"))


@case("an approval from where approvals do not count", "not viewed yet")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", lambda d: replace(d, viewed=())))


@case("a promotion without a quorum", "awaiting_approval, not approved")
def _(copy):
    copy.append(promotion(copy, "P-0002"))


@case("a promotion of what was blocked", "is blocked, not approved")
def _(copy):
    copy.append(promotion(copy, "P-0003"))


@case("a promotion of what was promoted", "is promoted, not approved")
def _(copy):
    copy.append(promotion(copy, "P-0001"))


@case("a note that the quorum is complete", "its quorum is not newly complete")
def _(copy):
    copy.append(Transition("P-0004", State.APPROVED, "quorum complete"))


@case("an expiry before its time", "has not expired yet")
def _(copy):
    copy.append(Transition("P-0004", State.EXPIRED, "x"))


@case("a machine record dated back", "the clock went backwards")
def _(copy):
    copy.append(Transition("P-0004", State.EXPIRED, "x"), time="2020-01-01T00:00:00.000000Z")


@case("a champion adopted over the one there is", "has a champion already")
def _(copy):
    adopt = decision(copy, "ada", Action.ADOPT, MODEL, role=Role.ROOT, digest=OTHER, kind="llm")
    copy.append(adopt)


@case("a model adopted by somebody who is no root", "does not hold the role root|only a root")
def _(copy):
    adopt = decision(copy, "cy", Action.ADOPT, "other", role=Role.OPERATOR, digest=OTHER, kind="llm")
    copy.append(adopt)


@case("a waiver of a rule that cannot be waived", "cannot be waived")
def _(copy):
    waiver = Waiver(
        "weights", copy.site.row("P-0003").proposal.bundle, "p-ada", "2027-01-01T00:00:00.000000Z"
    )
    copy.append(decision(copy, "ada", Action.WAIVE, "P-0003", waiver=waiver))


@case("a lift of a halt that is not there", "nothing is halted")
def _(copy):
    copy.append(decision(copy, "ada", Action.RESUME, "workspace"))


# --- what services claim ------------------------------------------------------------------------------


@case("a proposal of another kind than its model", "is a llm, the proposal says lam")
def _(copy):
    made = replace(copy.site.row("P-0004").proposal, id="P-0005", kind=ModelKind.LAM)
    copy.append(made, signer=copy.site.services["learner"])


@case("a proposal from what is no champion", "has another champion than the one this was trained from")
def _(copy):
    made = replace(copy.site.row("P-0004").proposal, id="P-0005", champion=OTHER)
    copy.append(made, signer=copy.site.services["learner"])


@case("a proposal under a number that is taken", "is not the next one")
def _(copy):
    copy.append(replace(copy.site.row("P-0004").proposal, seed=2), signer=copy.site.services["learner"])


@case("a failure of a model that is not there", "there is no model nothing")
def _(copy):
    copy.append(Failure("P-0005", "nothing", "propose", "x", "x", ""))


@case("a failure of what is over", "nothing of it can fail now")
def _(copy):
    copy.append(Failure("P-0001", MODEL, "measure", "x", "x", ""))


@case("a measurement of what was promoted", "cannot be measured")
def _(copy):
    copy.append(Transition("P-0001", State.MEASURING, "x", copy.site.model().attempts + 1))


@case("a measurement that spends nothing", "attempt")
def _(copy):
    copy.append(Transition("P-0004", State.MEASURING, "x", 99))


@case("evidence that nobody measured", "no measurement is under way")
def _(copy):
    copy.append(copy.site.row("P-0004").evidence, signer=copy.site.services["evaluator"])


@case("an expiry of what is blocked", "cannot expire")
def _(copy):
    copy.append(Transition("P-0003", State.EXPIRED, "x"))


@case("a state that nothing leads to", "nothing moves to promoted by itself")
def _(copy):
    copy.append(Transition("P-0004", State.PROMOTED, "x"))


# --- beside the records ------------------------------------------------------------------------------


@case("a champion pointer changed by hand", f"projection models/{MODEL} differs")
def _(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        row = snapshot.tables.get("models", MODEL)
    row["champion"] = str(OTHER)
    copy.sql("update projection set body = ? where \"table\" = 'models'", canonical.encode(row))


@case("policy bytes changed by hand", "projection policies/main differs")
def _(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        row = snapshot.tables.get("policies", "main")
    row["source"]["files"]["main.yaml"] += "\n# laxer"
    copy.sql("update projection set body = ? where \"table\" = 'policies'", canonical.encode(row))


@case("a row that no record made", "is not in the log")
def _(copy):
    copy.sql("insert into projection (\"table\", key, body) values ('waivers', 'R-0099', ?)", b'{"id":"x"}')


@case("a name changed by hand", "is not what that binds")
def _(copy):
    copy.sql("update openings set text = 'Mallory' where text = 'ada'")


@case("the champion's bytes swapped in the store", "damaged")
def _(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        champion = Digest.parse(snapshot.tables.get("models", MODEL)["champion"])
    path = copy.folder / "artifacts" / "blobs" / champion.hex[:2] / champion.hex
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])


def _spoil(copy: Copy, digest: str) -> None:
    path = copy.folder / "artifacts" / "blobs" / Digest.parse(digest).hex[:2] / Digest.parse(digest).hex
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])


@case("the bytes of an adopted base swapped", f"of {MODEL}: ")
def _(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        _spoil(copy, snapshot.tables.get("models", MODEL)["original"])


@case("the bytes of a model that was only proposed swapped", "P-0002: artifact")
def _(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        _spoil(copy, snapshot.tables.get("proposals", "P-0002")["proposal"]["bundle"])


@pytest.mark.parametrize("one", CASES, ids=[one.name for one in CASES])
def test_it_is_refused_for_its_reason(one: Case, copy: Copy):
    one.attack(copy)
    found = copy.verify()
    assert not found.ok, "it passed"
    assert any(part in found.reason for part in one.reason.split("|")), found.reason


# --- cases that need a history of their own ----------------------------------------------------------


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


def test_the_table_covers_what_it_says():
    assert len(CASES) >= 46
    assert len({one.name for one in CASES}) == len(CASES)
