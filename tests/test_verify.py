"""guardrails.decision_log.verify: tampering with bytes, tree and tables is refused, each way for its own reason.

Each case begins with the control: the untampered copy verifies. ``test_verify_permitted`` is about who signed.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from attacked_log import refused, untouched
from fakes import BLOCKED, MODEL, Site, measurements
from hypothesis import given
from hypothesis import strategies as st

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.decision_log import checkpoint
from guardrails.decision_log.envelope import Reference, open_envelope, parse_statement, seal
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.merkle import leaf_hash
from guardrails.decision_log.scratch import Leaves, Scratch
from guardrails.decision_log.store import Log
from guardrails.decision_log.verify import _check_all, _place_check
from guardrails.errors import LogVerificationError


@pytest.fixture
def copy(history, folder):
    return untouched(history, folder / "copy")


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
