"""What others hand to us, and what stands beside the records: changed in one point, each refused for that point.

Bundles, proofs, verifier keys, the state of a witness, rows of the database. Each case begins with the control.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from attacked_log import Copy
from fakes import Site
from growing_log import LOG_KEY, NAME, history, trusting_witness

from guardrails import canonical
from guardrails.decision_log import bundle, checkpoint, cosignature, merkle, succession
from guardrails.decision_log.checkpoint import Checkpoint, NoteSignature
from guardrails.decision_log.cosignature import COSIGNER, LOG, VerifierKey
from guardrails.decision_log.envelope import open_envelope, parse_statement
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.proof import MAX_PROOF_CHARACTERS, InclusionProof
from guardrails.decision_log.store import Log
from guardrails.decision_log.tables import MemoryTables
from guardrails.decision_log.witness import Witness
from guardrails.errors import (
    DeniedError,
    LogVerificationError,
    RecordError,
    StorageError,
    UnknownNameError,
    UsageError,
)


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return trusting_witness(tmp_path / "witness")


# --- bundles ---------------------------------------------------------------------------------------


@pytest.fixture
def exported(site: Site, folder: Path) -> Path:
    with site.log.read() as snapshot:
        bundle.write(snapshot, folder / "log.bundle")
    with bundle.opened(folder / "log.bundle"):
        return folder / "log.bundle"


def changed(path: Path, at: int, change) -> Path:
    """The bundle with one line changed; its last line still says how many there are."""
    lines = path.read_bytes().splitlines()
    made = change(lines[at])
    lines[at : at + 1 or None] = made if isinstance(made, list) else [made]
    if at != -1:
        lines[-1] = canonical.encode({"end": len(lines) - 1})
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def edited(**fields):
    return lambda line: canonical.encode({**json.loads(line), **fields})


def opening_with(**fields):
    def change(line: bytes) -> bytes:
        value = json.loads(line)
        return canonical.encode({"opening": {**value["opening"], **fields}})

    return change


SIGNED = "\u2014 w AAAAAAAA\n"


def _cosigned(size: object, line: str = SIGNED) -> object:
    line = canonical.encode({"cosignature": {"line": line, "size": size, "witness": "w"}})
    return lambda last: [line, last]


def _at(path: Path, word: bytes) -> int:
    return next(i for i, line in enumerate(path.read_bytes().splitlines()) if line.startswith(b'{"' + word))


@pytest.mark.parametrize(
    ("where", "change", "reason"),
    [
        (0, edited(more="x"), "a bundle begins with its format"),
        (0, edited(bundle="interlock-bundle/v0"), "a bundle begins with its format"),
        (-1, edited(end=3), "does not end where it says"),
        (1, lambda line: b"[1]", "not an object"),
        (1, lambda line: b'"' + b"x" * (bundle.MAX_LINE_BYTES - 2) + b'"', "the line is too long"),
        (b"opening", lambda line: canonical.encode({"opening": ["salt", "sha256", "text"]}), "an object of texts"),
        (b"opening", opening_with(text=5), "an object of texts"),
        (b"opening", opening_with(more="x"), "an object of texts"),
        (b"checkpoint", lambda line: [line, line], "cannot be laid out as a log"),
        (b"checkpoint", lambda line: [line, *_cosigned("5")(line)[:1]], "not a cosignature as bundles have them"),
    ],
)  # fmt: skip
def test_a_bundle_that_was_changed(exported, where, change, reason):
    at = where if isinstance(where, int) else _at(exported, where)
    with pytest.raises(LogVerificationError, match=reason), bundle.opened(changed(exported, at, change)):
        pass


@pytest.mark.parametrize(
    "line",
    [
        "x", "", SIGNED[:-1], SIGNED + "\nevil\n", "\n" + SIGNED, SIGNED * 2, SIGNED.replace("w", "v"),
        "\u2014 w AAAA\n",
    ],
)  # fmt: skip
def test_what_a_bundle_puts_under_a_checkpoint_is_one_line_of_its_witness(exported, line):
    """Nobody who trusts no witness reads it, but a proof made from the bundle prints it."""
    at = _at(exported, b"checkpoint")
    whole = exported.read_bytes()
    forged = changed(exported, at, lambda last: [last, *_cosigned(1, line)(last)[:1]])
    with pytest.raises(LogVerificationError, match="signature line"), bundle.opened(forged):
        pass
    exported.write_bytes(whole)
    plain = changed(exported, at, lambda last: [last, *_cosigned(1)(last)[:1]])
    with bundle.opened(plain) as log, log.read() as snapshot:
        assert [found[2] for found in snapshot.cosignatures()] == [SIGNED]


def test_a_bundle_that_cannot_be_written_whole_is_not_there(site, folder, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with site.log.read() as snapshot:
        bundle.write(snapshot, folder / "control")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UsageError, match="cannot be written: No space left"):
            bundle.write(snapshot, folder / "log.bundle")
    assert not (folder / "log.bundle").exists()


# --- keys, cosignatures and proofs -----------------------------------------------------------------


def test_a_verifier_key_that_was_changed():
    key = VerifierKey.of(NAME, ServiceKey.generate())
    assert VerifierKey.parse(str(key)) == key
    raw = key.public
    for other in (
        replace(key, name="two words"),
        replace(key, public=raw[:-1]),
        replace(key, public=raw + b"x"),
        replace(key, algorithm=77),
    ):
        with pytest.raises(RecordError, match="not a verifier key"):
            VerifierKey.parse(str(other))
    name, number, encoded = str(key).split("+", 2)
    wrong = f"{int(number, 16) ^ 1:08x}"
    with pytest.raises(RecordError, match="its id should be"):
        VerifierKey.parse(f"{name}+{wrong}+{encoded}")


def test_a_cosignature_of_another_length_or_beyond_all_time():
    key = ServiceKey.generate()
    named = VerifierKey.of(NAME, key, COSIGNER)
    head = Checkpoint("log", 3, "ab" * 32)

    def line(time: int, more: bytes = b"") -> NoteSignature:
        text = cosignature.cosign(head, NAME, key, time)
        blob = base64.b64decode(text.split()[-1])
        return NoteSignature(NAME, blob[:4], blob[4:] + more)

    assert cosignature.read(head, line(5), named).time == 5
    assert cosignature.read(head, line(cosignature.MAX_TIME), named)
    for wrong in (line(5, b"x"), line(cosignature.MAX_TIME + 1)):
        with pytest.raises(LogVerificationError, match="is not well formed"):
            cosignature.read(head, wrong, named)
    short = NoteSignature(NAME, line(5).key_id, line(5).signature[:-1])
    with pytest.raises(LogVerificationError, match="is not well formed"):
        cosignature.read(head, short, named)


def test_a_proof_that_was_changed():
    h = history(5)
    proof = InclusionProof(2, tuple(merkle.inclusion(h.tree.lookup, 2, 5)), h.note(5))
    text = proof.encode()
    assert InclusionProof.parse(text) == proof
    head, blank, note = text.partition("\n\n")
    lines = head.split("\n")
    spelt = lines[2][:-2] + chr(ord(lines[2][-2]) + 1) + "="
    assert base64.b64decode(spelt) == base64.b64decode(lines[2]), "the same bytes, spelt otherwise"
    for change, reason in (
        ([lines[0], lines[1].replace("index", "place"), *lines[2:]], "expected 'index N'"),
        ([*lines[:2], spelt, *lines[3:]], "bad base64"),
        ([*lines[:2], "", *lines[3:]], "no empty line|bad base64|not a checkpoint"),
        ([*lines[:2], "!" * 44, *lines[3:]], "bad base64"),
    ):
        with pytest.raises(RecordError, match=reason):
            InclusionProof.parse("\n".join(change) + blank + note)
    with pytest.raises(RecordError, match="not a proof: too long"):
        InclusionProof.parse(text + "x" * MAX_PROOF_CHARACTERS)


# --- the state of a witness ------------------------------------------------------------------------


def test_a_witness_whose_folder_was_changed(witness: Witness, tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be made"):
        Witness.create(tmp_path / "file" / "witness", NAME)
    with pytest.raises(UsageError, match="is the key of a witness, not of a log"):
        witness.trust(witness.verifier_key)
    other = VerifierKey.of("other.example", ServiceKey.generate(), LOG)
    witness.trust(other)  # the control
    assert witness.add_checkpoint(history(5).request(0, 5)).status == 200
    assert witness.latest(LOG_KEY.name)
    kept = next((tmp_path / "witness" / "logs").glob("*.note"))
    witness._state(other.name).write_bytes(kept.read_bytes())
    with pytest.raises(StorageError, match="is not what this witness wrote"):
        witness.latest(other.name)
    settings = tmp_path / "witness" / "witness.json"
    (tmp_path / "witness" / "witness.json.new").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        witness.trust(LOG_KEY)
    settings.write_text('{"name": "x"}', encoding="utf-8")
    with pytest.raises(StorageError, match="cannot be read"):
        Witness(tmp_path / "witness")


# --- beside the records ----------------------------------------------------------------------------


def test_rows_beside_the_records(site, folder):
    def fresh(name: str) -> Copy:
        made = Copy(site, folder / name)
        assert made.verify().ok
        return made

    time = fresh("time")
    time.sql("update entries set time = '2020-01-01T00:00:00.000000Z' where seq = 2")
    assert time.verify().reason == "the time stored beside it is not the one that it states"
    salt = fresh("salt")
    salt.sql("update openings set salt = 'zz'")
    assert "whose salt is not hexadecimal" in salt.verify().reason


def test_what_a_snapshot_does_not_find(site, folder):
    copy = Copy(site, folder / "copy")
    log = copy.site.log
    with log.read() as snapshot:
        assert snapshot.inclusion_proof(0), "the control"
        with pytest.raises(UnknownNameError, match="no checkpoint of size 999"):
            snapshot.checkpoint(999)
    with sqlite3.connect(folder / "copy" / "log.db") as connection:
        for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            connection.execute(f'drop trigger "{name}"')
        connection.execute("delete from nodes where level = 0 and position = 1")
        connection.execute("delete from checkpoints")
        connection.execute("insert into checkpoints values (1, 'no note')")
    with Log.open(copy.url) as damaged, damaged.read() as snapshot:
        with pytest.raises(LogVerificationError, match="tree node 0/1 is missing"):
            snapshot.inclusion_proof(0)
        with pytest.raises(LogVerificationError, match="checkpoint: not a checkpoint"):
            snapshot.cosigned()
    copy.sql("delete from checkpoints")
    with (
        Log.open(copy.url) as damaged,
        damaged.read() as snapshot,
        pytest.raises(LogVerificationError, match="the log has no checkpoint"),
    ):
        snapshot.checkpoint()


def test_a_tree_head_is_not_signed_when_the_rosters_new_log_key_is_not_here():
    former, named, stranger = (ServiceKey.generate() for _ in range(3))
    tables = MemoryTables()
    tables.put("roster", "current", {"roster": {"services": {"log": named.public_base64}}})
    head = Checkpoint("log", 3, "ab" * 32)
    for successor in (None, stranger):
        with pytest.raises(DeniedError, match="names a log key that is not here"):
            succession.sign(tables, head, former, successor)
    note = succession.sign(tables, head, former, named)  # the control
    checkpoint.verify(note, "log", named.public_base64)


def test_a_record_that_rests_on_other_bytes_than_are_there(site, folder):
    proposal = site.judged()
    copy = Copy(site, folder / "copy")
    assert copy.verify().ok
    seq = copy.find("evidence", proposal=proposal)
    statement = parse_statement(open_envelope(copy.envelopes()[seq]).payload)
    assert statement.references, "the control: it rests on something"
    false = tuple(replace(item, sha256="ab" * 32) for item in statement.references)
    signer = site.services["evaluator"]
    copy.rewrite(copy.remade(seq, lambda s: replace(s, references=false), signer)[: seq + 1])
    found = copy.verify()
    assert (found.index, "it rests on a record" in found.reason) == (seq, True)


def test_an_empty_log_is_founded_by_no_key_that_was_given(folder):
    site = Site(folder / "empty", set_up=False)
    assert site.verify().ok
    given = site.verify(root_key=site.people["ada"].key.public)
    assert given.reason == "the log is empty: the root key that was given founded nothing here"
    site.close()


def test_what_cannot_be_read_or_written_is_named(site: Site, witness: Witness, folder: Path):
    with site.log.read() as snapshot, pytest.raises(UsageError, match="cannot be written: No such file"):
        bundle.write(snapshot, folder / "absent" / "log.bundle")
    assert witness.latest(LOG_KEY.name) == "", "the control: nothing was cosigned yet"
    witness._state(LOG_KEY.name).mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        witness.latest(LOG_KEY.name)
