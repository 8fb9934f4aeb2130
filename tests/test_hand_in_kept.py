"""What people handed in, later: how long it is kept, how it is erased, and who is told of it."""

from __future__ import annotations

import pytest
from attacked_log import refused
from cli_workspace import OPERATOR, SAFETY, Cli, copy_of
from fakes import age, erase
from handed_in import ASKER, SAID, Site, everywhere, forget, question, workspace_that_asks

from guardrails.as_of import as_of, parse_moment
from guardrails.canonical import digest
from guardrails.decision_log import bundle
from guardrails.decision_log.verify import verify_log
from guardrails.errors import RecordError, StorageError
from guardrails.ledger import project
from guardrails.ledger.answers import handed_in
from guardrails.records import Commitment
from guardrails.registry import ArtifactStore
from guardrails.retention import collect
from sandbox.answers.forgetting import erased_and_there, forget_erased
from ui.wiring import Workspace


@pytest.fixture
def site(folder):
    made = Site(folder / "site")
    yield made
    made.close()


@pytest.fixture
def cli(tmp_path_factory, tmp_path, capsys, monkeypatch) -> Cli:
    monkeypatch.setenv("INTERLOCK_AS", OPERATOR)
    return Cli(copy_of(workspace_that_asks(tmp_path_factory), tmp_path / "workspace"), capsys)


# --- keeping and erasing ---------------------------------------------------------------------------


def test_gc_keeps_a_statement_until_a_record_erased_it(site):
    handed = site.give("bo")
    assert handed.records == (3,)
    site.desk().note_used("P-0001", site.desk().book().answers_for(ASKER))
    (address,) = site.statements()
    age(site)
    collect(site.gate, site.clock.text)
    assert site.desk().book().records_for(ASKER)[0]["answer"] == SAID
    assert SAID.encode() in everywhere(site.folder)
    erase(site, (Commitment(address),))
    with site.log.read() as snapshot:
        assert len(erased_and_there(snapshot, site.store)) == 1
        assert any("1 of them are in the artifact store all the same" in note for note in site.verify().notes)
        assert forget_erased(site.folder, snapshot, site.store) == 1
        assert forget_erased(site.folder, snapshot, site.store) == 0
    assert SAID.encode() not in everywhere(site.folder)
    found = site.verify()
    assert found.ok, found
    assert not any("all the same" in note for note in found.notes)
    assert "1 statements of answers were erased, each by a record of the log" in found.notes
    book = site.desk().book()
    assert book.open(ASKER), "the question is open again"
    assert "record 4 erased them" in book.set_aside[0]
    assert book.used == {}
    collect(site.gate, site.clock.text)
    site.give("cy", "something else")
    assert site.desk().book().records_for(ASKER)[0]["answer"] == "something else"


def test_an_erasure_that_was_interrupted_is_finished_later(site, monkeypatch):
    site.give("bo")
    erase(site, (Commitment(site.statements()[0]),))

    def stop(*_):
        raise KeyboardInterrupt

    with site.log.read() as snapshot:
        with monkeypatch.context() as broken:
            broken.setattr(ArtifactStore, "discard", stop)
            with pytest.raises(KeyboardInterrupt):
                forget_erased(site.folder, snapshot, site.store)
        assert SAID.encode() in everywhere(site.folder)
        assert forget_erased(site.folder, snapshot, site.store) == 1
    assert SAID.encode() not in everywhere(site.folder)


def test_nothing_but_a_statement_goes_with_an_erasure(site):
    """Somebody hands in, under their own key, the digest of the champion; the roots erase it."""
    champion = site.model().champion
    site.put(site.answers(statement=champion), site.people["bo"].key)
    erase(site, (Commitment(champion.hex),))
    with site.log.read() as snapshot:
        assert forget_erased(site.folder, snapshot, site.store) == 0
    assert site.store.has(champion)
    assert site.verify().ok


@pytest.mark.parametrize("undone", [False, True])
def test_with_an_answer_goes_what_it_took_the_place_of(site, undone):
    (asked,) = site.desk().book().open()
    site.desk().answer("p-bo", asked.digest, "typed first")
    if undone:
        site.desk().undo("p-bo")
    site.desk().answer("p-cy", asked.digest, "of somebody else")
    site.give("bo")
    site.desk().answer("p-bo", asked.digest, "typed afterwards")
    erase(site, (Commitment(site.statements()[0]),))
    assert forget(site) == 1
    left = everywhere(site.folder)
    assert b"typed first" not in left
    assert SAID.encode() not in left
    book = site.desk().book()
    assert [given.answer for given in book.drafts_of("p-bo")] == ["typed afterwards"]
    assert [given.answer for given in book.drafts_of("p-cy")] == ["of somebody else"], "the control"


def test_a_hand_in_whose_question_is_no_digest_stops_nobody(site):
    answer = {"question": "no digest", "answer": SAID, "chosen": -1, "skipped": False, "at": "now"}
    bad = site.statement("bo", answers=[answer])
    with pytest.raises(RecordError, match="digest"):
        site.gate.record_answers([bad], site.people["bo"].key)
    assert site.desk().book().open(ASKER), "the desk works"
    record = site.answers(statement=site.store.put_bytes(bad))
    site.put(record, site.people["bo"].key)  # past the gate
    refused(site.verify(), "digest", 3)
    with pytest.raises(StorageError, match="record 3: what p-bo handed in cannot be read"):
        site.desk().book()
    erase(site, (Commitment(site.statements()[0]),))
    site.give("cy", "personal")
    erase(site, (Commitment(site.statements()[1]),))
    assert forget(site) == 1
    assert b"personal" not in everywhere(site.folder)
    assert site.verify().ok
    assert site.desk().book().open(ASKER)


# --- telling of it ---------------------------------------------------------------------------------


def test_as_of_and_bundles_know_of_it(site, tmp_path):
    before = site.clock.text
    site.give("bo")
    with site.log.read() as snapshot:
        assert as_of(snapshot, project, parse_moment(before)).answers == []
        ((row, why),) = as_of(snapshot, project, parse_moment("2999-01-01")).answers
        assert (row.person, row.answers, why) == ("p-bo", 1, "")
        bundle.write(snapshot, tmp_path / "log")
    assert SAID.encode() not in (tmp_path / "log").read_bytes()
    with bundle.opened(tmp_path / "log") as log, log.read() as snapshot:
        assert verify_log(snapshot, project, compare_tables=False).ok


def test_on_the_command_line_it_is_told_kept_and_erased(cli, tmp_path):
    (seq,) = cli.ok("--as", SAFETY, "label", "toy", "--answer", f"{question().id}={SAID}")["records"]
    one = cli.ok("log", "show", seq)
    assert (one["record"], one["by"], one["about"]) == ("answers", SAFETY, "toy")
    assert one["summary"] == "hands in 1 answer to active"
    cli.ok("log", "export", "--csv", tmp_path / "log.csv")
    assert f'"answers","toy","{SAFETY}","hands in 1 answer to active"' in (tmp_path / "log.csv").read_text()
    (handed,) = cli.ok("log", "as-of", "2999-01-01")["answers"]
    assert (handed["seq"], handed["person"], handed["asker"]) == (seq, SAFETY, ASKER)
    assert SAFETY in cli("log", "as-of", "2999-01-01").out
    assert any(check["name"] == "answers: toy" for check in cli.json("doctor").data["checks"])
    assert cli.ok("log", "verify")["ok"]
    cli.ok("gc")
    assert cli.ok("log", "erase", "--person", SAFETY, "--reason", "asked for by law")["texts"] == 2
    assert SAID.encode() not in everywhere(cli.path)
    assert cli.ok("log", "verify")["ok"]
    assert cli.ok("label", "toy")["open"] == 1
    told = {check["name"]: check for check in cli.json("doctor").data["checks"]}
    assert "erased them" in told["answers: toy"]["detail"]


def test_a_statement_that_is_lost_stops_what_rests_on_it(cli):
    cli.ok("label", "toy", "--answer", f"{question().id}={SAID}")
    workspace = Workspace(cli.path)
    with workspace.log.read() as snapshot:
        (row,) = handed_in(snapshot.tables, "toy")
    workspace.store.path_of(row.statement).unlink()
    assert cli.json("log", "verify").status == 7
    assert cli("label", "toy").status == 1
    told = {check["name"]: check for check in cli.json("doctor").data["checks"]}
    assert told["answers: toy"]["outcome"] == "fail"
    assert cli("list").status == 0


def test_a_statement_that_is_lost_can_be_erased_and_is_if_it_comes_back(cli):
    (seq,) = cli.ok("label", "toy", "--answer", f"{question().id}={SAID}")["records"]
    workspace = Workspace(cli.path)
    with workspace.log.read() as snapshot:
        (row,) = handed_in(snapshot.tables, "toy")
    kept = workspace.store.get_bytes(row.statement)
    workspace.store.path_of(row.statement).unlink()
    assert cli("label", "toy").status == 1
    assert cli.ok("log", "erase", seq, "--reason", "lost")["texts"] == 1
    assert cli.ok("log", "verify")["ok"]
    assert cli.ok("label", "toy")["open"] == 1
    workspace.store.put_bytes(kept)
    told = {check["name"] for check in cli.json("doctor").data["checks"]}
    assert "erased answers" in told
    cli.ok("gc")
    assert SAID.encode() not in everywhere(cli.path)


def test_a_report_tells_of_the_answers_that_a_proposal_could_learn_from(site):
    from guardrails.view import view_of
    from ui.presenters.report import report_fields
    from ui.presenters.report_page import page

    site.give("bo")
    site.desk().ask("else", digest(b"champion"), [question("else?")])
    site.give("cy", prompt="else?")
    proposal = site.propose(technique=ASKER)
    with view_of(site.log) as view:
        data = report_fields(view, proposal)
    assert [(one["record"], one["by"]) for one in data["records"]] == [
        ("answers", "bo"),
        ("proposal", "learner"),
    ]
    assert "| Answers by | bo |" in page(data)
