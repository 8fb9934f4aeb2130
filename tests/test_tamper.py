"""Every way of tampering that an auditor should know of, in a table: what is done, and why it is refused.

The attacker writes the database and holds the keys of the log and of every service; with ``re-signed`` also those of
one person. Each case begins with the control that the untouched copy verifies, and must fail for its own reason.
Here are records, tree, checkpoints, and what stands beside them; ``test_tamper_claims`` goes on with false claims,
``test_tamper_histories`` with what needs a history of its own. What no log alone can show stands in ``test_witnessed_log``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import test_tamper_claims
from attacked_log import OTHER, Case, Copy, Table, raw, untouched
from fakes import MODEL

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.decision_log import checkpoint
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.envelope import open_envelope, parse_statement, seal
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.store import Log

TABLE = Table()
case = TABLE.case


@pytest.fixture
def copy(story, folder):
    return untouched(story, folder / "copy")


# --- records ----------------------------------------------------------------------------------------


@case("a record edited, its hash left", "not those that its leaf hash was made of")
def _(copy):
    seq = copy.find("verdict")
    envelope = open_envelope(copy.envelopes()[seq])
    data = replace(envelope, payload=envelope.payload.replace(b'"eligible"', b'"blocked"')).encode()
    copy.sql("update entries set envelope = ? where seq = ?", data, seq)


@case("a record edited, its hash made anew", "not signed by the gate service")
def _(copy):
    seq = copy.find("verdict", proposal="P-0004")
    payload = open_envelope(copy.envelopes()[seq]).payload.replace(b'"attempt":', b'"attempt":1')
    raw(copy, seq, lambda v: v.update(payload=base64.b64encode(payload).decode()))


@case("a record edited and re-signed by its service, tree made anew", "the engine comes to another verdict")
def _(copy):
    seq = copy.find("verdict", kind="blocked")
    change = lambda s: replace(s, body={**s.body, "kind": "review"})  # noqa: E731
    copy.rewrite(copy.remade(seq, change, copy.site.services["gate"])[: seq + 1])


@case("a record that others rest on deleted", "rests on a record")
def _(copy):
    envelopes = copy.envelopes()
    seq = copy.find("evidence", proposal="P-0004")
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
    seq = copy.find("evidence")
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
    seq = copy.find("verdict")
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
    seq = copy.find("verdict")
    statement = replace(
        parse_statement(open_envelope(copy.envelopes()[seq]).payload), subjects={"verdict": OTHER}
    )
    copy.rewrite([*copy.envelopes()[:seq], seal(statement.encode(), copy.site.services["gate"])])


@case("fields missing in the body", "missing 1 required|required positional")
def _(copy):
    seq = copy.find("verdict")
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


@pytest.mark.parametrize("one", TABLE, ids=[one.name for one in TABLE])
def test_it_is_refused_for_its_reason(one: Case, copy: Copy):
    one.is_refused_on(copy)


def test_the_table_covers_what_it_says():
    cases = [*TABLE, *test_tamper_claims.TABLE]
    assert len(cases) >= 46
    assert len({one.name for one in cases}) == len(cases)
