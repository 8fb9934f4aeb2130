"""Decisions on the command line: what is shown, what is signed, who may, and what it leads to."""

from __future__ import annotations

import json
from dataclasses import replace

import fakes
import pytest
from cli_workspace import SAMPLED, Cli, Made, copy_of

from guardrails.codec import decode_record
from guardrails.view import view_of
from sandbox.worker.data import Line
from sandbox.worker.probes.records_quality import census
from ui.wiring import Workspace


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("decide") / "workspace"
    made = Made(path)
    made.proposed(SAMPLED)  # P-0001 eligible
    made.proposed(fakes.REVIEWABLE)  # P-0002 review
    made.proposed(fakes.BLOCKED)  # P-0003 blocked, waivable
    made.proposed(None)  # P-0004 only proposed
    made.close()
    return path


@pytest.fixture
def cli(template, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INTERLOCK_AS", "Ada Byron")
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


def state(cli, proposal):
    return cli.ok("show", proposal)["state"]


def entries(cli):
    return cli.ok("log", "checkpoint")["entries"]


# --- looking -----------------------------------------------------------------------------------


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
    before = entries(cli)
    ran = cli("propose", "toy", "--technique", "self_supervised", "--set", "stpes=3")
    assert ran.status == 2
    assert "self_supervised knows no setting stpes" in ran.err
    assert "did you mean 'steps'?" in ran.err
    assert entries(cli) == before, "nothing is on record"


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
    before = entries(cli)
    tight = tmp_path / "tight.yaml"
    text = fakes.policy(name="tight").files["tight.yaml"].replace("value: 0.15", "value: 0.001")
    tight.write_text(text, encoding="utf-8")
    assert cli("verdict", "P-0001", "--policy", tight).status == 5
    tight.write_text(text.replace("severity: review", "severity: block", 1), encoding="utf-8")
    ran = cli.json("verdict", "P-0001", "--policy", tight)
    assert (ran.status, ran.data["verdict"], ran.data["recorded"]) == (4, "blocked", False)
    assert cli("verdict", "P-0001").status == 0
    assert entries(cli) == before


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


# --- approving ---------------------------------------------------------------------------------


def test_approve_shows_everything_then_promotes(cli):
    ran = cli.signed("approve", "P-0001", "--reason", "clear gain")
    assert ran.status == 0
    told = ran.out
    for part in (
        "Eligible",
        "drift",
        "main.yaml:7",
        "tensors changed",
        "Samples",
        "champion said",
        "Provenance",
        "sha256:",
    ):
        assert part in told, part
    assert told.index("Provenance") < told.index("approved: P-0001")
    assert "promoted" in told
    assert state(cli, "P-0001") == "promoted"
    with view_of(Workspace(cli.path).log) as view:
        assert view.proposal("P-0001").votes[0].viewed == ("findings", "diff", "samples", "provenance")
        assert view.proposal("P-0001").votes[0].surface == "cli"
        assert view.model("toy").champion == view.proposal("P-0001").proposal.bundle


def test_with_json_what_must_be_seen_goes_to_standard_error(cli):
    ran = cli.json("approve", "P-0001", "--reason", "clear gain", "--passphrase-file", cli.passphrase_file)
    assert ran.status == 0
    assert ran.data["state"] == "promoted"
    assert ran.data["viewed"] == ["findings", "diff", "samples", "provenance"]
    assert "tensors changed" in ran.err


def test_a_review_needs_two_people_in_two_roles(cli):
    assert cli.ok("approve", "P-0002", "--reason", "drift is meant")["state"] == "awaiting_approval"
    assert cli.signed("approve", "P-0002", "--reason", "again").status == 6
    data = cli.ok("approve", "P-0002", "--reason", "agreed", "--as", "Maya Osei")
    assert (data["state"], data["role"]) == ("promoted", "safety")


def test_a_missing_role_is_denied(cli):
    ran = cli.signed("approve", "P-0001", "--reason", "fine", "--as", "Maya Osei")
    assert ran.status == 6
    assert "operator" in ran.err
    assert cli.signed("approve", "P-0001", "--reason", "fine", "--role", "auditor").status == 6
    assert state(cli, "P-0001") == "awaiting_approval"


def test_what_is_blocked_cannot_be_approved(cli):
    before = entries(cli)
    assert cli.signed("approve", "P-0003", "--reason", "please").status == 6
    assert cli.signed("approve", "P-0004", "--reason", "please").status == 6
    assert entries(cli) == before


def test_what_cannot_be_shown_cannot_be_approved(cli):
    with view_of(Workspace(cli.path).log) as view:
        address = view.proposal("P-0001").evidence.measurements
    blob = cli.path / "artifacts" / "blobs" / address.hex[:2] / address.hex
    blob.chmod(0o644)
    blob.write_bytes(b"{}")
    before = entries(cli)
    assert cli.signed("approve", "P-0001", "--reason", "blind").status == 1
    assert entries(cli) == before


def test_reject_and_withdraw(cli):
    assert cli.ok("reject", "P-0001", "--reason", "no need")["state"] == "rejected"
    assert cli.signed("approve", "P-0001", "--reason", "after all").status == 6
    cli.ok("approve", "P-0002", "--reason", "drift is meant")
    assert cli.ok("withdraw", "P-0002", "--reason", "on second thought")["state"] == "awaiting_approval"
    assert cli.ok("withdraw", "P-0002", "--reason", "not needed")["state"] == "withdrawn"


def test_a_request_for_change_and_a_comment_stand_on_the_page(cli):
    asked = cli.ok("request-changes", "P-0001", "--reason", "leave item 7 out", "--as", "Maya Osei")
    assert (asked["state"], asked["action"]) == ("awaiting_approval", "request-changes")
    cli.ok("comment", "P-0001", "--text", "item 7 looks copied")
    assert (
        cli.ok("approve", "P-0001", "--reason", "fine by me")["effect"] == "1 person asks for a change first"
    )
    data = cli.ok("show", "P-0001")
    assert [(said["action"], said["reason"]) for said in data["remarks"]] == [
        ("request-changes", "leave item 7 out"), ("comment", "item 7 looks copied"),
    ]  # fmt: skip
    assert data["changes_requested"] == 1
    out = cli("show", "P-0001").out
    assert "Maya Osei asks for a change: leave item 7 out" in out
    assert "item 7 looks copied" in out
    assert "asks for a change of P-0001" in cli("log", "show", "P-0001").out
    assert cli.ok("withdraw", "P-0001", "--reason", "it is out", "--as", "Maya Osei")["state"] == "promoted"


def test_an_approval_for_a_while(cli):
    cli.ok("approve", "P-0002", "--reason", "for tonight", "--valid-for", "8h")
    assert cli.ok("show", "P-0002")["votes"][0]["expires_at"]
    assert cli.signed("approve", "P-0001", "--reason", "x", "--valid-for", "soon").status == 2


def test_requests_are_withdrawn_and_rejected(cli):
    words = ("waiver", "add", "P-0003", "--rule", "pii", "--until", "72h", "--reason", "test data")
    first = cli.ok(*words)["request"]
    assert cli.ok("withdraw", first, "--reason", "a mistake")["state"] == "withdrawn"
    assert cli.signed("approve", first, "--reason", "late", "--as", "Maya Osei").status == 6
    second = cli.ok(*words)["request"]
    assert second != first
    assert cli.ok("reject", second, "--reason", "no", "--as", "Maya Osei")["state"] == "rejected"
    listed = {row["id"]: row["state"] for row in cli.ok("list", "--requests")}
    assert (listed[first], listed[second]) == ("withdrawn", "rejected")
    assert "was rejected" in cli("show", second).out


def test_a_waiver_is_revoked(cli):
    words = ("waiver", "add", "P-0003", "--rule", "pii", "--until", "72h", "--reason", "test data")
    granted = cli.ok(*words)["request"]
    cli.ok("approve", granted, "--reason", "agreed", "--as", "Maya Osei")
    assert cli.ok("waiver", "revoke", granted, "--reason", "not test data")["state"] == "done"
    assert [row["in_force"] for row in cli.ok("waiver", "list")] == [False]
    cli.ok("tick")
    assert cli.json("verdict", "P-0003").data["verdict"] == "blocked"


def test_the_roots_confirm_the_clock(cli):
    assert cli.ok("clock", "confirm", "--reason", "compared with another one")["state"] == "done"
    assert cli.ok("clock", "confirm", "--reason", "no root", "--as", "Maya Osei")["state"] == "open"


@pytest.mark.parametrize("reason", ["", "   ", "x" * 3000])
def test_a_reason_is_needed(cli, reason):
    before = entries(cli)
    assert cli.signed("reject", "P-0001", "--reason", reason).status == 2
    assert entries(cli) == before


def test_lower_case_ids_are_understood(cli):
    assert cli.ok("show", "p-0001")["id"] == "P-0001"


# --- champions ---------------------------------------------------------------------------------


def test_rollback_to_the_previous_champion_or_a_beginning(cli):
    base = cli.ok("model", "show", "toy")["champion_digest"]
    cli.ok("approve", "P-0001", "--reason", "clear gain")
    assert cli.signed("rollback", "toy", "--to", "0" * 64, "--reason", "x").status == 2
    assert cli.signed("rollback", "toy", "--to", "zz", "--reason", "x").status == 2
    receipt = cli.ok("rollback", "toy", "--to", base[7:15], "--reason", "drill")
    assert receipt["state"] == "rolled_back"
    shown = cli.ok("model", "show", "toy")
    assert shown["champion_digest"] == base
    assert {"name", "kind", "champion_digest", "history"} <= set(shown)
    assert [set(reign) >= {"digest", "promoted_at", "proposal"} for reign in shown["history"]] == [True] * 3
    assert state(cli, "P-0001") == "rolled_back"
    # What was rolled back is quarantined, and there is nothing earlier: no way but forward.
    assert cli.signed("rollback", "toy", "--reason", "x").status == 2
    promoted = shown["history"][1]["digest"]
    assert cli.signed("rollback", "toy", "--to", promoted, "--reason", "x").status == 6


def test_pull_writes_a_verified_copy(cli, tmp_path):
    data = cli.ok("pull", "toy", "--to", tmp_path / "deep" / "copy")
    copy = tmp_path / "deep" / "copy"
    assert sorted(path.name for path in copy.iterdir()) == ["config.json", "model.safetensors"]
    assert {entry["path"] for entry in data["files"]} == {"config.json", "model.safetensors"}
    import hashlib

    for entry in data["files"]:
        assert hashlib.sha256((copy / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    assert cli("pull", "toy", "--to", copy).status == 2
    (tmp_path / "empty").mkdir()
    assert cli("pull", "toy", "--to", tmp_path / "empty").status == 0
    assert cli("pull", "nothing", "--to", tmp_path / "x").status == 2
    (tmp_path / "file").write_text("x")
    assert cli("pull", "toy", "--to", tmp_path / "file").status == 2
    assert not list(tmp_path.rglob(".interlock-pull-*"))


def test_pull_refuses_a_champion_that_the_log_does_not_justify(cli, tmp_path):
    import sqlite3

    connection = sqlite3.connect(cli.path / "log.db")
    body = connection.execute("SELECT body FROM projection WHERE \"table\" = 'models'").fetchone()[0]
    with view_of(Workspace(cli.path).log) as view:
        blocked = view.proposal("P-0003").proposal.bundle.hex
        champion = view.model("toy").champion.hex
    forged = body.replace(
        f'"champion":"sha256:{champion}"'.encode(), f'"champion":"sha256:{blocked}"'.encode()
    )
    assert forged != body
    connection.execute("UPDATE projection SET body = ? WHERE \"table\" = 'models'", (forged,))
    connection.commit()
    connection.close()
    assert cli("pull", "toy", "--to", tmp_path / "copy").status == 7
    assert not (tmp_path / "copy").exists()
    verified = cli.json("log", "verify")
    assert (verified.status, verified.data["ok"]) == (7, False)
    assert "models/toy" in verified.data["first_error"]["reason"]
    assert cli.ok("log", "rebuild")["entries"] == verified.data["entries"]
    assert cli("log", "verify").status == 0


def test_a_forged_roster_is_neither_signed_by_nor_in_the_way_of_mending_it(cli):
    import sqlite3

    def forge(old: bytes, new: bytes) -> None:
        connection = sqlite3.connect(cli.path / "log.db")
        (body,) = connection.execute("SELECT body FROM projection WHERE \"table\" = 'roster'").fetchone()
        assert old in body
        forged = (body.replace(old, new),)
        connection.execute("UPDATE projection SET body = ? WHERE \"table\" = 'roster'", forged)
        connection.commit()
        connection.close()

    size = cli.json("log", "verify").data["entries"]
    log_key = Workspace(cli.path).service_keys()["log"].encode()
    for old, new in ((b'"operator"', b'"auditor"'), (log_key, log_key[::-1])):
        forge(old, new)
        refused = cli("reject", "P-0001", "--reason", "no")
        assert refused.status == 7, refused
        assert "projection roster/current differs" in refused.err
        assert "interlock log rebuild" in refused.err
        assert cli.ok("log", "rebuild")["entries"] == size
        assert cli.json("log", "verify").data["ok"], "the control"


def test_pull_refuses_damaged_bytes(cli, tmp_path):
    blob = max(
        (cli.path / "artifacts" / "blobs").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()
    )
    for path in (cli.path / "artifacts" / "blobs").rglob("*"):
        if path.is_file() and path.stat().st_size == blob.stat().st_size:
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert cli("pull", "toy", "--to", tmp_path / "copy").status == 7
    assert not (tmp_path / "copy").exists()


# --- halt, policies, waivers, people -------------------------------------------------------------


def test_halt_holds_until_resume(cli):
    receipt = cli.ok("halt", "--reason", "odd actions")
    assert receipt["state"] == "done"
    assert "Halted by" in cli("list").out
    assert cli.signed("halt", "--reason", "again").status == 6
    assert cli.signed("approve", "P-0001", "--reason", "quick").status in (0, 6)
    assert state(cli, "P-0001") != "promoted"
    cli.ok("resume", "--reason", "it was a false alarm")
    assert cli.signed("resume", "--reason", "again").status == 6


def test_an_approval_given_while_halted_promotes_after_the_resume(cli):
    cli.ok("halt", "--reason", "odd actions")
    cli.signed("approve", "P-0001", "--reason", "clear gain")
    cli.ok("resume", "--reason", "false alarm")
    cli.ok("tick")
    assert state(cli, "P-0001") == "promoted"


def test_activating_a_tighter_policy_needs_one_a_looser_one_two(cli, tmp_path):
    text = fakes.policy().files["main.yaml"]
    file = tmp_path / "main.yaml"
    file.write_text(text.replace("value: 0.15", "value: 0.1"), encoding="utf-8")
    assert cli.ok("policy", "activate", file, "--reason", "tighter")["state"] == "done"
    assert cli.ok("tick")["done"]
    file.write_text(text, encoding="utf-8")
    ran = cli.json("policy", "activate", file, "--reason", "looser", "--passphrase-file", cli.passphrase_file)
    assert (ran.status, ran.data["state"]) == (0, "open")
    assert "loosens" in ran.err
    request = ran.data["request"]
    assert cli.ok("show", request)["missing"]
    assert [row["id"] for row in cli.ok("list", "--requests") if not row["done"]] == [request]
    assert "open request" in cli("list").out
    assert cli.ok("approve", request, "--reason", "agreed", "--as", "Maya Osei")["state"] == "done"
    assert cli.signed("approve", request, "--reason", "late", "--as", "Maya Osei").status == 6


def test_policy_show_and_deactivate(cli):
    shown = cli.ok("policy", "show", "main")
    assert shown["texts"] == fakes.policy().files
    assert cli("policy", "show", "nothing").status == 2
    assert cli.signed("policy", "deactivate", "nothing", "--reason", "x").status == 2
    assert cli.ok("policy", "deactivate", "main", "--reason", "replaced")["state"] == "open"


def test_a_waiver_turns_blocked_into_review(cli):
    words = ("waiver", "add", "P-0003", "--rule", "pii", "--until", "72h", "--reason", "test data")
    receipt = cli.ok(*words)
    assert receipt["state"] == "open"
    assert cli.ok("approve", receipt["request"], "--reason", "agreed", "--as", "Maya Osei")["state"] == "done"
    assert [row["in_force"] for row in cli.ok("waiver", "list")] == [True]
    cli.ok("tick")
    data = cli.json("verdict", "P-0003").data
    assert data["verdict"] == "review"
    assert next(finding for finding in data["findings"] if finding["rule"] == "pii")["waived"]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("P-9999", "--rule", "pii", "--until", "72h"), 2),
        (("P-0003", "--rule", "nothing", "--until", "72h"), 2),
        (("P-0003", "--rule", "pii", "--until", "soon"), 2),
        (("P-0003", "--rule", "pii", "--until", "2001-01-01T00:00:00Z"), 2),
        (("P-0003", "--rule", "pii", "--until", "2099-01-01T00:00:00"), 2),
        (("P-0003", "--rule", "weights", "--until", "72h"), 6),
        (("P-0004", "--rule", "pii", "--until", "72h"), 6),
    ],
)
def test_useless_waivers_are_refused(cli, words, status):
    before = entries(cli)
    assert cli.signed("waiver", "add", *words, "--reason", "x").status == status
    assert entries(cli) == before


def test_adding_a_person(cli, monkeypatch, tmp_path):
    monkeypatch.setattr("ui.cli.people.KDF_ROUNDS", 1)
    new = tmp_path / "new"
    new.write_text("another long secret", encoding="utf-8")
    words = ("operator", "add", "Cy", "--role", "operator", "--role", "root", "--new-passphrase-file", new)
    data = cli.ok(*words)
    assert data["roster"] == 3
    assert {person["name"] for person in cli.ok("operator", "list")} == {"Ada Byron", "Maya Osei", "Cy"}
    assert cli("reject", "P-0001", "--reason", "no", "--as", "Cy", "--passphrase-file", new).status == 0
    assert cli.signed(*words).status == 2  # the name is taken
    assert cli("log", "verify").status == 0


def test_a_refused_person_leaves_no_key(cli, tmp_path):
    keys = sorted((cli.path / "keys" / "people").iterdir())
    short = tmp_path / "short"
    short.write_text("x", encoding="utf-8")
    assert cli.signed("operator", "add", "Cy", "--new-passphrase-file", short).status == 2
    assert cli.signed("operator", "add", " ", "--new-passphrase-file", cli.passphrase_file).status == 2
    assert cli.signed("operator", "add", "Cy", "--as", "Maya Osei").status == 6
    assert sorted((cli.path / "keys" / "people").iterdir()) == keys


# --- the log -----------------------------------------------------------------------------------


def test_log_verify_has_the_contract_s_fields(cli):
    data = cli.ok("log", "verify", "--recompute")
    assert {"ok", "entries", "root", "first_error"} <= set(data)
    assert (data["ok"], data["first_error"], data["recomputed"], data["not_recomputed"]) == (True, None, 3, 0)
    assert data["entries"] == entries(cli)


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
