"""Erasing names and free text: gone to the last byte, the tree as it was, and whoever asks sees by what record."""

from __future__ import annotations

from pathlib import Path

import pytest
from attacked_log import Copy, refused
from cli_workspace import OPERATOR, SAFETY, Cli, copy_of, workspace_with
from fakes import PASSING, Site, erase, texts_of

from guardrails.decision_log import bundle
from guardrails.decision_log.verify import verify_log
from guardrails.errors import DeniedError, RecordError, StorageError
from guardrails.ledger import project
from guardrails.ledger.erasure import MAX_TEXTS, digest_of_list
from guardrails.records import Action, Commitment, Role
from guardrails.view import ERASED, view_of

SECRET = "Mr Rumpelstiltskin of 7 Spindle Lane"


@pytest.fixture
def spoken(site: Site) -> Site:
    """A site where somebody gave away too much in a reason."""
    site.decide("di", Action.HALT, "workspace", reason=f"{SECRET} called")
    site.decide("ada", Action.RESUME, "workspace")
    return site


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("log.db*"))


def test_the_text_is_gone_and_the_log_holds(spoken: Site):
    chosen = texts_of(spoken, "decision", "halt")
    before = spoken.verify()
    assert SECRET.encode() in bytes_of(spoken.folder)
    assert erase(spoken, chosen).state == "done"
    spoken.log.scrub()
    assert SECRET.encode() not in bytes_of(spoken.folder)
    found = spoken.verify()
    assert found.ok, found.reason
    assert (found.texts.erased, found.texts.missing) == (1, 0)
    assert found.texts.kept == before.texts.kept, "one is gone, the reason of the erasure is new"
    seq = len(spoken.kinds()) - 1
    with view_of(spoken.log) as view:
        assert view.text(chosen[0]) == f"(erased on 2026-03-02 by record {seq})"
        assert spoken.verify().root == view.snapshot.root


def test_no_old_page_and_no_log_of_writes_keeps_it(spoken: Site):
    """Rows that moved between pages leave traces in what is free; many texts, then all of them erased."""
    for i in range(40):
        spoken.decide("di", Action.HALT, "workspace", reason=f"{SECRET} {i} " + "x" * (37 * i % 900))
        spoken.decide("ada", Action.RESUME, "workspace")
    with spoken.log.read() as snapshot:
        chosen = tuple(sorted(
            (opening.commitment() for opening in snapshot.openings() if SECRET in opening.text),
            key=lambda item: item.sha256,
        ))  # fmt: skip
    assert len(chosen) == 41
    erase(spoken, chosen)
    spoken.log.scrub()
    assert b"Rumpelstiltskin" not in bytes_of(spoken.folder)
    assert spoken.verify().texts.erased == 41


def test_a_reader_that_stays_is_told_of(spoken: Site):
    with spoken.open().log.read() as snapshot:
        assert snapshot.size
        erase(spoken, texts_of(spoken, "decision", "halt"))
        with pytest.raises(StorageError, match="old bytes"):
            spoken.log.scrub()
    spoken.log.scrub()
    assert SECRET.encode() not in bytes_of(spoken.folder)


def test_only_roots_erase(spoken: Site):
    chosen = texts_of(spoken, "decision", "halt")
    receipt = erase(spoken, chosen, "cy", role=Role.OPERATOR)
    assert receipt.state == "open", "an operator's signature does not count"
    with view_of(spoken.log) as view:
        assert SECRET in view.text(chosen[0])
    assert erase(spoken, chosen).state == "done"
    assert spoken.verify().ok


@pytest.mark.parametrize(
    "what", ["empty", "unsorted", "twice", "digest", "too many", "no digest of anything"]
)
def test_requests_that_are_not_well_formed(spoken: Site, what: str):
    chosen = (*texts_of(spoken, "decision", "halt"), *texts_of(spoken, "decision", "resume"))
    chosen = tuple(sorted(chosen, key=lambda item: item.sha256))
    changes = {
        "empty": {"chosen": ()}, "unsorted": {"chosen": chosen[::-1]}, "twice": {"chosen": (chosen[0], chosen[0])},
        "digest": {"chosen": chosen, "digest": digest_of_list(chosen[:1])},
        "too many": {"chosen": tuple(Commitment(f"{i:064x}") for i in range(MAX_TEXTS + 1))},
        "no digest of anything": {"chosen": (Commitment("hello"),)},
    }[what]  # fmt: skip
    before = spoken.kinds()
    with pytest.raises(RecordError):
        erase(spoken, **changes)
    assert spoken.kinds() == before
    assert erase(spoken, chosen).state == "done", "the control"


def test_nothing_is_erased_twice_or_brought_back(spoken: Site):
    names = texts_of(spoken, "roster")
    assert erase(spoken, names).state == "done"
    with pytest.raises(DeniedError, match="erased by record"):
        erase(spoken, names[:1])
    spoken.enrol()  # a roster brings all names along
    found = spoken.verify()
    assert found.ok, found.reason
    with view_of(spoken.log) as view:
        assert all(name.startswith("(erased on") for _, name in view.people())
        assert view.name_of("p-ada") == "p-ada"


# --- seen by a verifier ------------------------------------------------------------------------------


def test_a_text_that_was_put_back_is_refused(spoken: Site, folder: Path):
    chosen = texts_of(spoken, "decision", "halt")
    with spoken.log.read() as snapshot:
        opening = snapshot.opening(chosen[0])
    erase(spoken, chosen)
    copy = Copy(spoken, folder / "copy")
    assert copy.verify().ok
    copy.sql("insert into openings values (?, ?, ?)", chosen[0].sha256, opening.salt, opening.text)
    refused(copy.verify(), "erased is there again")


def test_a_text_that_is_gone_without_a_record_is_counted(spoken: Site, folder: Path):
    chosen = texts_of(spoken, "decision", "halt")
    copy = Copy(spoken, folder / "copy")
    copy.sql("delete from openings where sha256 = ?", chosen[0].sha256)
    found = copy.verify()
    assert found.ok
    assert (found.texts.erased, found.texts.missing) == (0, 1)
    with view_of(spoken.log) as view:
        assert view.erasure(chosen[0]) == ERASED


def test_a_bundle_written_before_keeps_the_text_and_one_after_does_not(spoken: Site, tmp_path: Path):
    for name in ("before", "after"):
        with spoken.log.read() as snapshot:
            bundle.write(snapshot, tmp_path / name)
        if name == "before":
            erase(spoken, texts_of(spoken, "decision", "halt"))
    assert SECRET.encode() in (tmp_path / "before").read_bytes()
    assert SECRET.encode() not in (tmp_path / "after").read_bytes()
    with bundle.opened(tmp_path / "after") as log, log.read() as snapshot:
        found = verify_log(snapshot, project, compare_tables=False)
        assert found.ok
        assert found.texts.erased == 1


# --- on the command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return workspace_with(tmp_path_factory, PASSING)


@pytest.fixture
def cli(template, tmp_path, capsys, monkeypatch) -> Cli:
    monkeypatch.setenv("INTERLOCK_AS", OPERATOR)
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


def test_a_person_is_erased_by_name(cli: Cli):
    told = cli.ok("log", "erase", "--person", SAFETY, "--reason", "asked for by law")
    assert (told["state"], told["texts"], told["scrubbed"]) == ("done", 1, True)
    assert SAFETY.encode() not in bytes_of(cli.path)
    names = [person["name"] for person in cli.ok("log", "as-of", "2999-01-01")["roster"]["people"]]
    assert names[1].startswith("(erased on")
    assert cli.ok("log", "verify")["texts"]["erased"] == 1
    assert cli("log", "show").status == 0
    assert cli("log", "erase", "--scrub").status == 0


def test_records_are_erased_by_number(cli: Cli):
    cli.ok("halt", "--reason", SECRET)
    seq = cli.ok("log", "verify")["entries"] - 1
    assert cli.ok("log", "erase", seq, "--reason", "too much was said")["texts"] == 1
    assert SECRET.encode() not in bytes_of(cli.path)
    assert "erased on" in cli("log", "show").out
    assert cli("log", "erase", seq, "--reason", "x").status == 2, "nothing is left there"
    for words in ((), ("--person", SAFETY), ("9999", "--reason", "x"), ("1", "--scrub")):
        assert cli("log", "erase", *words).status == 2, words


def test_a_reviewer_cannot_erase(cli: Cli, monkeypatch):
    monkeypatch.setenv("INTERLOCK_AS", SAFETY)
    ran = cli.signed("--json", "log", "erase", "0", "--reason", "x")
    assert ran.status == 6
    assert "does not hold the role root" in ran.err
    assert cli.ok("log", "verify")["texts"]["erased"] == 0


def relations(server) -> bytes:
    """Every file of the server's tables, once it has written what it had in memory and dropped what is replaced."""
    server.ask("postgres", "CHECKPOINT")
    files = (server.folder / "data" / "base").rglob("*")
    return b"".join(path.read_bytes() for path in files if path.is_file())


def test_on_postgresql_the_tables_hold_it_no_more(postgresql_server, folder):
    site = Site(folder / "site", url=postgresql_server.fresh())
    secret = f"{SECRET} of PostgreSQL"
    site.decide("di", Action.HALT, "workspace", reason=f"{secret} called")
    chosen = texts_of(site, "decision", "halt")
    site.decide("ada", Action.RESUME, "workspace")
    assert secret.encode() in relations(postgresql_server), "the control"
    erase(site, chosen)
    site.log.scrub()
    assert secret.encode() not in relations(postgresql_server)
    found = site.verify()
    assert found.ok, found
    assert (found.texts.erased, found.texts.missing) == (1, 0)
    site.close()
