"""Looking on the command line: lists, verdicts, pages and the log; what looks changes nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import fakes
import pytest
from cli_workspace import Cli, Made, copy_of, one_of_each

from guardrails.codec import decode_record
from guardrails.view import view_of
from sandbox.worker.data import Line
from sandbox.worker.probes.records_quality import census
from ui.wiring import Workspace


@pytest.fixture
def cli(tmp_path_factory, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INTERLOCK_AS", "Ada Byron")
    return Cli(copy_of(one_of_each(tmp_path_factory), tmp_path / "workspace"), capsys)


def test_what_is_over_says_who_ended_it_and_why(cli):
    assert cli.signed("reject", "P-0002", "--reason", "it repeats itself").status == 0
    assert "rejected by Ada Byron: “it repeats itself”" in " ".join(cli("list").out.split())
    assert "rejected by Ada Byron: “it repeats itself”" in cli("show", "P-0002").out


def test_a_halt_says_in_the_list_who_called_it_and_why_and_is_lifted(cli):
    assert cli.signed("halt", "--reason", "odd actions").status == 0
    assert (
        "Halted by R-0002 of Ada Byron, just now: “odd actions”; `interlock resume` lifts it"
        in cli("list").out
    )
    assert "the halt is lifted" in cli.signed("resume", "--reason", "looked at it").out


def test_a_misspelt_setting_is_refused_before_anything_runs(cli):
    before = cli.entries()
    ran = cli("propose", "toy", "--technique", "self_supervised", "--set", "stpes=3")
    assert ran.status == 2
    assert "self_supervised: stpes: unknown key" in ran.err
    assert "did you mean steps?" in ran.err
    assert cli.entries() == before, "nothing is on record"


def test_a_narrow_terminal_gets_fewer_columns_and_whole_names(cli, monkeypatch):
    wide = cli("explain", "P-0002").out
    assert "Policy line" in wide
    assert "If it fails" in wide
    monkeypatch.setenv("COLUMNS", "78")
    narrow = cli("explain", "P-0002").out
    assert "Policy line" not in narrow
    rules = {
        finding["rule"]
        for finding in cli.ok("explain", "P-0002")["findings"]
        if finding["outcome"] != "skipped"
    }
    table = narrow.split("\n\n")[1]
    assert rules
    assert all(any(line.split()[2:3] == [rule] for line in table.splitlines()) for rule in rules)


def test_list_has_the_contract_s_fields(cli):
    rows = cli.ok("list")
    assert [row["id"] for row in rows] == ["P-0004", "P-0003", "P-0002", "P-0001"]
    fields = {
        "id",
        "model",
        "technique",
        "state",
        "verdict",
        "bundle_digest",
        "champion_digest",
        "created_at",
    }
    assert all(fields <= set(row) for row in rows)
    assert [row["verdict"] for row in rows] == [None, "blocked", "review", "eligible"]


def test_list_filters(cli):
    assert [row["id"] for row in cli.ok("list", "--state", "blocked")] == ["P-0003"]
    assert [row["id"] for row in cli.ok("list", "--limit", "1")] == ["P-0004"]
    assert cli("list", "--model", "nothing").status == 2
    assert cli("list", "--state", "nothing").status == 2


def test_an_empty_list_says_what_to_do_next(tmp_path, capsys):
    cli = Cli(tmp_path / "fresh", capsys)
    assert cli("init").status == 0
    for words, hint in (
        (("list",), "interlock propose"),
        (("list", "--requests"), "rollback"),
        (("log", "show"), "interlock init"),
        (("waiver", "list"), "interlock waiver add"),
        (("policy", "show"), "policy activate"),
        (("operator", "list"), "interlock init"),
        (("roster", "show"), "interlock init"),
        (("loop", "status"), "interlock loop run"),
    ):
        ran = cli(*words)
        assert ran.status == 0
        assert hint in ran.out, words


@pytest.mark.parametrize(("proposal", "status"), [("P-0001", 0), ("P-0002", 5), ("P-0003", 4), ("P-0004", 6)])
def test_the_verdict_is_the_exit_status(cli, proposal, status):
    assert cli("verdict", proposal).status == status
    assert cli("show", proposal).status == 0
    assert cli("explain", proposal).status == 0


def test_the_verdict_has_the_contract_s_fields(cli):
    for words in (("verdict", "P-0002"), ("explain", "P-0002")):
        data = cli.json(*words).data
        assert {"id", "verdict", "policy", "policy_digest", "coverage", "findings"} <= set(data)
        assert (data["verdict"], data["policy"]) == ("review", "main")
        assert data["policy_digest"].startswith("sha256:")
        drift = next(finding for finding in data["findings"] if finding["rule"] == "drift")
        assert (drift["check"], drift["outcome"], drift["severity"]) == ("drift.output_kl", "fail", "review")
        assert drift["lower"] <= drift["observed"] <= drift["upper"]
        assert (drift["limit"], drift["n"], drift["waived"]) == (0.15, 40, False)
        assert drift["source"] == "main.yaml:7"


def test_explain_one_rule(cli):
    data = cli.ok("explain", "P-0002", "--rule", "gain")
    assert [finding["rule"] for finding in data["findings"]] == ["gain"]
    assert cli("explain", "P-0002", "--rule", "nothing").status == 2
    assert cli("explain", "P-0004", "--rule", "gain").status == 2


def test_what_another_policy_would_say_is_not_recorded(cli, tmp_path):
    before = cli.entries()
    tight = tmp_path / "tight.yaml"
    text = fakes.policy(name="tight").files["tight.yaml"].replace("value: 0.15", "value: 0.001")
    tight.write_text(text, encoding="utf-8")
    assert cli("verdict", "P-0001", "--policy", tight).status == 5
    tight.write_text(text.replace("severity: review", "severity: block", 1), encoding="utf-8")
    ran = cli.json("verdict", "P-0001", "--policy", tight)
    assert (ran.status, ran.data["verdict"], ran.data["recorded"]) == (4, "blocked", False)
    assert cli("verdict", "P-0001").status == 0
    assert cli.entries() == before


def test_texts_of_models_cannot_drive_the_terminal(cli):
    for words in (("samples", "P-0001"), ("--quiet", "samples", "P-0001")):
        out = cli(*words).out
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "\u202e" not in out
        assert "[bold]not markup[/]" in out
        assert ":tada:" in out
    assert "\x1b[2J" in cli.ok("samples", "P-0001")["samples"][0]["candidate"]


def test_every_flagged_record_can_be_opened_with_what_was_found_in_it_hidden(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INTERLOCK_AS", "Ada Byron")
    made = Made(tmp_path / "workspace")
    rows = ["Write to jane.roe@mail.example.org \x1b[2J today.", *["again and again"] * 30]
    lines = [Line(f"train.jsonl:{at}", {"text": text}) for at, text in enumerate(rows, 1)]
    found = census(lines, [])
    measured = replace(fakes.PASSING, flagged=found.flagged, reasons=found.reasons)
    made.proposed(measured, data="".join(json.dumps({"text": text}) + "\n" for text in rows).encode())
    made.proposed(fakes.PASSING)
    made.close()
    cli = Cli(made.workspace.path, capsys)

    data = cli.ok("samples", "P-0001", "--flagged", "pii")
    assert data["counts"] == {"data.pii": 1}
    assert data["masked"] is True
    (record,) = data["records"]
    assert record == {
        "check": "data.pii", "place": "train.jsonl:1", "reason": "email at 10-34",
        "text": "Write to [email hidden] \x1b[2J today.",
    }  # fmt: skip
    bare = cli.ok("samples", "P-0001", "--flagged", "data.pii", "--unmasked")
    assert "jane.roe@" in bare["records"][0]["text"]
    out = cli("samples", "P-0001", "--flagged").out
    assert "jane.roe" not in out
    assert "\x1b" not in out
    assert "like train.jsonl:2" in out
    assert "--flagged near_duplicates --from 21" in out
    later = cli.ok("samples", "P-0001", "--flagged", "near_duplicates", "--from", "21")
    assert [one["place"] for one in later["records"]] == [f"train.jsonl:{n}" for n in range(23, 32)]
    assert cli("samples", "P-0001", "--flagged", "secrets").status == 2
    assert "No check flagged" in cli("samples", "P-0002", "--flagged").out
    lost = cli.ok("samples", "P-0001")  # what there was before is as it was
    assert set(lost) == {"id", "samples"}


def test_show_begins_with_what_a_person_needs(cli):
    told = cli("show", "P-0001").out
    places = [
        told.index(part) for part in ("P-0001", "intent", "gain ", "Rules", "Difference to", "Provenance")
    ]
    assert places == sorted(places)
    assert re.search(r"gain +\+[0-9.]+ (share|bits/byte) \[", told)
    signed = cli.signed("approve", "P-0002", "--reason", "once")
    assert signed.status == 0
    told = cli("show", "P-0002").out
    assert (
        told.index("Rules")
        < told.index("Signatures")
        < told.index("Difference to")
        < told.index("Provenance")
    )


# --- the log -----------------------------------------------------------------------------------


def test_log_verify_has_the_contract_s_fields(cli):
    data = cli.ok("log", "verify", "--recompute")
    assert {"ok", "entries", "root", "first_error"} <= set(data)
    assert (data["ok"], data["first_error"], data["recomputed"], data["not_recomputed"]) == (True, None, 3, 0)
    assert data["entries"] == cli.entries()


def test_log_verify_names_the_first_bad_record(cli):
    import sqlite3

    connection = sqlite3.connect(cli.path / "log.db")
    for trigger in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {trigger[0]}")
    envelope = connection.execute("SELECT envelope FROM entries WHERE seq = 4").fetchone()[0]
    connection.execute(
        "UPDATE entries SET envelope = ? WHERE seq = 4", (envelope[:-9] + b"x" + envelope[-8:],)
    )
    connection.commit()
    connection.close()
    ran = cli.json("log", "verify")
    assert (ran.status, ran.data["ok"], ran.data["first_error"]["index"]) == (7, False, 4)
    assert "Record 4" in cli("log", "verify").out


def test_a_destroyed_database_fails_verification(cli):
    (cli.path / "log.db").write_bytes(b"not a database at all" * 400)
    for side in ("log.db-wal", "log.db-shm"):
        (cli.path / side).unlink(missing_ok=True)
    ran = cli.json("log", "verify")
    assert ran.status == 7


def test_pinned_root_key_and_checkpoint(cli, tmp_path):
    root = cli.ok("roster", "show")["people"][0]["public_keys"][0]
    other = cli.ok("roster", "show")["people"][1]["public_keys"][0]
    assert cli("log", "verify", "--root-key", root).status == 0
    assert cli("log", "verify", "--root-key", other).status == 7
    pins = cli.path / "keys" / "roots.pub"
    assert pins.read_text().startswith("#"), (
        "the list of set-up has comments, and is what people keep a copy of"
    )
    assert cli("log", "verify", "--root-key", pins).status == 0
    assert cli("log", "verify", "--root-key", "ssh-ed25519 nonsense").status == 2
    assert cli("log", "verify", "--root-key", tmp_path / "absent").status == 2
    note = tmp_path / "note"
    note.write_text(cli.ok("log", "checkpoint")["checkpoint"], encoding="utf-8")
    cli.ok("halt", "--reason", "one more record")
    assert cli("log", "verify", "--checkpoint", note).status == 0
    note.write_text("nonsense", encoding="utf-8")
    assert cli("log", "verify", "--checkpoint", note).status == 7


def test_proof_and_export(cli, tmp_path):
    from guardrails.decision_log import merkle

    data = cli.ok("log", "proof", "3")
    path = [bytes.fromhex(node) for node in data["path"]]
    merkle.verify_inclusion(
        bytes.fromhex(data["leaf"]), 3, data["entries"], path, bytes.fromhex(data["root"])
    )
    assert cli("log", "proof", "99999").status == 2
    file = tmp_path / "log.jsonl"
    assert cli.ok("log", "export", "--to", file)["entries"] == data["entries"]
    assert len(file.read_text().splitlines()) == data["entries"] + 1
    assert cli("log", "export", "--to", file).status == 2
    assert cli("log", "export", "--to", tmp_path / "no" / "such" / "folder").status == 2


def test_log_show_of_one_thing_and_of_one_record(cli):
    assert {row["about"] for row in cli.ok("log", "show", "P-0002")["records"]} == {"P-0002"}
    record = cli.ok("log", "show", "0")
    assert (record["record"], record["seq"]) == ("roster", 0)
    assert cli("log", "show", "P-9999").status == 2
    assert cli("log", "show", "99999999999999999999999999").status == 2
    from guardrails.records import Roster

    decode_record(Roster, record["body"])


def test_every_command_that_looks_changes_nothing(cli):
    before = cli.ok("log", "checkpoint")
    for words in (
        ("list",), ("list", "--requests"), ("show", "P-0001"), ("explain", "P-0001"), ("samples", "P-0001"),
        ("log", "show"), ("log", "verify"), ("model", "list"), ("model", "show", "toy"), ("roster", "show"),
        ("operator", "list"), ("policy", "show"), ("waiver", "list"), ("config", "show"), ("loop", "status"), ("doctor",),
    ):  # fmt: skip
        ran = cli(*words)
        assert ran.status == 0, (words, ran.err)
        assert ran.out.strip(), words
        named = [word.removeprefix("--") for word in words if word not in ("P-0001", "toy")]
        assert cli.json(*words).answer["kind"] == " ".join(named)
    assert cli.ok("log", "checkpoint") == before


def test_policy_files_that_are_not_in_force_are_mentioned(cli):
    with view_of(Workspace(cli.path).log) as view:
        (row,) = view.policies()
    folder = cli.path / "policies"
    folder.mkdir()
    file = folder / row.source.order[-1]
    file.write_text(row.source.files[row.source.order[-1]], encoding="utf-8")
    apart = [entry for entry in cli.ok("doctor")["checks"] if entry["name"] == "policies"]
    assert not any(str(file) in entry["detail"] for entry in apart), "the control"
    assert str(file) not in cli("list").out
    file.write_text(file.read_text(encoding="utf-8").replace("quorum: 1", "quorum: 2", 1), encoding="utf-8")
    (entry,) = (entry for entry in cli.ok("doctor")["checks"] if entry["name"] == "policies")
    assert entry["outcome"] == "warn"
    assert str(file) in entry["detail"]
    assert str(file) in "".join(cli("list").out.split("\n"))
    assert isinstance(cli.ok("list"), list), "what machines read is as before"


def test_a_log_that_was_dated_ahead_is_mentioned(cli, monkeypatch):
    from datetime import UTC, datetime

    assert not any(entry["name"] == "clock" for entry in cli.ok("doctor")["checks"]), "the control"
    monkeypatch.setattr("guardrails.gate.utc_now", lambda: datetime(2020, 1, 1, tzinfo=UTC))
    (entry,) = (entry for entry in cli.ok("doctor")["checks"] if entry["name"] == "clock")
    assert entry["outcome"] == "warn"
    assert "2020-01-01" in entry["detail"]
    assert "interlock clock confirm" in entry["hint"]
