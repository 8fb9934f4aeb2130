"""The record of what people hand in: who may write it, what it binds, what a proposal owes it, and its end.

The attacker of the first two parts holds the services' keys and the database, and where it says so a person's key.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import shutil
import signal
import subprocess
from dataclasses import replace

import pytest
from attacked_log import Copy, refused
from fakes import MODEL, erase
from fakes import Site as Plain
from handed_in import ASKER, SAID, Site, question

from guardrails.answers import SCHEMA, parse_statement, record_of
from guardrails.canonical import digest, encode, parse
from guardrails.decision_log import sshsig
from guardrails.decision_log.envelope import PAYLOAD_TYPE, pae
from guardrails.errors import (
    DeniedError,
    InterlockError,
    RecordError,
    StaleError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from guardrails.records import Answers, Commitment
from sandbox.answers.desk import Desk
from sandbox.answers.journal import Journal


@pytest.fixture
def site(folder):
    made = Site(folder / "site")
    yield made
    made.close()


# --- who may write it ------------------------------------------------------------------------------


def denied(site: Site, record: Answers, *signers, reason: str, error: type[InterlockError] = DeniedError):
    with pytest.raises(error, match=reason):
        site.put(record, *signers)


def test_a_record_of_answers_is_signed_by_whoever_gave_them(site):
    own, other = site.people["bo"].key, site.people["cy"].key
    denied(site, site.answers(), other, reason="the hand-in is not signed by a key of p-bo")
    denied(site, site.answers(), site.services["learner"], reason="not signed by a key of p-bo")
    denied(site, site.answers(), own, other, reason="not signed by a key of p-bo")
    denied(site, site.answers(person="p-eve"), own, reason="p-eve is not in roster", error=UnknownNameError)
    denied(
        site, site.answers(roster=9), own, reason="prepared under roster 9, 1 is in force", error=StaleError
    )
    site.put(site.answers(), own)  # the control
    site.enrol(revoked=(own.public,))
    denied(site, site.answers(), own, reason="not signed by a key of p-bo that is in force")
    assert site.verify().ok


def test_a_record_of_answers_says_what_can_be(site):
    own = site.people["bo"].key
    denied(site, site.answers(model="nothing"), own, reason="there is no model", error=UnknownNameError)
    for wrong in ({"asker": ""}, {"answers": 0}, {"skipped": 2}, {"skipped": -1}):
        denied(site, site.answers(**wrong), own, reason="an asker is needed", error=RecordError)
    record = site.answers()
    with pytest.raises(DeniedError, match="its subjects do not follow"):
        site.put(record, own, subjects={"statement": digest(b"another")})
    site.put(record, own)  # the control
    denied(site, record, own, reason="handed in already, by record 3")
    denied(site, replace(record, asker="other"), own, reason="handed in already, by record 3")


# --- what a proposal owes it -----------------------------------------------------------------------


def propose(site: Site, *authors: str, **fields) -> str:
    """A proposal whose learner's service says whatever it likes, past the gate."""
    plain = Plain.propose(site, technique="self_supervised")
    made = replace(site.row(plain).proposal, bundle=site.bundle(secrets.token_hex(4)))
    with site.log.read() as snapshot:
        number = sum(entry.statement.record == "proposal" for entry in snapshot.entries()) + 1
    made = replace(made, **{"id": f"P-{number:04}", "technique": ASKER, "authors": authors, **fields})
    site.inject(site.sealed(made, site.services["learner"]))
    return made.id


def test_a_proposal_leaves_out_nobody_whose_answers_count(site):
    propose(site)  # the control: nobody has handed in anything
    site.give("bo")
    with pytest.raises(DeniedError, match="p-bo has handed in answers to active, and is not named"):
        propose(site)
    with pytest.raises(DeniedError, match="p-bo has handed in answers"):
        propose(site, "p-ada")
    propose(site, recipe={"method": "other"})  # another asker's
    assert site.row(propose(site, "p-bo")).proposal.authors == ("p-bo",)
    assert site.verify().ok


def test_a_proposal_names_nobody_who_gave_no_answer(site):
    propose(site, "p-cy")  # a log from before says what it said
    site.desk().ask("else", digest(b"champion"), [question("else?")])
    site.give("cy", prompt="else?")
    site.give("bo", "")
    for author in ("p-cy", "p-bo"):
        with pytest.raises(DeniedError, match=f"{author} is named as an author, and handed in no answer"):
            propose(site, author)
    propose(site)
    assert site.row(propose(site, "p-cy", technique="else")).proposal.authors == ("p-cy",)
    assert site.verify().ok


def test_who_skipped_was_revoked_or_erased_is_nobodys_author(site):
    site.give("bo", "")
    propose(site)
    site.give("bo")
    site.enrol(revoked=(site.people["bo"].key.public,))
    propose(site)
    site.give("cy", "another")
    with pytest.raises(DeniedError, match="p-cy has handed in"):
        propose(site)
    propose(site, "p-cy", "p-bo")  # the control: a model may have been trained on what counts no more
    erase(site, (Commitment(site.statements()[-1]),))
    propose(site)
    assert site.verify().ok


def test_the_gate_adds_whoever_handed_in_while_it_was_trained(site):
    site.give("bo")
    assert site.row(site.propose(technique=ASKER)).proposal.authors == ("p-bo",)
    assert site.row(site.propose()).proposal.authors == ()


def test_of_several_askers_each_has_its_record(site):
    site.desk().ask("else", digest(b"champion"), [question("else?")])
    for prompt in ("who?", "else?"):
        (asked,) = site.desk().book().called(question(prompt).id)
        site.desk().answer("p-bo", asked.digest, prompt)
    handed = site.desk().hand_in(site.gate, site.desk().statements("p-bo"), site.people["bo"].key)
    assert (handed.answers, len(handed.records)) == (2, 2)
    book = site.desk().book()
    assert [one["answer"] for one in book.records_for("else")] == ["else?"]
    assert book.authors_for(ASKER) == book.authors_for("else") == ("p-bo",)


# --- the statement ---------------------------------------------------------------------------------


def changed(data: bytes, **fields) -> bytes:
    return encode({**parse(data), **fields})


def test_what_is_no_statement_is_refused(site):
    good = site.statement("bo")
    assert record_of(site.log.origin, good).person == "p-bo"
    (answer,) = parse_statement(good)["answers"]
    for bad in (
        b"x", b"[]", changed(good, asker=["x"]),
        changed(good, schema="interlock/answers/v1"), changed(good, more=1), changed(good, answers={}),
        changed(good, answers=[1]), changed(good, answers=[{**answer, "skipped": 0}]),
        changed(good, answers=[{**answer, "chosen": True}]), changed(good, answers=[{**answer, "by": "x"}]),
    ):  # fmt: skip
        with pytest.raises(RecordError):
            record_of(site.log.origin, bad)
        with pytest.raises(UsageError, match="no statement of answers"):
            site.desk().hand_in(site.gate, [bad], site.people["bo"].key)
    with pytest.raises(RecordError, match="belongs to another log"):
        record_of("interlock/other", good)
    with pytest.raises(RecordError, match="belongs to another log"):
        site.gate.record_answers([site.statement("bo", log="interlock/other")], site.people["bo"].key)
    assert SCHEMA.encode() in good
    assert "answers" not in site.kinds()


def test_what_a_person_signs_is_what_the_statement_says(site, folder):
    """With their own key: a record that all was skipped, over a statement that holds a text to train on."""
    lie = site.answers(skipped=1)
    site.put(lie, site.people["bo"].key)
    assert site.verify(statements=None).ok
    refused(site.verify(), "the statement says skipped 0, its record 1", 3)
    with pytest.raises(StorageError, match="record 3: what p-bo handed in cannot be read"):
        site.desk().book()


def test_a_statement_that_is_missing_or_altered_is_told_of(site, folder):
    site.give("bo")
    copy = Copy(site, folder / "copy")
    assert copy.verify().ok
    path = copy.store.path_of(digest(site.store.get_bytes(site.answers().statement))).parent.parent
    (address,) = site.statements()
    blob = path / address[:2] / address
    kept = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(kept.replace(SAID.encode(), b"Somebody"))
    refused(copy.verify(), "is damaged", 3)
    blob.unlink()
    refused(copy.verify(), "cannot be read", 3)
    found = copy.verify(statements=None)
    assert found.ok, "without artifacts it is not looked at, which is said"
    assert "1 statements of answers were not read" in found.notes


def test_a_record_that_is_taken_out_of_the_log_is_missed(site, folder):
    site.give("bo")
    site.desk().ask("else", digest(b"champion"), [question("else?")])
    site.give("cy", prompt="else?")
    site.propose(technique=ASKER)
    copy = Copy(site, folder / "copy")
    kept = copy.envelopes()
    copy.rewrite([*kept[:3], *kept[4:]])
    refused(copy.verify(), "p-bo is named as an author, and handed in no answer to active", 4)
    # Without the last such record a log reads like one from before; whoever kept a checkpoint, or has a witness, sees it.
    copy.rewrite([*kept[:3], *kept[5:]])
    assert copy.verify().ok
    with site.log.read() as snapshot:
        refused(copy.verify(known_checkpoint=snapshot.checkpoint(4)), "checkpoint", None)


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="OpenSSH is not installed")
def test_ssh_keygen_verifies_what_a_person_handed_in(site, tmp_path):
    site.give("bo")
    (address,) = site.statements()
    with site.log.read() as snapshot:
        entry = snapshot.entry(3)
    assert json.loads(entry.payload)["subject"] == [{"digest": {"sha256": address}, "name": "statement"}]
    (tmp_path / "sig").write_text(sshsig.armor(entry.signatures[0].signature))
    (tmp_path / "allowed").write_text(
        f'bo namespaces="interlock-decision" {site.people["bo"].key.public}\n'
        f'cy namespaces="interlock-decision" {site.people["cy"].key.public}\n'
    )

    def holds(who: str, payload: bytes) -> bool:
        words = ("-f", "allowed", "-I", who, "-n", "interlock-decision", "-s", "sig")
        ran = subprocess.run(
            ["ssh-keygen", "-Y", "verify", *words], input=pae(PAYLOAD_TYPE, payload), cwd=tmp_path, check=False,
            capture_output=True,
        )  # fmt: skip
        return ran.returncode == 0

    assert holds("bo", entry.payload)
    assert not holds("cy", entry.payload)
    assert not holds("bo", entry.payload.replace(address.encode(), b"0" * 64))


# --- two at once, crashes, stores ------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def anywhere(request, folder):
    url = request.getfixturevalue("postgresql_server").fresh() if request.param == "postgresql" else ""
    made = Site(folder / "site", url)
    yield made
    made.close()


def _race(site: Site, who: str, statements: tuple[bytes, ...], ready, results) -> None:
    gate = site.open()
    desk = Desk(site.folder, MODEL, site.store, gate.log.read)
    ready.wait()
    try:
        results.put((who, desk.hand_in(gate, statements, site.people[who].key).records))
    except InterlockError as error:
        results.put((who, type(error).__name__))


@pytest.mark.parametrize("racers", [("bo", "cy"), ("bo", "bo")])
def test_two_desks_race_and_one_wins(anywhere, racers):
    """Two people with one question, or one person twice."""
    (asked,) = anywhere.desk().book().open()
    for who in set(racers):
        anywhere.desk().answer(anywhere.people[who].id, asked.digest, f"said by {who}")
    statements = {who: anywhere.desk().statements(anywhere.people[who].id) for who in racers}
    anywhere.close()
    context = multiprocessing.get_context("fork")
    ready, results = context.Barrier(2), context.Queue()
    jobs = [
        context.Process(target=_race, args=(anywhere, who, statements[who], ready, results)) for who in racers
    ]
    for job in jobs:
        job.start()
    told = [results.get(timeout=60) for _ in jobs]
    for job in jobs:
        job.join(60)
    assert sorted(str(outcome) for _, outcome in told) == ["(3,)", "StaleError"], told
    (winner,) = [who for who, outcome in told if outcome != "StaleError"]
    assert anywhere.kinds().count("answers") == 1
    book = anywhere.desk().book()
    assert [given.answer for given in book.final.values()] == [f"said by {winner}"]
    assert not any(book.drafts.values())
    assert anywhere.verify().ok


def _killed(site: Site, statements: tuple[bytes, ...], when: str) -> None:
    gate = site.open()
    real = gate.record_answers

    def record(*given):
        if when == "after":
            real(*given)
        else:
            for data in given[0]:
                gate.store.put_bytes(data)
        os.kill(os.getpid(), signal.SIGKILL)

    gate.record_answers = record  # type: ignore[method-assign]
    Desk(site.folder, MODEL, site.store, gate.log.read).hand_in(gate, statements, site.people["bo"].key)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_around_the_record_loses_nothing_and_counts_nothing_twice(anywhere, when):
    (asked,) = anywhere.desk().book().open()
    anywhere.desk().answer("p-bo", asked.digest, SAID)
    statements = anywhere.desk().statements("p-bo")
    anywhere.close()
    job = multiprocessing.get_context("fork").Process(target=_killed, args=(anywhere, statements, when))
    job.start()
    job.join(60)
    assert job.exitcode == -signal.SIGKILL
    book = anywhere.desk().book()
    key = anywhere.people["bo"].key
    if when == "before":
        assert [given.answer for given in book.drafts_of("p-bo")] == [SAID]
        anywhere.desk().hand_in(anywhere.gate, statements, key)
    else:
        assert not book.drafts_of("p-bo")
        with pytest.raises(StaleError):
            anywhere.desk().hand_in(anywhere.gate, statements, key)
    assert [one["answer"] for one in anywhere.desk().book().records_for(ASKER)] == [SAID]
    assert anywhere.kinds().count("answers") == 1
    assert anywhere.verify().ok


def test_a_log_that_cannot_be_written_keeps_the_drafts(site, monkeypatch):
    def full(*_):
        raise StorageError("disk full")

    (asked,) = site.desk().book().open()
    site.desk().answer("p-bo", asked.digest, SAID)
    with monkeypatch.context() as broken:
        broken.setattr(site.gate, "record_answers", full)
        with pytest.raises(StorageError):
            site.desk().hand_in(site.gate, site.desk().statements("p-bo"), site.people["bo"].key)
    assert len(site.desk().book().drafts_of("p-bo")) == 1


def test_what_was_signed_in_a_journal_alone_is_a_draft_again(site):
    (asked,) = site.desk().book().open()
    given = site.desk().answer("p-bo", asked.digest, SAID)
    former = {
        "schema": "interlock/answers/v1", "log": site.log.origin, "model": MODEL, "person": "p-bo", "roster": 1,
        "answers": [given.fields()],
    }  # fmt: skip
    with Journal(site.folder / "labels" / MODEL).writing() as writer:
        writer.append(
            {"line": "signed", "at": "x", "statement": encode(former).decode(), "signature": "AA=="}
        )
    book = site.desk().book()
    assert book.set_aside == [
        "1 answer of p-bo, signed before the log had records of it: drafts again, to be handed in"
    ]
    assert book.open(ASKER)
    site.desk().hand_in(site.gate, site.desk().statements("p-bo"), site.people["bo"].key)
    book = site.desk().book()
    assert (book.set_aside, book.open(ASKER)) == ([], [])
