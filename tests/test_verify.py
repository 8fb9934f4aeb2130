"""guardrails.decision_log.verify: each way of tampering is refused, and for its own reason.

Each case begins with the control: the untampered copy verifies.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from fakes import BLOCKED, BROKEN, MODEL, REVIEWABLE, Human, Site, measurements, memory_folder, policy, verify
from hypothesis import given
from hypothesis import strategies as st

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.decision_log import checkpoint, succession
from guardrails.decision_log.envelope import Reference, format_time, open_envelope, parse_statement, seal
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.merkle import leaf_hash
from guardrails.decision_log.scratch import Leaves, Scratch
from guardrails.decision_log.store import Log
from guardrails.decision_log.verify import _check_all, _place_check
from guardrails.errors import LogVerificationError
from guardrails.ledger import project
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
    Waiver,
    open_text,
)
from guardrails.registry import ArtifactStore


@pytest.fixture(scope="module")
def history():
    """A site with a history that has a bit of everything; never changed by a test."""
    folder = memory_folder()
    site = Site(folder / "site")
    promoted = site.promoted("first")
    review = site.judged(REVIEWABLE, "second")
    site.decide("cy", Action.WITHDRAW, site.judged())
    blocked = site.judged(BLOCKED)
    until = format_time(site.clock.time.replace(year=2027))
    waiver = Waiver("pii", site.row(blocked).proposal.bundle, "p-ada", until)
    for who in ("ada", "bo"):
        site.decide(who, Action.WAIVE, blocked, waiver=waiver)
    site.gate.tick()
    site.decide("di", Action.HALT, "workspace")
    site.decide("ada", Action.RESUME, "workspace")
    site.judged(BROKEN)
    site.approve("ada", review)
    site.decide("ada", Action.WITHDRAW, review)
    site.approve("bo", review)
    site.approve("ada", review)
    site.rollback("ada", site.row(promoted).proposal.bundle)
    site.enrol()
    site.judged(measurements(saved=0.08), "third")
    yield site
    site.close()
    shutil.rmtree(folder)


class Copy:
    """A copy of the history to tamper with, by raw SQL and with every key of the services."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        shutil.copytree(site.folder, folder)
        self.folder, self.url = folder, f"sqlite:///{folder / 'log.db'}"
        self.store = ArtifactStore(folder / "artifacts")

    def verify(self, **options):
        return verify(self.url, self.store, **options)

    def sql(self, statement: str, *values) -> None:
        with sqlite3.connect(self.folder / "log.db") as connection:
            # Triggers keep honest programs from it; whoever has the file just drops them.
            for (name,) in connection.execute(
                "select name from sqlite_master where type = 'trigger'"
            ).fetchall():
                connection.execute(f'drop trigger "{name}"')
            changed = connection.execute(statement, values)
            is_change = statement.startswith(("update", "insert", "delete"))
            assert changed.rowcount > 0 or not is_change, "the attack changed nothing"

    def envelopes(self) -> list[bytes]:
        with Log.open(self.url) as log, log.read() as snapshot:
            return [entry.envelope for entry in snapshot.entries()]

    def find(self, record: str, **body) -> int:
        """The position of the last record of a kind with these values in its body."""
        with Log.open(self.url) as log, log.read() as snapshot:
            return [
                entry.seq for entry in snapshot.entries()
                if entry.statement.record == record and body.items() <= dict(entry.statement.body).items()
            ][-1]  # fmt: skip

    def rewrite(self, envelopes: list[bytes], *, signer: ServiceKey | None = None) -> None:
        """Make a new log of these records: tree, checkpoints and tables all fit, the rules were not asked.

        This is the strongest attacker short of stealing people's keys: whoever holds log and services.
        """
        (self.folder / "log.db").unlink()
        for side in ("-wal", "-shm"):
            (self.folder / f"log.db{side}").unlink(missing_ok=True)
        key = signer or self.site.services["log"]

        def lenient(tables, entry):
            try:
                project(tables, entry)
            except Exception:
                return

        # The store refuses to sign with a key that no roster names; an attacker's own program does not.
        unasked = patch.object(succession, "key_in_force", return_value="")
        with Log.create(self.url, self.site.log.origin, key, lenient, prove=False) as log, unasked:
            for envelope in envelopes:
                with log.transaction() as tx:
                    try:
                        tx.append(envelope)
                    except Exception:
                        # References to what is gone would be refused by the store; an attacker writes past it.
                        tx._check = lambda entry: None
                        tx.append(envelope)

    def remade(self, seq: int, change: Callable, signer) -> list[bytes]:
        """All records, the one at a position changed and signed anew; a verdict names its own new digest."""
        envelopes = self.envelopes()
        statement = change(parse_statement(open_envelope(envelopes[seq]).payload))
        if statement.record == "verdict":
            own = canonical.digest(canonical.encode(dict(statement.body)))
            statement = replace(statement, subjects={**statement.subjects, "verdict": own})
        envelopes[seq] = seal(statement.encode(), signer)
        return envelopes

    def append(self, *records, signer=None, time="", references=()) -> None:
        """Append records past every rule, as whoever holds the services' keys can."""
        made = [
            record if isinstance(record, bytes)
            else self.site.sealed(record, signer or self.site.services["gate"], time=time)
            for record in records
        ]  # fmt: skip
        lenient = lambda tables, entry: None  # noqa: E731
        careless = Log.open(self.url, self.site.services["log"], lenient, prove=False)
        with careless as log, log.transaction() as tx:
            for envelope in made:
                tx.append(envelope)


@pytest.fixture
def copy(history, folder):
    made = Copy(history, folder / "copy")
    found = made.verify(root_key=history.people["ada"].key.public)
    assert found.ok, f"the control does not hold: {found}"
    return made


def refused(found, reason: str, index: int | None = -1) -> None:
    """Assert that a verification failed for this reason (at this record)."""
    assert not found.ok
    assert reason in found.reason, found.reason
    if index != -1:
        assert found.index == index, (found.index, found.reason)


# --- the control ---------------------------------------------------------------------------


def test_a_real_history_holds(history):
    found = history.verify(root_key=history.people["ada"].key.public)
    assert found.ok, found
    assert (found.recomputed, found.not_recomputed, found.notes) == (7, 0, [])
    assert found.entries == len(history.kinds())
    with history.log.read() as snapshot:
        assert found.root == snapshot.root
        assert history.verify(known_checkpoint=snapshot.checkpoint()).ok
    assert {"roster", "promotion", "rollback", "verdict", "transition"} <= set(history.kinds())


def test_what_is_not_checked_is_said(history):
    found = history.verify(artifacts=None, recompute=None)
    assert found.ok
    assert any("artifacts were not checked" in note for note in found.notes)
    assert any("no root key" in note for note in found.notes)
    assert found.recomputed == 0


def test_an_empty_log_says_that_nobody_is_there(folder):
    site = Site(folder / "empty", set_up=False)
    found = site.verify()
    assert found.ok
    assert any("empty" in note for note in found.notes)


# --- bytes and tree ------------------------------------------------------------------------


def test_an_edited_payload(copy):
    seq = copy.find("verdict")
    edited = copy.envelopes()[seq].replace(b'"keyid"', b'"keyjd"', 1)
    copy.sql("update entries set envelope = ? where seq = ?", edited, seq)
    refused(copy.verify(), "signatures", seq)


def test_an_edited_payload_that_is_well_formed(copy):
    seq = copy.find("verdict")
    envelope = open_envelope(copy.envelopes()[seq])
    payload = envelope.payload.replace(b'"kind":"eligible"', b'"kind":"blocked"')
    assert payload != envelope.payload
    edited = replace(envelope, payload=payload).encode()
    copy.sql("update entries set envelope = ? where seq = ?", edited, seq)
    refused(copy.verify(), "not those that its leaf hash was made of", seq)
    copy.sql("update entries set leaf = ? where seq = ?", leaf_hash(edited).hex(), seq)
    refused(copy.verify(), "not signed by the gate service", seq)


def test_an_edited_payload_in_a_log_made_anew(copy):
    seq = copy.find("verdict", kind="blocked")
    envelopes = copy.envelopes()
    envelope = open_envelope(envelopes[seq])
    payload = envelope.payload.replace(b'"kind":"blocked"', b'"kind":"eligible"')
    envelopes[seq] = replace(envelope, payload=payload).encode()
    copy.rewrite(envelopes)
    refused(copy.verify(), "not signed by the gate service", seq)


def test_a_deleted_record(copy):
    seq = copy.find("promotion")
    copy.sql("delete from entries where seq = ?", seq)
    refused(copy.verify(), "it is missing", seq)


def test_a_deleted_record_in_a_log_made_anew(copy):
    seq = copy.find("decision", action="approve")
    envelopes = copy.envelopes()
    copy.rewrite(envelopes[:seq] + envelopes[seq + 1 :])
    refused(copy.verify(), f"it rests on a record {seq}", seq)


def test_reordered_records(copy):
    envelopes = copy.envelopes()
    seq = copy.find("evidence")
    envelopes[seq], envelopes[seq - 1] = envelopes[seq - 1], envelopes[seq]
    copy.rewrite(envelopes)
    refused(copy.verify(), "no measurement is under way", seq - 1)


def test_swapped_rows(copy):
    copy.sql("update entries set seq = -1 where seq = 4")
    copy.sql("update entries set seq = 4 where seq = 5")
    copy.sql("update entries set seq = 5 where seq = -1")
    found = copy.verify()
    assert not found.ok
    assert found.index == 4


def test_a_tail_cut_off(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        held, size = snapshot.checkpoint(), snapshot.size
    copy.sql("delete from entries where seq >= ?", size - 2)
    refused(copy.verify(), f"a checkpoint covers {size - 1} records, the log has {size - 2}")
    copy.rewrite(copy.envelopes())
    assert copy.verify().ok, "without a checkpoint kept elsewhere nobody can tell: the documented limit"
    refused(copy.verify(known_checkpoint=held), f"a checkpoint covers {size} records, the log has {size - 2}")


def test_another_history_of_the_same_length(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        held = snapshot.checkpoint()
    envelopes = copy.envelopes()
    copy.rewrite(envelopes)
    assert copy.verify(known_checkpoint=held).ok, "the control: the same records have the same root"
    # The last record is a verdict; the gate could have made another one from the same evidence later.
    last = parse_statement(open_envelope(envelopes[-1]).payload)
    later = replace(last, time=last.time[:-2] + "9Z")
    assert later != last
    copy.rewrite([*envelopes[:-1], seal(later.encode(), copy.site.services["gate"])])
    assert copy.verify().ok, "by itself the other history is as good: the documented limit"
    refused(copy.verify(known_checkpoint=held), "has another root than these records")


def test_a_stored_tree_that_is_not_the_records(copy):
    copy.sql("update nodes set hash = ? where level = 3 and position = 0", b"\1" * 32)
    refused(copy.verify(), "the stored tree does not match the records at 3/0")
    copy.sql("delete from nodes where level = 3 and position = 0")
    refused(copy.verify(), "tree node 3/0 is missing")


def test_a_checkpoint_by_somebody_else(copy):
    copy.rewrite(copy.envelopes(), signer=ServiceKey.generate())
    refused(copy.verify(), "a checkpoint does not hold")


def test_no_checkpoint_for_the_newest_records(copy):
    copy.sql("delete from checkpoints where size = (select max(size) from checkpoints)")
    refused(copy.verify(), "covered by no checkpoint")


def test_a_checkpoint_that_is_stored_for_another_size(copy):
    """Whoever asks for the checkpoint of a size must get that one."""
    copy.sql("delete from checkpoints where size = 1")
    assert copy.verify().ok, "one that is not there says nothing false"
    copy.sql("insert into checkpoints select 1, note from checkpoints where size = 2")
    refused(copy.verify(), "the checkpoint that is stored for 1 records covers 2")


def test_a_checkpoint_of_more_records_than_there_are(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        size = snapshot.size
    more = checkpoint.sign(
        checkpoint.Checkpoint(copy.site.log.origin, size + 1, "00" * 32), copy.site.services["log"]
    )
    copy.sql("insert into checkpoints values (?, ?)", size + 1, more)
    refused(copy.verify(), f"a checkpoint covers {size + 1} records, the log has {size}")


def test_a_record_twice(copy):
    """The database refuses it; with a database that does not, the verifier does."""
    seq, size = copy.find("decision", action="approve"), len(copy.envelopes())
    attack = "insert into entries select ?, leaf, envelope, time from entries where seq = ?"
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        copy.sql(attack, size, seq)
    copy.sql("create table plain as select * from entries")
    copy.sql("drop table entries")
    copy.sql("alter table plain rename to entries")
    assert copy.verify().ok
    copy.sql(attack, size, seq)
    refused(copy.verify(), f"it is record {seq} once more", size)


# --- what stands beside the records --------------------------------------------------------


def test_a_forged_champion_pointer(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        row = snapshot.tables.get("models", MODEL)
    row["champion"] = row["history"][-2]["digest"]
    copy.sql(
        'update projection set body = ? where "table" = ? and key = ?', canonical.encode(row), "models", MODEL
    )
    refused(copy.verify(), f"projection models/{MODEL} differs")


def test_a_forged_row_and_a_missing_one(copy):
    copy.sql(
        'insert into projection ("table", key, body) values (?, ?, ?)', "waivers", "R-0099", b'{"id":"x"}'
    )
    refused(copy.verify(), "projection waivers/R-0099 is not in the log")
    copy.sql("delete from projection where key = 'R-0099'")
    assert copy.verify().ok
    copy.sql("""delete from projection where "table" = 'policies'""")
    refused(copy.verify(), "projection policies/main is missing")


def test_a_halt_lifted_in_the_table(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        row = snapshot.tables.get("workspace", "current")
    copy.sql(
        """update projection set body = ? where "table" = 'workspace'""",
        canonical.encode({**row, "halted_by": "R-1"}),
    )
    refused(copy.verify(), "projection workspace/current differs")


def test_a_changed_opening(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        seq = copy.find("decision", action="approve")
        sha = snapshot.entry(seq).statement.body["reason"]["sha256"]
    copy.sql("update openings set text = 'I never said this' where sha256 = ?", sha)
    refused(copy.verify(), "is not what that binds", seq)
    copy.sql("delete from openings where sha256 = ?", sha)
    assert copy.verify().ok, "an erased text breaks nothing"


def test_changed_artifacts(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        champion = Digest.parse(snapshot.tables.get("models", MODEL)["champion"])
        measured = Digest.parse(snapshot.tables.get("proposals", "P-0001")["evidence"]["measurements"])
    weights = next(e for e in copy.store.tree(champion) if e.path.endswith("safetensors"))
    for address, reason in (
        (weights.sha256, "damaged"),
        (champion.hex, "damaged"),
        (measured.hex, "damaged"),
    ):
        path = copy.folder / "artifacts" / "blobs" / address[:2] / address
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        refused(copy.verify(recompute=None), reason)
        path.unlink()
        refused(copy.verify(recompute=None), "cannot be read")
        path.write_bytes(whole)
        assert copy.verify().ok


def test_evidence_that_was_measured_anew_since_must_be_there_too(folder):
    """Numbers are never removed, so those of every measurement are looked for, not only of the newest."""
    site = Site(folder / "site")
    proposal = site.judged(BLOCKED)
    former = site.row(proposal).evidence.measurements
    site.measure(proposal, measurements(saved=0.07))
    assert site.row(proposal).evidence.measurements != former
    assert site.verify(recompute=None).ok
    first = site.kinds().index("evidence")
    path = site.store.path_of(former)
    whole = path.read_bytes()
    path.unlink()
    refused(site.verify(recompute=None), f"evidence {former}: ", first)
    path.write_bytes(whole[:-1] + b"?")
    refused(site.verify(recompute=None), "damaged", first)
    path.write_bytes(whole)
    assert site.verify(recompute=None).ok
    site.close()


def test_changed_measurements_are_not_recomputed_and_not_passed_over(copy):
    with Log.open(copy.url) as log, log.read() as snapshot:
        measured = Digest.parse(snapshot.tables.get("proposals", "P-0001")["evidence"]["measurements"])
    (copy.folder / "artifacts" / "blobs" / measured.hex[:2] / measured.hex).unlink()
    found = copy.verify(artifacts=None)
    assert found.not_recomputed > 0
    assert any("not recomputed" in note for note in found.notes)


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


# --- the order of what is told ------------------------------------------------------------------


class _Place:
    """Leaves among which some are there already."""

    def __init__(self, repeated: set[int]) -> None:
        self._repeated = repeated

    def add(self, rows: Any) -> dict[int, int]:
        return {seq: 0 for seq, _ in rows if seq in self._repeated}

    def at(self, seq: int) -> None:
        return None


@given(
    st.lists(st.sampled_from(["", "place", "rules", "text", "rules text", "place rules text"]), max_size=8)
)
def test_checks_made_kind_by_kind_tell_what_each_record_in_turn_would_tell_first(flaws):
    def check(kind: str) -> Any:
        def fail(entry: Any) -> None:
            asked.append((kind, entry.seq))
            if kind in flaws[entry.seq]:
                raise LogVerificationError(kind, index=entry.seq)

        return fail

    asked: list[tuple[str, int]] = []
    batch = [
        SimpleNamespace(seq=seq, leaf="00", statement=SimpleNamespace(references=()))
        for seq in range(len(flaws))
    ]
    repeated = {seq for seq, flaw in enumerate(flaws) if "place" in flaw}
    expected = next(
        (
            (seq, kind)
            for seq, flaw in enumerate(flaws)
            for kind in ("place", "rules", "text")
            if kind in flaw
        ),
        None,
    )
    try:
        _check_all(batch, _Place(repeated), check("text"), check("rules"))  # type: ignore[arg-type]
        found = None
    except LogVerificationError as error:
        found = error.index, "place" if "once more" in error.reason else error.reason
    assert found == expected
    last = len(flaws) if expected is None else expected[0] + (expected[1] != "place")
    assert [seq for kind, seq in asked if kind == "rules"] == list(range(last)), (
        "no rule is asked after the flaw"
    )


@pytest.mark.parametrize(
    ("references", "told"),
    [
        ({1: (0, b"0")}, None),
        ({1: (0, b"x")}, "it rests on a record 0 that is not there"),
        ({1: (1, b"1")}, "it rests on a record 1 that is not there"),
        ({1: (2, b"2")}, "it rests on a record 2 that is not there"),
        ({1: (9, b"9")}, "it rests on a record 9 that is not there"),
    ],
)
def test_a_record_rests_on_earlier_ones_only_also_on_those_that_are_looked_at_with_it(references, told):
    scratch = Scratch()
    batch = []
    for seq in range(3):
        cited = [
            Reference(at, sha.hex().rjust(64, "0"))
            for at, sha in ([references[seq]] if seq in references else [])
        ]
        leaf = str(seq).encode().hex().rjust(64, "0")
        batch.append(SimpleNamespace(seq=seq, leaf=leaf, statement=SimpleNamespace(references=cited)))
    check = _place_check(Leaves(scratch), batch)  # type: ignore[arg-type]
    found = []
    for entry in batch:
        try:
            check(entry)
        except LogVerificationError as error:
            found.append((error.index, error.reason))
    assert found == ([(1, told)] if told else [])
    scratch.close()
