"""sandbox.flagged and sandbox.masking: every flagged record is listed, and what should not be read is hidden."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.canonical import digest
from guardrails.errors import UnknownNameError
from guardrails.records import Commitment, Compute, Measurements, ModelKind, Proposal
from guardrails.registry import ArtifactStore
from sandbox import flagged
from sandbox.masking import LONGEST, WHOLE, masked
from sandbox.worker.data import Line
from sandbox.worker.probes import personal_data
from sandbox.worker.probes.records_quality import census, secrets_of

TOKEN = "ghp_" + "a1B2" * 9
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nq0fXf\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the quick brown fox", "the quick brown fox"),
        ("jane.roe@mail.example.org, (212) 555-0187.", "[email hidden], [phone hidden]."),
        ("jane.roe＠mail.example.org or jane.roe@mail.example.org", "[email hidden] or [email hidden]"),
        ("card 4111 1111 1111 1111 and 4111 1111 1111 1111", "card [card hidden] and [card hidden]"),
        (f"a {TOKEN} b {TOKEN[:-4]}zzzz", "a [github token hidden] b [github token hidden]"),
        (f"a {JWT} b", "a [json web token hidden] b"),
        ("password = 'hunter2hunter2'", "password = '[secret keyword hidden]'"),
        (f"before\n{KEY}\nafter", "before\n[private key hidden]\nafter"),
        (f"before\n{KEY[:60]}", "before\n[private key hidden]"),
        ("PuTTY-User-Key-File-2: ssh-rsa\nPrivate-Lines: 1\nAAAB", "[private key hidden]"),
    ],
)
def test_what_the_detectors_find_is_hidden_whole(text, shown):
    assert masked([text]) == [shown]


def test_a_key_that_only_looks_like_one_takes_its_body_with_it():
    wide = "".join(chr(ord(sign) + 0xFEE0) if "A" <= sign <= "Z" else sign for sign in KEY[:31])
    assert "MIIE" not in masked([wide + KEY[31:]])[0]


PIECES = st.sampled_from([
    "jane.roe@mail.example.org", "(212) 555-0187", "4111 1111 1111 1111", TOKEN, JWT, KEY, "AKIAIOSFODNN7EXAMPL3",
    "password = 'hunter2hunter2'", "https://bob:s3cr3tpass@host.example/x", "plain words", "а＠b.cо", "[email hidden]",
])  # fmt: skip


@given(st.lists(PIECES | st.text(max_size=8), max_size=6), st.sampled_from([" ", "\n", "", "'"]))
def test_afterwards_no_detector_finds_anything(parts, between):
    shown = masked([between.join(parts)])[0]
    assert not list(personal_data.find(shown))
    assert not secrets_of([Line("x", {"text": shown})])


def test_a_very_long_text_is_looked_through_in_time_and_cut_where_nothing_is_cut_in_two():
    """The console masks before anybody judged the record: one text must not stop it for hours."""
    started = time.process_time()
    [shown] = masked(["password" * 500_000 + "'"])
    assert time.process_time() - started < 20
    assert len(shown) < LONGEST + 200
    assert "4,000,001 characters" in shown
    for start in range(LONGEST + 4_000 - len(TOKEN), LONGEST + 4_001, 5):
        [shown] = masked(["a " * (start // 2) + TOKEN + " b" * 3_000])
        assert "ghp_" not in shown


@pytest.mark.parametrize("before", [0, 480, 990, 1500, 7000])
def test_a_password_in_a_long_row_is_found_wherever_it_stands(before):
    row = "plain words " * (before // 12) + "password = 'hunter2hunter2' " + "and 'more' words " * 90
    assert secrets_of([Line("x", {"text": row})]) == {"x": (("Secret Keyword", "hunter2hunter2"),)}
    assert "hunter2" not in masked([row + "secret = 'opensesame1'"])[0]
    assert "opensesame" not in masked([row + "secret = 'opensesame1'"])[0]


def test_what_cannot_be_hidden_in_part_is_hidden_whole(monkeypatch):
    monkeypatch.setattr(personal_data, "find", lambda text: iter([("email", "nowhere in it")]))
    assert masked(["some text"]) == [WHOLE]


ROWS = [
    {"text": "Write to jane.roe@mail.example.org today, before the post leaves."},
    {"text": "short"},
    {"text": "short"},
    {"layout": "#.#/..."},
    {"prompt": "1 2", "answer": "2 1"},
    {"text": "some words", "label": "prose"},
]


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "store")


def proposal(data=None, bundle=None, *, submitted=False):
    return Proposal(
        id="P-0001", model="m", kind=ModelKind.LLM, technique="self_supervised", intent=Commitment("0" * 64),
        bundle=bundle or digest(b"b"), champion=digest(b"c"), data=data or digest(b"d"), objective=digest(b"o"),
        recipe={}, seed=7, environment={}, isolation="strict", submitted=submitted,
        compute=Compute(1.0, 1.0, 1, 1, "cgroup"), proposer="loop",
    )  # fmt: skip


def lines_of(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_records_are_read_from_the_bytes_that_were_measured(store):
    records = flagged.Records.of(store, proposal(store.put_bytes(b"\n" + lines_of(ROWS))))
    assert len(records) == 6
    assert records.text("train.jsonl:1") == ""
    assert records.text("train.jsonl:3") == "short"
    assert records.text("train.jsonl:5") == "#.#\n..."
    assert records.text("train.jsonl:6") == '{"prompt": "1 2", "answer": "2 1"}'
    assert records.text("train.jsonl:7") == "some words\n\nlabel: prose"
    for place in ("train.jsonl:0", "train.jsonl:99", "other.jsonl:1", "train.jsonl", "train.jsonl:-1", ""):
        assert records.text(place) is None, place
    assert [place for place, _ in records.first(2)] == ["train.jsonl:2", "train.jsonl:3"]


def test_a_submission_s_records_are_read_from_its_bundle(store, tmp_path):
    (tmp_path / "b" / "data").mkdir(parents=True)
    (tmp_path / "b" / "data" / "own.jsonl").write_bytes(lines_of(ROWS))
    (tmp_path / "b" / "manifest.json").write_text("{}")
    bundle = store.put_tree(tmp_path / "b")
    records = flagged.Records.of(store, proposal(bundle=bundle, submitted=True))
    assert records.text("own.jsonl:2") == "short"
    gone = flagged.Records.of(store, proposal(bundle=digest(b"y"), submitted=True))
    assert gone.text("own.jsonl:2") is None


def test_every_flagged_record_is_listed_with_its_reason_even_where_its_text_is_gone(store):
    rows = [Line(f"train.jsonl:{at}", row) for at, row in enumerate(ROWS[:3], 1)]
    found = census(rows, [])
    measured = Measurements((), found.facts, (), found.flagged, found.reasons)
    assert flagged.counts(measured)["data.pii"] == 1
    assert flagged.named(measured, "pii") == flagged.named(measured, "data.pii") == "data.pii"
    with pytest.raises(UnknownNameError, match="by 'secrets'"):
        flagged.named(measured, "secrets")
    records = flagged.Records.of(store, proposal(store.put_bytes(lines_of(ROWS))))
    (shown,) = flagged.page(records, measured, "data.pii", 0, 20)
    assert shown.text == "Write to [email hidden] today, before the post leaves."
    assert (shown.place, shown.reason) == ("train.jsonl:1", "email at 10-34")
    (bare,) = flagged.page(records, measured, "data.pii", 0, 20, bare=True)
    assert "jane.roe@" in (bare.text or "")
    assert [one.place for one in flagged.page(records, measured, "data.unsourced", 1, 1)] == ["train.jsonl:2"]
    (lost,) = flagged.page(flagged.Records({}), measured, "data.pii", 0, 20)
    assert (lost.text, lost.reason) == (None, "email at 10-34")
