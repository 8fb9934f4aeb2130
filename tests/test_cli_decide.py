"""Decisions on the command line: what is shown, what is signed, who may, and what it leads to."""

from __future__ import annotations

import fakes
import pytest
from cli_workspace import Cli, copy_of, one_of_each

from guardrails.view import view_of
from ui.wiring import Workspace


@pytest.fixture
def cli(tmp_path_factory, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INTERLOCK_AS", "Ada Byron")
    return Cli(copy_of(one_of_each(tmp_path_factory), tmp_path / "workspace"), capsys)


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
    assert cli.state("P-0001") == "promoted"
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
    assert cli.state("P-0001") == "awaiting_approval"


def test_what_is_blocked_cannot_be_approved(cli):
    before = cli.entries()
    assert cli.signed("approve", "P-0003", "--reason", "please").status == 6
    assert cli.signed("approve", "P-0004", "--reason", "please").status == 6
    assert cli.entries() == before


def test_what_cannot_be_shown_cannot_be_approved(cli):
    with view_of(Workspace(cli.path).log) as view:
        address = view.proposal("P-0001").evidence.measurements
    blob = cli.path / "artifacts" / "blobs" / address.hex[:2] / address.hex
    blob.chmod(0o644)
    blob.write_bytes(b"{}")
    before = cli.entries()
    assert cli.signed("approve", "P-0001", "--reason", "blind").status == 1
    assert cli.entries() == before


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
    before = cli.entries()
    assert cli.signed("reject", "P-0001", "--reason", reason).status == 2
    assert cli.entries() == before


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
    assert cli.state("P-0001") == "rolled_back"
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
    assert cli.state("P-0001") != "promoted"
    cli.ok("resume", "--reason", "it was a false alarm")
    assert cli.signed("resume", "--reason", "again").status == 6


def test_an_approval_given_while_halted_promotes_after_the_resume(cli):
    cli.ok("halt", "--reason", "odd actions")
    cli.signed("approve", "P-0001", "--reason", "clear gain")
    cli.ok("resume", "--reason", "false alarm")
    cli.ok("tick")
    assert cli.state("P-0001") == "promoted"


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
    before = cli.entries()
    assert cli.signed("waiver", "add", *words, "--reason", "x").status == status
    assert cli.entries() == before


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
