"""A correction that is erased, revoked or no answer never puts back in force what its author had replaced."""

from __future__ import annotations

import pytest
from cli_workspace import OPERATOR, Cli, copy_of
from fakes import erase
from handed_in import ASKER, Site, forget, question, workspace_that_asks
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from guardrails.canonical import digest
from guardrails.decision_log.keys import PersonKey, person_keyid
from guardrails.decision_log.tables import ERASED_TABLE, MemoryTables
from guardrails.ledger.answers import authors_of, standing
from guardrails.ledger.rows import AnswersRow, write
from guardrails.records import Commitment, Key, Person, Role, Roster
from sandbox.answers.book import Batch, Book, Given, question_digest, question_fields, read_book

PEOPLE = ("p-ann", "p-ben")
QUESTIONS = [(asker, question(f"{asker} {number}")) for asker in ("active", "else") for number in range(2)]
KEYS = {who: (PersonKey.generate(), PersonKey.generate()) for who in PEOPLE}
LINES = [
    {
        "line": "asked", "at": "x", "asker": asker, "champion": "", "salt": "",
        "questions": [question_fields(asked)],
    }
    for asker, asked in QUESTIONS
]  # fmt: skip


@pytest.fixture
def site(folder):
    made = Site(folder / "site")
    yield made
    made.close()


@pytest.fixture
def cli(tmp_path_factory, tmp_path, capsys, monkeypatch) -> Cli:
    monkeypatch.setenv("INTERLOCK_AS", OPERATOR)
    return Cli(copy_of(workspace_that_asks(tmp_path_factory), tmp_path / "workspace"), capsys)


class History:
    """What two people, each with two keys, hand in about one model; what of it is erased; which keys are revoked."""

    def __init__(self) -> None:
        self.tables, self.revoked = MemoryTables(), set[str]()
        self.rows: list[tuple[AnswersRow, tuple[Given, ...]]] = []

    def hand_in(self, who: str, key: int, asker: str, said: dict[int, bool]) -> None:
        """``said``: place of a question among the asker's → whether it is an answer at all."""
        seq = len(self.rows)
        asked = [one for name, one in QUESTIONS if name == asker]
        texts = tuple(
            Given(question_digest("m", asker, asked[place]), who, f"{seq}" if good else "", -1, False, "x")
            for place, good in said.items()
        )
        signer = person_keyid(KEYS[who][key].public)
        name = digest(f"{seq}".encode())
        row = AnswersRow(name, "m", asker, who, signer, len(texts), 0, 1, "x", seq, name)
        write(self.tables, row, name.hex)
        self.rows.append((row, texts))

    def erase(self, place: int) -> None:
        if self.rows:
            name = self.rows[place % len(self.rows)][0].statement.hex
            self.tables.put(ERASED_TABLE, name, {"seq": 99})

    def roster(self) -> Roster:
        people = [
            Person(
                who,
                Commitment("0" * 64),
                (Role.OPERATOR,),
                tuple(Key(one.public, one.public in self.revoked) for one in KEYS[who]),
            )
            for who in PEOPLE
        ]
        return Roster(1, tuple(people), {})

    def book(self) -> Book:
        texts = {row.seq: given for row, given in self.rows}
        told = standing(self.tables, self.roster(), "m")
        return read_book(LINES, [Batch(row, () if why else texts[row.seq], why) for row, why in told], "m")


SAID = st.dictionaries(st.integers(0, 1), st.sampled_from([True, True, False]), min_size=1)
STEPS = st.one_of(
    st.tuples(st.just("hand in"), st.sampled_from(PEOPLE), st.integers(0, 1), st.sampled_from(["active", "else"]), SAID),
    st.tuples(st.just("erase"), st.integers(0, 9)),
    st.tuples(st.just("revoke"), st.sampled_from(PEOPLE), st.integers(0, 1)),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@examples(st.lists(STEPS, max_size=10))
def test_no_history_puts_in_force_what_its_author_replaced(steps):
    history = History()
    for step in steps:
        match step:
            case ("hand in", who, key, asker, said):
                history.hand_in(who, key, asker, said)
            case ("erase", place):
                history.erase(place)
            case ("revoke", who, key):
                history.revoked.add(KEYS[who][key].public)
        last = {(one.person, one.question): one for _, texts in history.rows for one in texts}
        for name, one in history.book().final.items():
            assert one == last[one.person, name]


def test_what_would_be_erased_is_told_as_what_was():
    history = History()
    for asker in ("active", "else", "active"):
        history.hand_in("p-ann", 0, asker, {0: True})
    history.hand_in("p-ben", 0, "active", {1: True})
    last = history.rows[2][0].statement.hex
    would = standing(history.tables, history.roster(), erased={last})
    history.erase(2)
    was = standing(history.tables, history.roster())
    assert [row.seq for row, why in was if why] == [row.seq for row, why in would if why] == [0, 2]
    assert "record 2, handed in after them, may have corrected them" in was[0][1]


def test_what_comes_before_a_correction_that_is_gone_stays_set_aside_until_handed_in_again(site):
    site.desk().ask(ASKER, digest(b"champion"), [question("where?")])
    site.give("bo", "right", "where?")
    site.give("bo", "wrong")
    site.give("bo", "corrected")
    erase(site, (Commitment(site.statements()[-1]),))
    assert forget(site) == 1
    book = site.desk().book()
    assert book.final == {}
    assert [one.answer for one in book.drafts_of("p-bo")] == ["right"], "it can be signed again as it stands"
    row = site.row(site.propose(technique=ASKER))
    assert row.proposal.authors == ()
    site.desk().hand_in(site.gate, site.desk().statements("p-bo"), site.people["bo"].key)
    assert [one.answer for one in site.desk().book().final.values()] == ["right"]
    with site.log.read() as snapshot:
        assert authors_of(snapshot.tables, row.proposal) == ("p-bo",)
    assert site.verify().ok


def test_erasing_a_correction_lists_first_what_it_takes_along(cli):
    first, second = (
        cli.ok("label", "toy", "--answer", f"{question().id}={text}")["records"][0]
        for text in ("wrong", "right")
    )
    ran = cli.signed("--json", "log", "erase", second, "--reason", "asked for")
    assert ran.data["set_aside"] == [first]
    assert f"record {first}: 1 answer of" in ran.err
    assert cli.ok("label", "toy")["open"] == 1
    assert cli.ok("log", "erase", first, "--reason", "asked for")["set_aside"] == [], "the control"
